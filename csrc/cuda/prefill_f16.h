// The prefill kernel that multiplies in fp16, for 4-bit and for 8-bit codes: mma.m16n8k8 with the
// weights as its 16 rows and the tokens as its 8 columns.
//
// A lane's codes of a stage (64 k) are unpacked half a stage at a time, 4 steps of 8 k, and each
// fragment then meets every token tile, so unpacking is paid once for 64 tokens. The layout gives
// lane 4g + t contiguous k, so its part of B is contiguous too: one 128-bit read of shared memory,
// without ldmatrix, is B for the 4 steps.
//
// Sums. FP32 accumulation halves the rate on Turing, so the MMA adds in fp16, for 128 k at most or
// a group if that is shorter; then the sum goes into float32, times the group's scale. Fragments
// are (code - zero point) / `kRange`, exact in fp16 and below 1 (8 bits with zero points: 3), so a
// sum stays below the sum of 128 |x|: only activations that add up to 65504 in 128 k could
// overflow. At most 16 roundings, each of half a unit in the last place of fp16 (one unit where the
// hardware truncates), meet a value; float32 adds nothing to speak of.
#pragma once

#include "cuda/prefill_streams.h"

namespace sllmbench::cuda::prefill {

inline constexpr int kHalfStage = 32;                                                // k
inline constexpr int kStageLength = kStageBytes / static_cast<int>(sizeof(__half));  // k
inline constexpr int kStages = kFoldLength / kStageLength;  // of a turn of the loop
static_assert(kStages == 2, "a buffer each");
inline constexpr int kSteps = kHalfStage / 8;
// Lane 4g + t reads unit 2t or 2t + 1 of token g: eight lanes, two tokens, must meet all 32 banks,
// so the second token's row is shifted by one unit.
inline constexpr int kPitchF16 = kStageUnits + 1;

__device__ __forceinline__ __half2 as_half2(std::uint32_t bits) {
    __half2 pair;
    static_assert(sizeof pair == sizeof bits);
    __builtin_memcpy(&pair, &bits, sizeof pair);
    return pair;
}
__device__ __forceinline__ std::uint32_t as_bits(__half2 pair) {
    std::uint32_t bits;
    __builtin_memcpy(&bits, &pair, sizeof bits);
    return bits;
}
__device__ __forceinline__ std::uint32_t scaled(std::uint32_t pair, std::uint32_t factor,
                                                __half2 offset) {
    return as_bits(__hfma2(as_half2(pair), as_half2(factor), offset));
}

// Codes become halves by their place in the mantissa of 1024, 0x6400: 1024 + code.
struct Codes4 {
    static constexpr int kStageTiles = 1, kSymmetricZero = 8;
    static constexpr float kRange = 16;
    struct Offsets {
        __half2 low, high;  // -(1024 + zero) / 16 and -(1024 + 16 zero) / 256
    };
    static __device__ __forceinline__ Offsets offsets(std::uint32_t zero) {
        const auto low = as_half2(scaled(zero * 0x10001 | 0x64006400, 0xac00ac00, as_half2(0)));
        return {low, __hadd2(low, as_half2(0x53805380))};  // + 60
    }
    // The unit of x for lane t: half 0 takes 2t, half 1 takes 2t + 1.
    static __device__ __forceinline__ int position(int unit) { return unit; }
    // `upper`: 0 for row g, 1 for row g + 8.
    static __device__ __forceinline__ void unpack(const uint4 (&tiles)[kStageTiles], int half,
                                                  int upper, const Offsets& offsets,
                                                  std::uint32_t (&a)[kSteps][2]) {
        const uint4& tile = tiles[0];
        const std::uint32_t word = upper ? (half ? tile.w : tile.z) : (half ? tile.y : tile.x);
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            const std::uint32_t pairs = word >> 8 * i;
            a[2 * i][upper] =  // / 16
                scaled(and_or(pairs, 0x000f000f, 0x64006400), 0x2c002c00, offsets.low);
            a[2 * i + 1][upper] =  // 16 times the code, / 256
                scaled(and_or(pairs, 0x00f000f0, 0x64006400), 0x1c001c00, offsets.high);
        }
    }
};

struct Codes8 {
    static constexpr int kStageTiles = 2, kSymmetricZero = 0;
    static constexpr float kRange = 128;
    struct Offsets {
        __half2 all;  // -(1024 + 128 + zero) / 128
    };
    static __device__ __forceinline__ Offsets offsets(std::uint32_t zero) {
        return {as_half2(scaled(zero * 0x10001 + 0x64806480, 0xa000a000, as_half2(0)))};
    }
    // Half h is tile h, of which lane t takes unit t: laid so that it reads 2t + h, as for 4 bits.
    static __device__ __forceinline__ int position(int unit) { return unit % 4 * 2 + unit / 4; }
    static __device__ __forceinline__ void unpack(const uint4 (&tiles)[kStageTiles], int half,
                                                  int upper, const Offsets& offsets,
                                                  std::uint32_t (&a)[kSteps][2]) {
        const uint4& tile = tiles[half];
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            const std::uint32_t word = upper ? (i ? tile.w : tile.z) : (i ? tile.y : tile.x);
            const std::uint32_t biased = word ^ 0x80808080;  // code + 128
            a[2 * i][upper] =
                scaled(__byte_perm(biased, 0x64646464, 0x4140), 0x20002000, offsets.all);
            a[2 * i + 1][upper] =
                scaled(__byte_perm(biased, 0x64646464, 0x4342), 0x20002000, offsets.all);
        }
    }
};

// total += scales[row] * sums, where sums are two pairs of halves: rows g and g + 8.
__device__ __forceinline__ void add(float (&total)[4], const std::uint32_t (&sums)[2],
                                    const __half (&scales)[2]) {
#pragma unroll
    for (int upper = 0; upper < 2; ++upper) {
        const float scale = __half2float(scales[upper]);
        const float2 pair = __half22float2(as_half2(sums[upper]));
        total[2 * upper] = fmaf(scale, pair.x, total[2 * upper]);
        total[2 * upper + 1] = fmaf(scale, pair.y, total[2 * upper + 1]);
    }
}

// kFold: k after which fp16 sums go into float32; the group, or 128 where that is a whole row.
template <class Codes, int kFold, int kTokenTiles, bool kAsync>
__device__ __forceinline__ void multiply_block_f16(const Operands& p) {
    using Stage = Stager<8 * kTokenTiles, kPitchF16, kAsync>;
    using Weights = WeightStream<Codes::kStageTiles, kStageLength, kFold, Codes::kSymmetricZero>;
    __shared__ typename Stage::Buffer buffers[2];

    const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
    const int first_block = (static_cast<int>(blockIdx.y) * kWarps + warp) * kWarpRowBlocks;
    const int first_fold = static_cast<int>(blockIdx.z) * p.folds_per_split;
    const int end = min(first_fold + p.folds_per_split, p.folds);

    float totals[kWarpRowBlocks][kTokenTiles][4] = {};
    Stage stager(p, first_fold * kStages,
                 Codes::position(static_cast<int>(threadIdx.x) % kStageUnits));
    Weights weights(p, first_block, first_fold * kStages);
    stager.start(buffers[0]);
    auto tiles = weights.load_tiles();
    auto groups = weights.load_groups();
    stager.settle(buffers[0]);

    for (int fold = first_fold; fold < end; ++fold) {
        std::uint32_t sums[kWarpRowBlocks][kTokenTiles][2] = {};
#pragma unroll
        for (int stage = 0; stage < kStages; ++stage) {
            stager.start(buffers[1 - stage]);
            const auto next_tiles = weights.load_tiles();
            const bool last = kFold <= kStageLength || stage == kStages - 1;
            const auto next_groups = last ? weights.load_groups() : groups;
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const int group = kFold == kHalfStage ? half : 0;
                std::uint32_t a[kWarpRowBlocks][kSteps][2];
#pragma unroll
                for (int b = 0; b < kWarpRowBlocks; ++b)
#pragma unroll
                    for (int upper = 0; upper < 2; ++upper)
                        Codes::unpack(tiles.of[b], half, upper,
                                      Codes::offsets(groups.zeros[b][group][upper]), a[b]);
#pragma unroll
                for (int tile = 0; tile < kTokenTiles; ++tile) {
                    const uint4 unit = buffers[stage][8 * tile + lane / 4][lane % 4 * 2 + half];
                    const std::uint32_t steps[kSteps] = {unit.x, unit.y, unit.z, unit.w};
#pragma unroll
                    for (int step = 0; step < kSteps; ++step)
#pragma unroll
                        for (int b = 0; b < kWarpRowBlocks; ++b)
                            mma_m16n8k8(sums[b][tile], a[b][step], steps[step], sums[b][tile]);
                    if (kFold != kHalfStage && !(half == 1 && last)) continue;
#pragma unroll
                    for (int b = 0; b < kWarpRowBlocks; ++b) {
                        add(totals[b][tile], sums[b][tile], groups.scales[b][group]);
                        sums[b][tile][0] = sums[b][tile][1] = 0;
                    }
                }
            }
            tiles = next_tiles;
            groups = next_groups;
            stager.settle(buffers[1 - stage]);
        }
    }

#pragma unroll
    for (int b = 0; b < kWarpRowBlocks; ++b)
#pragma unroll
        for (int tile = 0; tile < kTokenTiles; ++tile) {
#pragma unroll
            for (int i = 0; i < 4; ++i) totals[b][tile][i] *= Codes::kRange;
            write(p, first_block + b, static_cast<int>(blockIdx.x) * kTokenTiles + tile,
                  totals[b][tile]);
        }
}

template <class Codes, int kFold, int kTokenTiles, bool kAsync>
__global__ void __launch_bounds__(kThreads) multiply_f16(const Operands p) {
    if constexpr (kBuilt<kAsync>)
        multiply_block_f16<Codes, kFold, kTokenTiles, kAsync>(p);
    else
        not_built();
}

template <class Codes>
cudaError_t launch_f16(const Product& product, const Device& device, cudaStream_t stream) {
    const Plan how = plan(product, device);
    if (how.gather) {
        auto* const x = static_cast<__half*>(product.workspace);
        if (const cudaError_t status = gather_fp16(product, x, stream); status != cudaSuccess)
            return status;
    }
    const Operands arguments = operands(product, how);
    const std::int64_t group = product.weight.group;
    const cudaError_t status = with_variant(how, device, [&](auto tiles, auto async) {
        const auto run = [&](auto kernel) {
            return launch(kernel, grid(product, how), dim3(kThreads), stream, arguments);
        };
        if (group == 32 && product.weight.k > 32)
            return run(multiply_f16<Codes, 32, tiles(), async()>);
        if (group == 64 && product.weight.k > 64)
            return run(multiply_f16<Codes, 64, tiles(), async()>);
        return run(multiply_f16<Codes, 128, tiles(), async()>);
    });
    return status == cudaSuccess ? add_partials(product, how, stream) : status;
}

}  // namespace sllmbench::cuda::prefill
