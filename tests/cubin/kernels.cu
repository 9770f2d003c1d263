// Kernels whose machine code the tests of `sllmbench cubin` know by heart: one subject each.
#include "cuda/instructions.h"

using namespace sllmbench::cuda;

// Four 128-bit loads a trip in flight together, read once; the compiler is kept from unrolling.
__global__ void __launch_bounds__(128) stream(const uint4* weights, unsigned* sums, int trips) {
    unsigned sum = 0;
#pragma unroll 1
    for (int trip = 0; trip < trips; ++trip) {
        uint4 v[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) v[i] = load_once(weights + (4 * trip + i) * 128 + threadIdx.x);
#pragma unroll
        for (int i = 0; i < 4; ++i) sum += (v[i].x ^ v[i].y) & (v[i].z | v[i].w);
    }
    sums[threadIdx.x] = sum;
}

// A loop in a loop; the inner one loads, 32 bits at a time, one load after the other.
__global__ void __launch_bounds__(256)
    nested(const float* matrix, float* sums, int rows, int columns) {
#pragma unroll 1
    for (int row = threadIdx.x; row < rows; row += 256) {
        float sum = 0;
#pragma unroll 1
        for (int column = 0; column < columns; ++column) sum += matrix[row * columns + column];
        sums[row] = sum;
    }
}

// More values alive than 64 registers hold: they are spilled to local memory.
__global__ void __launch_bounds__(1024) spilling(const float* from, float* to) {
    float v[80];
#pragma unroll
    for (int i = 0; i < 80; ++i) v[i] = from[i * 1024 + threadIdx.x];
    __syncthreads();
#pragma unroll
    for (int i = 0; i < 80; ++i) to[i * 1024 + threadIdx.x] = v[i] * v[(i + 37) % 80];
}

// Tensor instructions on tiles in shared memory.
__global__ void __launch_bounds__(32)
    tensor(const uint2* a, const std::uint32_t* b, uint2* d, int trips) {
    __shared__ uint2 tile[32];
    const int lane = threadIdx.x;
    std::uint32_t sum[2] = {};
#pragma unroll 1
    for (int trip = 0; trip < trips; ++trip) {
        tile[lane ^ 1] = a[trip * 32 + lane];
        __syncthreads();
        const uint2 mine = tile[lane];
        __syncthreads();
        mma_m16n8k8(sum, {mine.x, mine.y}, b[trip * 32 + lane], sum);
    }
    d[lane] = {sum[0], sum[1]};
}

// Neither a loop nor a bound on its threads.
__global__ void plain(int* to, int value) {
    to[threadIdx.x] = value;
}
