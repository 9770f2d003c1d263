// What the prefill kernels share: how a product is cut into blocks, how activations reach shared
// memory, how results leave.
//
// A block multiplies 128 rows of the weight (4 warps x 2 row blocks of 16) with 16, 32 or 64
// tokens. Each warp streams its own weights from global memory into registers; the activations go
// through shared memory, a stage at a time: 128 bytes a token, that is 64 k of fp16 or 128 of int8.
// While a stage is multiplied, the next one is on its way into the other buffer.
//
// Two row blocks a warp, because each read of the activations then feeds twice the MMAs: with one,
// shared memory (64 bytes a clock on Turing) would be as busy as the tensor cores, a 128-bit read
// of a warp and 4 MMAs taking 8 clocks each where four warps share the reads' port.
#pragma once

#include "cuda/matmul.h"

namespace sllmbench::cuda::prefill {

inline constexpr int kWarps = 4;
inline constexpr int kThreads = 32 * kWarps;
inline constexpr int kWarpRowBlocks = 2;
inline constexpr int kBlockRows = kWarps * kWarpRowBlocks * kTileRows;
inline constexpr int kUnitBytes = 16;  // of activations: what one load or copy moves
inline constexpr int kStageUnits = 8;  // of a token
inline constexpr int kStageBytes = kStageUnits * kUnitBytes;
// k of a block's share is cut here, so that a group of 128 never falls into two.
inline constexpr int kFoldLength = 128;

// What a kernel is given. Token rows are `x_stride` units apart, `x_units` of each are there.
struct Operands {
    const uint4* tiles;
    const __half* scales;
    const std::uint8_t* zeros;
    const uint4* x;
    const float* x_scales;  // [m], or null: fp16
    __half* y;
    float* partials;  // [splits][m][n], or null: y is written at once
    std::int64_t x_stride;
    int x_units, m, n, n_tiles, groups, folds_per_split, folds;
};

// How a product is run: the parts of its workspace, and the shares that k is cut into where the
// blocks of rows and tokens alone would leave multiprocessors idle.
struct Plan {
    bool gather;  // into the workspace first
    int token_tiles;
    std::int64_t x_stride_bytes, splits, folds_per_split;
    std::int64_t x_bytes, scales_bytes, partials_bytes;  // of the workspace, in this order
    std::int64_t workspace_bytes() const { return x_bytes + scales_bytes + partials_bytes; }
};
Plan plan(const Product&, const Device&);
Operands operands(const Product&, const Plan&);
const char* refusal(const Product&, const Device&);  // what holds for all three
cudaError_t add_partials(const Product&, const Plan&, cudaStream_t);

inline dim3 grid(const Product& product, const Plan& how) {
    return dim3(static_cast<unsigned>(divide_up(product.m, 8 * how.token_tiles)),
                static_cast<unsigned>(divide_up(product.weight.n, kBlockRows)),
                static_cast<unsigned>(how.splits));
}

// Calls run(constant<token tiles>, constant<stages by copy_async>).
template <class Run>
cudaError_t with_variant(const Plan& how, const Device& device, Run run) {
    const auto with_tokens = [&](auto async) {
        if (how.token_tiles == 2) return run(std::integral_constant<int, 2>{}, async);
        if (how.token_tiles == 4) return run(std::integral_constant<int, 4>{}, async);
        return run(std::integral_constant<int, 8>{}, async);
    };
    return device.sm >= 80 ? with_tokens(std::true_type{}) : with_tokens(std::false_type{});
}

}  // namespace sllmbench::cuda::prefill
