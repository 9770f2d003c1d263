// A small decode kernel with what the interpreter must be able to see go wrong: y = x wᵀ of 4-bit
// codes in groups of 64, so that a tile has one scale a row. A block has one row block.
#include "cuda/instructions.h"
#include "cuda/layouts.h"

#define NOTHING 0
#define NO_BARRIER 1     // the warps' sums are read before all are there
#define WRONG_LANE 2     // a lane of another row is added
#define ONE_TILE_MORE 3  // is read than the weight has
#define HALF_A_VECTOR 4  // off, x is read
#ifndef MISTAKE
#define MISTAKE NOTHING
#endif

using namespace sllmbench::cuda;

constexpr int kWarps = 4;

__device__ __half2 as_pair(std::uint32_t bits) {
    return *reinterpret_cast<__half2*>(&bits);
}

// The codes of `row` in a lane's words, times the lane's 16 of x; each half of a pair by its own.
__device__ float multiply(std::uint32_t first, std::uint32_t second, const uint4* x) {
    const std::uint32_t codes[2] = {first, second};
    __half2 sum = as_pair(0);
    for (int word = 0; word < 2; ++word) {
        const std::uint32_t pairs[4] = {x[word].x, x[word].y, x[word].z, x[word].w};
        for (int i = 0; i < 4; ++i) {
            // fp16 1024 + code; the nibbles of a byte are two pairs, as layouts.h says.
            const std::uint32_t biased = and_or(codes[word] >> 4 * i, 0x000f000f, 0x64006400);
            sum = __hfma2(__hsub2(as_pair(biased), as_pair(0x64086408)), as_pair(pairs[i]), sum);
        }
    }
    return __low2float(sum) + __high2float(sum);
}

extern "C" __global__ void __launch_bounds__(32 * kWarps)
    gemv(const uint4* tiles, const __half* scales, const __half* x, float* y, int tiles_along_k) {
    __shared__ float sums[kWarps][kTileRows];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, row = lane / 4;
    float sum[2] = {0, 0};
    for (int tile = warp; tile < tiles_along_k + (MISTAKE == ONE_TILE_MORE); tile += kWarps) {
        const long place = static_cast<long>(blockIdx.x) * tiles_along_k + tile;
        const uint4 codes = load_once(tiles + place * 32 + lane);
        const auto* some = reinterpret_cast<const uint4*>(x + tile * 64 + lane % 4 * 16 +
                                                          (MISTAKE == HALF_A_VECTOR ? 4 : 0));
        const __half* scale = scales + place * kTileRows + row;
        sum[0] += __half2float(scale[0]) * multiply(codes.x, codes.y, some);
        sum[1] += __half2float(scale[8]) * multiply(codes.z, codes.w, some);
    }
    for (int i = 0; i < 2; ++i) {
        sum[i] += __shfl_xor_sync(0xffffffff, sum[i], 1);
        sum[i] += __shfl_xor_sync(0xffffffff, sum[i], MISTAKE == WRONG_LANE ? 4 : 2);
        if (lane % 4 == 0) sums[warp][row + 8 * i] = sum[i];
    }
    if (MISTAKE != NO_BARRIER) __syncthreads();
    if (threadIdx.x >= kTileRows) return;
    float total = 0;
    for (int i = 0; i < kWarps; ++i) total += sums[i][threadIdx.x];
    y[blockIdx.x * kTileRows + threadIdx.x] = total;
}
