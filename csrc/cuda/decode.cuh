// The one loop of the decode kernels: 16 rows of the weight times up to 8 rows of x.
//
//   grid.x: a row block    grid.y: a split of k    a row block's tiles, one after the other:
//
//     | span 0 | span 1 | ... | span 7 | span 8 | ... | rest |     a span: 128 k; the rest: less
//       warp 0   warp 1         warp 7   warp 0   ...
//
// A warp streams its spans with one 128-bit load a lane and tile, all loads of a span under way
// before the first is used, and sums on its own; at the end the warps' sums meet in shared memory.
// What multiplying means is the `Arithmetic`: tensor cores, fp16 pairs or dp4a. It has
//
//   kBits, kTokens (rows of x, at least m), kUnit (of its codes, which the sums are multiplied by)
//   Zero, kSymmetric, zero(point)    what to subtract from a group's codes
//   kBlocks, kUnroll                 of a multiprocessor that its registers must suffice for, with
//                                    so many spans in one turn of the loop
//   multiply(codes, zeros, tile)     a tile, counted from where x is, into the sums of the group
//   advance(tiles)                   x
//   close_group(scales)              those times the scale into the float32 totals
//   write(lane, totals)              the totals of the warp, [kTokens][kTotalsStride]
#pragma once

#include <climits>

#include "cuda/decode.h"
#include "cuda/instructions.h"

namespace sllmbench::cuda {

// Four lanes write rows of the totals at a time: two apart they hit 32 different banks.
inline constexpr int kTotalsStride = kTileRows + 4;

// Where the four lanes of a row have summed a quarter of the k each.
template <int tokens>
__device__ __forceinline__ void write_rows(const float (&sums)[2][tokens], int lane,
                                           float (*totals)[kTotalsStride]) {
    for (int r = 0; r < 2; ++r)
        for (int token = 0; token < tokens; ++token) {
            float total = sums[r][token];
            total += __shfl_xor_sync(0xffffffff, total, 1);
            total += __shfl_xor_sync(0xffffffff, total, 2);
            if (lane % 4 == 0) totals[token][lane / 4 + 8 * r] = total;
        }
}

// A lane has rows r and r + 8 of the block, [0] and [1] everywhere.
template <class Arithmetic>
struct GroupConstants {
    float scale[2];
    typename Arithmetic::Zero zero[2];
};

// A lane's part of the weight, from the span on where its warp is.
template <class Arithmetic, int kGroup>
struct WeightStream {
    static constexpr int kTileLength = tile_length(Arithmetic::kBits);
    static constexpr int kTilesInSpan = kDecodeSpan / kTileLength;
    static constexpr int kGroupsInSpan = kDecodeSpan / kGroup;

    __device__ WeightStream(const DecodeOperands& p, int lane) : scale_step_(p.scale_step) {
        const std::int64_t block = blockIdx.x;
        const std::int64_t scale =
            block * p.groups * kTileRows + half_of(lane) * kTileRows + lane / 4;
        tiles_ = p.tiles + block * p.tiles_along_k * 32 + lane;
        scales_ = p.scales + scale;
        if (Arithmetic::kZeros) zeros_ = p.zeros + scale;
    }

    __device__ void advance(int spans) {
        // Below 128 a row has more than one group.
        const int groups = spans * kGroupsInSpan;
        const int places = groups * (kGroup < kDecodeSpan ? kTileRows : scale_step_);
        tiles_ += spans * kTilesInSpan * 32;
        scales_ += places;
        if (Arithmetic::kZeros) zeros_ += places;
    }

    __device__ uint4 tile(int i) const { return load_once(tiles_ + i * 32); }

    // Of a tile's group, counted from the span's first. In the rest of k a tile may lack the second
    // of its groups. (Left out of whole spans, this took 2.24 instead of 2.23 instructions a weight
    // of fp16 pairs in groups of 32.)
    __device__ GroupConstants<Arithmetic> constants(int tile, int last_group) const {
        int group = tile * kTileLength / kGroup;
        if (kGroup < kTileLength) group = min(group, last_group - half_of(threadIdx.x));
        const int place = group * kTileRows;
        GroupConstants<Arithmetic> constants;
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            constants.scale[i] = __half2float(scales_[place + 8 * i]);
            if constexpr (Arithmetic::kZeros)
                constants.zero[i] = Arithmetic::zero(zeros_[place + 8 * i]);
            else
                constants.zero[i] = Arithmetic::kSymmetric;
        }
        return constants;
    }

 private:
    // A tile of 64 k has two groups of 32. Worked out again where it is needed: it would be the one
    // value too many for the registers.
    static __device__ int half_of(int lane) { return lane % 4 * (kTileLength / 4) / kGroup; }

    int scale_step_;
    const uint4* tiles_;
    const __half* scales_;
    const std::uint8_t* zeros_ = nullptr;
};

// kTiles tiles from `first` of the span on, at which a group begins: a whole span, or one tile of
// the rest of k.
template <int kTiles, class Arithmetic, int kGroup>
__device__ __forceinline__ void multiply_tiles(Arithmetic& sums,
                                               const WeightStream<Arithmetic, kGroup>& weight,
                                               int first, int last_group) {
    constexpr int kPerGroup = kGroup > weight.kTileLength ? kGroup / weight.kTileLength : 1;
    constexpr int kGroups = (kTiles + kPerGroup - 1) / kPerGroup;
    uint4 codes[kTiles];
    GroupConstants<Arithmetic> constants[kGroups];
#pragma unroll
    for (int i = 0; i < kTiles; ++i) codes[i] = weight.tile(first + i);
#pragma unroll
    for (int i = 0; i < kGroups; ++i)
        constants[i] = weight.constants(first + i * kPerGroup, last_group);
#pragma unroll
    for (int i = 0; i < kTiles; ++i) {
        const GroupConstants<Arithmetic>& group = constants[i / kPerGroup];
        sums.multiply(codes[i], group.zero, first + i);
        if ((i + 1) % kPerGroup == 0 || i + 1 == kTiles) sums.close_group(group.scale);
    }
}

template <class Arithmetic, int kGroup>
__global__ void __launch_bounds__(32 * kDecodeWarps, Arithmetic::kBlocks)
    decode(const DecodeOperands p) {
    using Stream = WeightStream<Arithmetic, kGroup>;
    __shared__ float totals[kDecodeWarps][Arithmetic::kTokens][kTotalsStride];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;

    Stream weight(p, lane);
    Arithmetic sums(p, lane);
    const int whole_spans = p.k / kDecodeSpan;
    const int begin = blockIdx.y * p.split_spans, end = begin + p.split_spans;
    int span = begin + warp;
    weight.advance(span);
    sums.advance(span * Stream::kTilesInSpan);
#pragma unroll(Arithmetic::kUnroll)
    for (; span < min(end, whole_spans); span += kDecodeWarps) {
        multiply_tiles<Stream::kTilesInSpan>(sums, weight, 0, INT_MAX);
        weight.advance(kDecodeWarps);
        sums.advance(kDecodeWarps * Stream::kTilesInSpan);
    }
    if (span == whole_spans && span < end) {  // the rest of k is this warp's next turn
        const int rest = p.tiles_along_k - span * Stream::kTilesInSpan;
        const int last_group = p.groups - 1 - span * Stream::kGroupsInSpan;
#pragma unroll 1
        for (int tile = 0; tile < rest; ++tile) multiply_tiles<1>(sums, weight, tile, last_group);
    }
    sums.write(lane, totals[warp]);
    __syncthreads();

    const int row = threadIdx.x % kTileRows, token = threadIdx.x / kTileRows;
    const std::int64_t column = static_cast<std::int64_t>(blockIdx.x) * kTileRows + row;
    if (token >= p.m || column >= p.n) return;
    float total = 0;
#pragma unroll
    for (int i = 0; i < kDecodeWarps; ++i) total += totals[i][token][row];
    total *= Arithmetic::kUnit;
    if (p.row_scales) total *= p.row_scales[token];
    const std::int64_t place = token * p.n + column;
    if (p.partials)
        p.partials[static_cast<std::int64_t>(blockIdx.y) * p.m * p.n + place] = total;
    else
        p.y[place] = __float2half_rn(total);
}

}  // namespace sllmbench::cuda
