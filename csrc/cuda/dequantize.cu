// A weight as fp16, for libraries that multiply floats.
//
// A block makes 4096 columns of rows r and r + 8, whose codes lie side by side, in shared memory,
// then writes each row there in one run. With an order, the columns of a window come from anywhere
// in the row, so the block decodes the whole row and keeps what falls into its window: a row of w
// windows is decoded w times, a quarter (8 bits: half) of the bytes that writing them takes, each.
#include "cuda/instructions.h"
#include "cuda/matmul.h"

namespace sllmbench::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWindow = 4096;  // columns
constexpr int kPiece = 8;      // codes of one row that a thread decodes at once; of one group
constexpr int kRowPairs = kTileRows / 2;

template <int kBits>
constexpr int kTileLength = tile_length(kBits);
template <int kBits>
constexpr int kLaneLength = kTileLength<kBits> / 4;  // k of a lane
static_assert(kWindow % kTileLength<4> == 0 && kWindow % kTileLength<8> == 0);

struct Source {
    const std::uint8_t* tiles;
    const __half* scales;
    const std::uint8_t* zeros;
    const std::int32_t* order;
    std::int64_t n;
    int k, group, groups, n_tiles;
};

// Codes of columns `column` .. + 7 of row `row` of a row block.
template <int kBits>
__device__ __forceinline__ void decode(const Source& w, std::int64_t row_block, int row, int column,
                                       int (&codes)[kPiece]) {
    const int lane = 4 * (row % 8) + column % kTileLength<kBits> / kLaneLength<kBits>;
    const std::uint8_t* const from =
        w.tiles + (row_block * w.n_tiles + column / kTileLength<kBits>)*kTileBytes +
        lane * kLaneBytes + row / 8 * (kLaneBytes / 2) +
        column % kLaneLength<kBits> / kPiece * (kPiece * kBits / 8);
    if constexpr (kBits == 4) {
        const std::uint32_t word = *reinterpret_cast<const std::uint32_t*>(from);
#pragma unroll
        for (int i = 0; i < kPiece; ++i)  // nibbles stand for k + 0, 2, 4, 6, 1, 3, 5, 7
            codes[i] = static_cast<int>(word >> 4 * (i / 2 + i % 2 * 4) & 15);
    } else {
        const uint2 words = *reinterpret_cast<const uint2*>(from);
#pragma unroll
        for (int i = 0; i < kPiece; ++i)
            codes[i] = static_cast<std::int8_t>((i < 4 ? words.x : words.y) >> i % 4 * 8);
    }
}

// One rounding: a scale has 11 bits and a code less its zero point 9, so float32 holds the product.
__device__ __forceinline__ void scale(const Source& w, std::int64_t row_block, int row, int column,
                                      int symmetric_zero, const int (&codes)[kPiece],
                                      __half (&values)[kPiece]) {
    const int group = w.groups == 1 ? 0 : column / w.group;
    const std::int64_t at = (row_block * w.groups + group) * kTileRows + row;
    const float step = __half2float(w.scales[at]);
    const int zero = w.zeros ? w.zeros[at] : symmetric_zero;
#pragma unroll
    for (int i = 0; i < kPiece; ++i)
        values[i] = __float2half_rn(step * static_cast<float>(codes[i] - zero));
}

__device__ __forceinline__ std::uint32_t pack(__half low, __half high) {
    return static_cast<std::uint32_t>(__half_as_ushort(high)) << 16 | __half_as_ushort(low);
}

template <int kBits>
__global__ void __launch_bounds__(kThreads)
    dequantize_rows(const Source w, __half* out, bool in_pieces) {
    __shared__ uint4 window[2][kWindow / kPiece];  // of rows r and r + 8
    const std::int64_t row_block = blockIdx.x / kRowPairs;
    const int r = static_cast<int>(blockIdx.x % kRowPairs);
    const int begin = static_cast<int>(blockIdx.y) * kWindow, end = min(begin + kWindow, w.k);

    const int first = w.order ? 0 : begin, last = w.order ? w.k : end;
    // Two neighbouring threads decode the same columns of both rows.
    for (int i = static_cast<int>(threadIdx.x); first + i / 2 * kPiece < last; i += kThreads) {
        const int column = first + i / 2 * kPiece, row = r + i % 2 * 8;
        int codes[kPiece];
        __half values[kPiece];
        decode<kBits>(w, row_block, row, column, codes);
        scale(w, row_block, row, column, kBits == 4 ? 8 : 0, codes, values);
        if (!w.order) {
            window[i % 2][i / 2] = uint4{pack(values[0], values[1]), pack(values[2], values[3]),
                                         pack(values[4], values[5]), pack(values[6], values[7])};
            continue;
        }
        auto* const columns = reinterpret_cast<__half*>(window[i % 2]);
#pragma unroll
        for (int j = 0; j < kPiece; ++j) {
            if (column + j >= w.k) break;
            const int to = w.order[column + j];
            if (to >= begin && to < end) columns[to - begin] = values[j];
        }
    }
    __syncthreads();

    for (int upper = 0; upper < 2; ++upper) {
        const std::int64_t row = row_block * kTileRows + r + 8 * upper;
        if (row >= w.n) return;
        __half* const to = out + row * w.k + begin;
        if (in_pieces) {
            for (int i = static_cast<int>(threadIdx.x); i < (end - begin) / kPiece; i += kThreads)
                reinterpret_cast<uint4*>(to)[i] = window[upper][i];
        } else {
            const auto* const columns = reinterpret_cast<const __half*>(window[upper]);
            for (int i = static_cast<int>(threadIdx.x); i < end - begin; i += kThreads)
                to[i] = columns[i];
        }
    }
}

}  // namespace

cudaError_t dequantize(const Weight& weight, __half* out, cudaStream_t stream) {
    const Source source{reinterpret_cast<const std::uint8_t*>(weight.tiles),
                        weight.scales,
                        weight.zeros,
                        weight.order,
                        weight.n,
                        static_cast<int>(weight.k),
                        static_cast<int>(weight.group),
                        static_cast<int>(divide_up(weight.k, weight.group)),
                        static_cast<int>(tiles_along_k(weight.bits, weight.k))};
    const bool in_pieces =
        weight.k % kPiece == 0 && reinterpret_cast<std::uintptr_t>(out) % sizeof(uint4) == 0;
    const dim3 grid(static_cast<unsigned>(row_blocks(weight.n) * kRowPairs),
                    static_cast<unsigned>(divide_up(weight.k, kWindow)));
    const auto kernel = weight.bits == 4 ? &dequantize_rows<4> : &dequantize_rows<8>;
    return launch(kernel, grid, dim3(kThreads), stream, source, out, in_pieces);
}

}  // namespace sllmbench::cuda
