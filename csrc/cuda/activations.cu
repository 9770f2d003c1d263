// x as the kernels read it: the weight's order, whole tiles, zeros behind k.
#include "cuda/matmul.h"

namespace sllmbench::cuda {
namespace {

constexpr int kThreads = 256;

struct Source {
    const std::uint16_t* x;  // the bits of fp16
    std::int64_t stride, k, padded_k;
    const std::int32_t* order;

    __device__ std::uint16_t operator()(std::int64_t row, std::int64_t j) const {
        return j < k ? x[row * stride + (order ? order[j] : j)] : 0;
    }
};

Source source_of(const Product& product) {
    const Weight& weight = product.weight;
    return {reinterpret_cast<const std::uint16_t*>(product.x), product.stride_x, weight.k,
            tiles_along_k(weight.bits, weight.k) * tile_length(weight.bits), weight.order};
}

// Copies bits, so that a NaN stays the NaN it was. Eight k a thread, stored at once.
__global__ void gather_fp16_kernel(const Source x, uint4* padded) {
    const std::int64_t eight = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
    if (8 * eight >= x.padded_k) return;
    std::uint32_t words[4];
#pragma unroll
    for (int i = 0; i < 4; ++i)
        words[i] = x(blockIdx.y, 8 * eight + 2 * i) |
                   static_cast<std::uint32_t>(x(blockIdx.y, 8 * eight + 2 * i + 1)) << 16;
    padded[blockIdx.y * (x.padded_k / 8) + eight] = uint4{words[0], words[1], words[2], words[3]};
}

// The bits of fp16 without the sign grow with the magnitude, infinity and then NaN at the top: a
// maximum of them loses no NaN, which then is the scale.
__device__ unsigned block_maximum(unsigned value) {
    __shared__ unsigned warps[kThreads / 32];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    for (int distance = 16; distance > 0; distance /= 2)
        value = max(value, __shfl_xor_sync(0xffffffff, value, distance));
    if (lane == 0) warps[warp] = value;
    __syncthreads();
    for (int i = 0; i < kThreads / 32; ++i) value = max(value, warps[i]);
    return value;
}

// A block a row, which it reads twice, four k a thread and turn.
__global__ void __launch_bounds__(kThreads)
    gather_int8_kernel(const Source x, std::uint32_t* padded, float* row_scales) {
    const std::int64_t row = blockIdx.x;
    unsigned largest = 0;
    for (std::int64_t j = threadIdx.x; j < x.k; j += kThreads)
        largest = max(largest, static_cast<unsigned>(x(row, j) & 0x7fff));
    largest = block_maximum(largest);

    const float scale =
        __half2float(__ushort_as_half(static_cast<unsigned short>(largest))) / 127.0f;
    if (threadIdx.x == 0) row_scales[row] = scale;
    for (std::int64_t four = threadIdx.x; 4 * four < x.padded_k; four += kThreads) {
        std::uint32_t word = 0;
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const float value = __half2float(__ushort_as_half(x(row, 4 * four + i)));
            const int code = scale == 0 ? 0 : __float2int_rn(value / scale);
            word |= static_cast<std::uint32_t>(code & 0xff) << 8 * i;
        }
        padded[row * (x.padded_k / 4) + four] = word;
    }
}

}  // namespace

cudaError_t gather_fp16(const Product& product, __half* padded, cudaStream_t stream) {
    const Source source = source_of(product);
    const dim3 grid(static_cast<unsigned>(divide_up(source.padded_k / 8, kThreads)),
                    static_cast<unsigned>(product.m));
    return launch(&gather_fp16_kernel, grid, dim3(kThreads), stream, source,
                  reinterpret_cast<uint4*>(padded));
}

cudaError_t gather_int8(const Product& product, std::int8_t* padded, float* row_scales,
                        cudaStream_t stream) {
    return launch(&gather_int8_kernel, dim3(static_cast<unsigned>(product.m)), dim3(kThreads),
                  stream, source_of(product), reinterpret_cast<std::uint32_t*>(padded), row_scales);
}

}  // namespace sllmbench::cuda
