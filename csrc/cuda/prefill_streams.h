// How a prefill kernel's operands come to its warps and how its results leave.
#pragma once

#include "cuda/instructions.h"
#include "cuda/prefill.h"

namespace sllmbench::cuda::prefill {

// A GPU's code has of both ways to stage the one that its devices are given, and faults in the
// other; the tests' shim has both.
#ifdef SLLMBENCH_CUDA_HOST
template <bool kAsync>
inline constexpr bool kBuilt = true;
#elif defined(SLLMBENCH_COPY_ASYNC)
template <bool kAsync>
inline constexpr bool kBuilt = kAsync;
#else
template <bool kAsync>
inline constexpr bool kBuilt = !kAsync;
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
            if constexpr (!kAsync) held_[i] = inside ? *from_[i] : uint4{0, 0, 0, 0};
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
        if constexpr (!kAsync) {
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

// Where a warp's row blocks begin.
__device__ __forceinline__ int first_row_block() {
    return static_cast<int>(blockIdx.y * kWarps + threadIdx.x / 32) * kWarpRowBlocks;
}

// A lane's way through the weights of its warp's row blocks: what a stage needs is loaded a stage
// ahead. Past the end of a row (and of the rows) it stays where it is: x is zero there (and nothing
// is written). Groups are `kGroupLength` k; a lane needs `kGroups` of a stage, or one of several.
template <int kStageTiles, int kStageLength, int kGroupLength, int kGroups, int kSymmetricZero>
class WeightStream {
 public:
    struct Tiles {
        uint4 of[kWarpRowBlocks][kStageTiles];
    };
    struct Groups {
        __half scales[kWarpRowBlocks][kGroups][2];  // rows g, g + 8
        std::uint8_t zeros[kWarpRowBlocks][kGroups][2];
    };

    // `lane_group`: which of a stage's groups is the lane's first.
    __device__ WeightStream(const Operands& p, int first_block, int stage, int lane_group) {
        const int lane = static_cast<int>(threadIdx.x) % 32;
        const int tile = stage * kStageTiles;
        const int group = min(stage * kStageLength / kGroupLength + lane_group, p.groups - 1);
        tiles_left_ = p.n_tiles - tile;
        groups_left_ = p.groups - group;
#pragma unroll
        for (int b = 0; b < kWarpRowBlocks; ++b) {
            const std::int64_t block = min(first_block + b, (p.n - 1) / kTileRows);
            tiles_[b] = p.tiles + (block * p.n_tiles + tile) * 32 + lane;
            const std::int64_t at = (block * p.groups + group) * kTileRows + lane / 4;
            scales_[b] = p.scales + at;
            zeros_[b] = p.zeros ? p.zeros + at : nullptr;
        }
    }

    // Of the next stage.
    __device__ __forceinline__ Tiles load_tiles() {
        Tiles tiles;
        const int step = tiles_left_ > kStageTiles ? kStageTiles * 32 : 0;
#pragma unroll
        for (int b = 0; b < kWarpRowBlocks; ++b) {
#pragma unroll
            for (int i = 0; i < kStageTiles; ++i)
                tiles.of[b][i] = load_once(tiles_[b] + (i < tiles_left_ ? i * 32 : 0));
            tiles_[b] += step;
        }
        tiles_left_ -= kStageTiles;
        return tiles;
    }
    // Of the next stage, or of the next group if that is longer.
    __device__ __forceinline__ Groups load_groups() {
        Groups groups;
        const int step = groups_left_ > kGroupStep ? kGroupStep * kTileRows : 0;
#pragma unroll
        for (int b = 0; b < kWarpRowBlocks; ++b) {
#pragma unroll
            for (int i = 0; i < kGroups; ++i) {
                const int at = i < groups_left_ ? i * kTileRows : 0;
#pragma unroll
                for (int upper = 0; upper < 2; ++upper) {
                    groups.scales[b][i][upper] = scales_[b][at + 8 * upper];
                    groups.zeros[b][i][upper] =
                        zeros_[b] ? zeros_[b][at + 8 * upper] : std::uint8_t{kSymmetricZero};
                }
            }
            scales_[b] += step;
            if (zeros_[b]) zeros_[b] += step;
        }
        groups_left_ -= kGroupStep;
        return groups;
    }

 private:
    static constexpr int kGroupStep = kStageLength > kGroupLength ? kStageLength / kGroupLength : 1;
    const uint4* tiles_[kWarpRowBlocks];
    const __half* scales_[kWarpRowBlocks];
    const std::uint8_t* zeros_[kWarpRowBlocks];
    int tiles_left_, groups_left_;
};

// A lane's results of one row block and token tile: rows g (0, 1) and g + 8 (2, 3), tokens 2t and
// 2t + 1.
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

template <int kTokenTiles>
__device__ __forceinline__ void write_all(const Operands& p, int first_block,
                                          const float (&values)[kWarpRowBlocks][kTokenTiles][4]) {
#pragma unroll
    for (int b = 0; b < kWarpRowBlocks; ++b)
#pragma unroll
        for (int tile = 0; tile < kTokenTiles; ++tile)
            write(p, first_block + b, static_cast<int>(blockIdx.x) * kTokenTiles + tile,
                  values[b][tile]);
}

}  // namespace sllmbench::cuda::prefill
