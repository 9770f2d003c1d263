// The prefill kernel that multiplies in fp16, for 4-bit and for 8-bit codes: mma.m16n8k8 with the
// weights as its 16 rows and the tokens as its 8 columns.
//
// A lane's codes of a stage (64 k) are unpacked half a stage at a time, 4 steps of 8 k, and each
// fragment then meets every token tile, so unpacking is paid once for 64 tokens. The layout gives
// lane 4g + t contiguous k, so its part of B is contiguous too: one 128-bit read of shared memory,
// without ldmatrix, is B for the 4 steps.
//
// FP32 accumulation halves the rate on Turing, so the MMA adds in fp16, for 128 k at most; then the
// sum goes into float32. At most 16 roundings meet a value, each of half a unit in the last place
// of the sum so far (one unit where the hardware truncates). Fragments are the very fp16 weights
// that `dequantize` writes; like theirs, a sum overflows only where 128 k of |w x| add up to 65504.
//
// Other instructions for one HMMA in the main loop on sm_75, 64 tokens, groups of 128 / 64 / 32:
//   fragments times the scale, 128 k of sums in fp16     4 bits 1.95 / 2.12 / 2.12
//                                                        8 bits 2.09 / 2.22 / 2.48
//   integer fragments, sums times the scale by group     4 bits 1.71 / 2.51 / -
//                                                        8 bits 1.89 / 2.57 / 3.89
// With 4 bits and groups of 32 the latter cannot be: a lane's k are of one group, those that an MMA
// adds are of two. Of the former, 32 tokens take 3.16 / 3.55 / 3.55 and 3.36 / 3.73 / 4.08, 16
// tokens 5.50 to 7.61. None spills on sm_75; 64 tokens need 180 to 230 registers, two blocks a
// multiprocessor. Held to the 168 of three, the latter spilled 184 bytes and more.
#pragma once

#include "cuda/prefill_streams.h"

namespace sllmbench::cuda::prefill {

inline constexpr int kStageLength = kStageBytes / static_cast<int>(sizeof(__half));  // k
inline constexpr int kStages = kFoldLength / kStageLength;  // of a turn of the loop
static_assert(kStages == 2, "a buffer each");
inline constexpr int kSteps = kStageLength / 2 / 8;  // of half a stage
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

// Codes become halves by their place in the mantissa of 1024 (0x6400): 1024 + code. Less the same
// of the zero point they are exact integers, and the product with the scale is rounded once.
struct Codes4 {
    static constexpr int kStageTiles = 1, kSymmetricZero = 8;
    // Of a stage; a lane's 16 k are of one group, be it of 32.
    template <int kGroupLength>
    static constexpr int kGroups = 1;
    static __device__ __forceinline__ int first_group(int group_length, int t) {
        return group_length == 32 ? t / 2 : 0;
    }
    // The unit of x for lane t: half 0 takes 2t, half 1 takes 2t + 1.
    static __device__ __forceinline__ int position(int unit) { return unit; }

    struct Affine {
        __half2 scale, low, high;  // -(1024 + zero) and, for codes times 16, -(64 + zero)
    };
    static __device__ __forceinline__ Affine affine(__half scale, std::uint32_t zero) {
        const auto low = as_half2(zero * 0x10001 + 0xe400e400);
        return {__half2half2(scale), low, __hadd2(low, as_half2(0x63806380))};  // + 960
    }
    // `upper`: 0 for row g, 1 for row g + 8.
    static __device__ __forceinline__ void unpack(const uint4 (&tiles)[kStageTiles], int half,
                                                  int upper, const Affine& affine,
                                                  std::uint32_t (&a)[kSteps][2]) {
        const uint4& tile = tiles[0];
        const std::uint32_t word = upper ? (half ? tile.w : tile.z) : (half ? tile.y : tile.x);
        const __half2 sixteenth = as_half2(0x2c002c00);
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            const std::uint32_t pairs = word >> 8 * i;
            const auto low = as_half2(and_or(pairs, 0x000f000f, 0x64006400)),
                       high = as_half2(and_or(pairs, 0x00f000f0, 0x64006400));
            a[2 * i][upper] = as_bits(__hmul2(__hadd2(low, affine.low), affine.scale));
            a[2 * i + 1][upper] =
                as_bits(__hmul2(__hfma2(high, sixteenth, affine.high), affine.scale));
        }
    }
};

struct Codes8 {
    static constexpr int kStageTiles = 2, kSymmetricZero = 0;
    template <int kGroupLength>
    static constexpr int kGroups = kGroupLength == 32 ? 2 : 1;  // of a stage
    static __device__ __forceinline__ int first_group(int, int) { return 0; }
    // Half h is tile h, of which lane t takes unit t: laid so that it reads 2t + h, as for 4 bits.
    static __device__ __forceinline__ int position(int unit) { return unit % 4 * 2 + unit / 4; }

    struct Affine {
        __half2 scale, offset;  // -(1024 + 128 + zero)
    };
    static __device__ __forceinline__ Affine affine(__half scale, std::uint32_t zero) {
        return {__half2half2(scale), as_half2(zero * 0x10001 + 0xe480e480)};
    }
    static __device__ __forceinline__ void unpack(const uint4 (&tiles)[kStageTiles], int half,
                                                  int upper, const Affine& affine,
                                                  std::uint32_t (&a)[kSteps][2]) {
        const uint4& tile = tiles[half];
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            const std::uint32_t word = upper ? (i ? tile.w : tile.z) : (i ? tile.y : tile.x);
            const std::uint32_t biased = word ^ 0x80808080;  // code + 128
#pragma unroll
            for (int j = 0; j < 2; ++j) {
                const auto pair = as_half2(__byte_perm(biased, 0x64646464, j ? 0x4342 : 0x4140));
                a[2 * i + j][upper] = as_bits(__hmul2(__hadd2(pair, affine.offset), affine.scale));
            }
        }
    }
};

// Sums of a row block and token tile, pairs of halves: of row g, then of row g + 8.
using Sums16 = std::uint32_t[2];

__device__ __forceinline__ void add(float (&totals)[4], const Sums16& sums) {
#pragma unroll
    for (int upper = 0; upper < 2; ++upper) {
        const float2 pair = __half22float2(as_half2(sums[upper]));
        totals[2 * upper] += pair.x;
        totals[2 * upper + 1] += pair.y;
    }
}

// Both row blocks' sums += the product of half a stage of weights and a token's unit of it.
__device__ __forceinline__ void multiply_unit(Sums16& first, Sums16& second,
                                              const std::uint32_t (&a)[kWarpRowBlocks][kSteps][2],
                                              const uint4& x) {
    const std::uint32_t steps[kSteps] = {x.x, x.y, x.z, x.w};
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
        mma_m16n8k8(first, a[0][step], steps[step], first);
        mma_m16n8k8(second, a[1][step], steps[step], second);
    }
}

// kGroup: 32, 64 or 128; a whole row is one group of 128 that never ends.
template <class Codes, int kGroup, int kTokenTiles, bool kAsync>
__device__ __forceinline__ void multiply_block_f16(const Operands& p) {
    using Stage = Stager<8 * kTokenTiles, kPitchF16, kAsync>;
    constexpr int kGroups = Codes::template kGroups<kGroup>;
    using Weights =
        WeightStream<Codes::kStageTiles, kStageLength, kGroup, kGroups, Codes::kSymmetricZero>;
    __shared__ typename Stage::Buffer buffers[kStages];

    const int lane = static_cast<int>(threadIdx.x) % 32;
    const int first_block = first_row_block();
    const int first_fold = static_cast<int>(blockIdx.z) * p.folds_per_split;
    const int end = min(first_fold + p.folds_per_split, p.folds);

    float totals[kWarpRowBlocks][kTokenTiles][4] = {};
    Stage stager(p, first_fold * kStages,
                 Codes::position(static_cast<int>(threadIdx.x) % kStageUnits));
    Weights weights(p, first_block, first_fold * kStages, Codes::first_group(kGroup, lane % 4));
    stager.start(buffers[0]);
    auto tiles = weights.load_tiles();
    auto groups = weights.load_groups();
    stager.settle(buffers[0]);

    for (int fold = first_fold; fold < end; ++fold) {
        Sums16 sums[kWarpRowBlocks][kTokenTiles] = {};
#pragma unroll
        for (int stage = 0; stage < kStages; ++stage) {
            stager.start(buffers[1 - stage]);
            const auto next_tiles = weights.load_tiles();
            const bool group_ends = kGroup <= kStageLength || stage == kStages - 1;
            const auto next_groups = group_ends ? weights.load_groups() : groups;
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                std::uint32_t a[kWarpRowBlocks][kSteps][2];
#pragma unroll
                for (int i = 0; i < 2 * kWarpRowBlocks; ++i) {
                    const int b = i / 2, upper = i % 2, group = half * kGroups / 2;
                    const auto affine = Codes::affine(groups.scales[b][group][upper],
                                                      groups.zeros[b][group][upper]);
                    Codes::unpack(tiles.of[b], half, upper, affine, a[b]);
                }
#pragma unroll
                for (int tile = 0; tile < kTokenTiles; ++tile) {
                    multiply_unit(sums[0][tile], sums[1][tile], a,
                                  buffers[stage][8 * tile + lane / 4][lane % 4 * 2 + half]);
                    if (stage < kStages - 1 || half == 0) continue;
                    add(totals[0][tile], sums[0][tile]);
                    add(totals[1][tile], sums[1][tile]);
                }
            }
            tiles = next_tiles;
            groups = next_groups;
            stager.settle(buffers[1 - stage]);
        }
    }
    write_all(p, first_block, totals);
}

template <class Codes, int kGroup, int kTokenTiles, bool kAsync>
__global__ void __launch_bounds__(kThreads) multiply_f16(const Operands p) {
    if constexpr (kBuilt<kAsync>)
        multiply_block_f16<Codes, kGroup, kTokenTiles, kAsync>(p);
    else
        fault();
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
        if (group == 32) return run(multiply_f16<Codes, 32, tiles(), async()>);
        if (group == 64) return run(multiply_f16<Codes, 64, tiles(), async()>);
        return run(multiply_f16<Codes, 128, tiles(), async()>);
    });
    return status == cudaSuccess ? add_partials(product, how, stream) : status;
}

}  // namespace sllmbench::cuda::prefill
