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

#include "cuda/instructions.h"
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

// ------------------------------------------------------------------------------------ host side

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

// The tests' shim holds both ways to stage and takes the device's; code for a GPU has the one that
// its architecture allows, so no device can be given the wrong one.
#ifdef SLLMBENCH_CUDA_HOST
inline bool stages_async(const Device& device) {
    return device.sm >= 80;
}
#endif

// Calls run(constant<token tiles>, constant<async>).
template <class Run>
cudaError_t with_variant(const Plan& how, [[maybe_unused]] const Device& device, Run run) {
    const auto with_tokens = [&](auto async) {
        if (how.token_tiles == 2) return run(std::integral_constant<int, 2>{}, async);
        if (how.token_tiles == 4) return run(std::integral_constant<int, 4>{}, async);
        return run(std::integral_constant<int, 8>{}, async);
    };
#ifdef SLLMBENCH_CUDA_HOST
    if (!stages_async(device)) return with_tokens(std::false_type{});
#endif
    return with_tokens(std::true_type{});
}

// ---------------------------------------------------------------------------------- device side

#ifdef SLLMBENCH_COPY_ASYNC
inline constexpr bool kHasCopyAsync = true;
#else
inline constexpr bool kHasCopyAsync = false;
#endif

// Stages of `kTokens` tokens into shared memory. Eight threads bring a token's stage, each always
// the same unit of it: global reads are of 128 contiguous bytes and shared writes free of
// conflicts. `position` says where a unit goes in its row. Tokens past m repeat the last one (their
// results are dropped); units past the end of a row are zeros, so what the weights hold there is
// of no matter.
template <int kTokens, int kPitch, bool kAsync>
class Stager {
    static constexpr int kTokensAtOnce = kThreads / kStageUnits;
    static constexpr int kLoads = kTokens / kTokensAtOnce;

   public:
    using Buffer = uint4[kTokens][kPitch];  // kPitch units a token: no read has a bank conflict

    __device__ Stager(const Operands& p, int stage, int position)
        : token_(static_cast<int>(threadIdx.x) / kStageUnits), position_(position) {
        const int unit = stage * kStageUnits + static_cast<int>(threadIdx.x) % kStageUnits;
        units_left_ = p.x_units - unit;
#pragma unroll
        for (int i = 0; i < kLoads; ++i) {
            const int token = static_cast<int>(blockIdx.x) * kTokens + token_ + i * kTokensAtOnce;
            from_[i] = p.x + (token < p.m ? token : p.m - 1) * p.x_stride + unit;
        }
    }

    // Start to bring the next stage, then (`settle`) have it in `to` for all threads. In between,
    // `to` may not be read, any other buffer may.
    __device__ __forceinline__ void start(Buffer& to) {
        const bool inside = units_left_ > 0;
#pragma unroll
        for (int i = 0; i < kLoads; ++i) {
#ifdef SLLMBENCH_COPY_ASYNC
            if constexpr (kAsync)
                copy_async(&to[token_ + i * kTokensAtOnce][position_], from_[i], inside);
#endif
            if constexpr (!kAsync || !kHasCopyAsync)
                held_[i] = inside ? *from_[i] : uint4{0, 0, 0, 0};
            from_[i] += kStageUnits;
        }
        units_left_ -= kStageUnits;
#ifdef SLLMBENCH_COPY_ASYNC
        if constexpr (kAsync) copy_async_commit();
#endif
    }
    __device__ __forceinline__ void settle(Buffer& to) {
#ifdef SLLMBENCH_COPY_ASYNC
        if constexpr (kAsync) copy_async_wait<0>();
#endif
        if constexpr (!kAsync || !kHasCopyAsync) {
#pragma unroll
            for (int i = 0; i < kLoads; ++i) to[token_ + i * kTokensAtOnce][position_] = held_[i];
        }
        __syncthreads();
    }

   private:
    const uint4* from_[kLoads];
    uint4 held_[kLoads];
    int token_, position_, units_left_;
};

// A lane's results of one row block and token tile, rows g (0, 1) and g + 8 (2, 3), tokens 2t and
// 2t + 1, times `factors` of the tokens.
__device__ __forceinline__ void write(const Operands& p, int row_block, int token_tile,
                                      const float (&values)[4]) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        const int row = row_block * kTileRows + lane / 4 + i / 2 * 8;
        const int token = token_tile * 8 + lane % 4 * 2 + i % 2;
        if (row >= p.n || token >= p.m) continue;
        const float value = p.x_scales ? values[i] * p.x_scales[token] : values[i];
        const std::int64_t place = static_cast<std::int64_t>(token) * p.n + row;
        if (p.partials)
            p.partials[static_cast<std::int64_t>(blockIdx.z) * p.m * p.n + place] = value;
        else
            p.y[place] = __float2half_rn(value);
    }
}

}  // namespace sllmbench::cuda::prefill
