// 8-bit codes times int8 activations with one scale a row: dp4a into int32 inside a group.
#include "cuda/decode.cuh"

namespace sllmbench::cuda {
namespace {

template <int tokens>
struct Dp4a {
    static constexpr int kBits = 8;
    static constexpr bool kZeros = false;
    static constexpr int kTokens = tokens;
    static constexpr int kBlocks = tokens > 4 ? 2 : 4, kUnroll = tokens > 4 ? 1 : 2;
    static constexpr float kUnit = 1;
    struct Zero {};
    static constexpr Zero kSymmetric{};

    __device__ Dp4a(const DecodeOperands& p, int lane) {
        x_ = static_cast<const uint2*>(p.x) + lane % 4;
        for (int token = 0; token < tokens; ++token)
            row_[token] = min(token, p.m - 1) * static_cast<int>(p.stride_x / 8);
    }

    __device__ void multiply(const uint4& codes, const Zero (&)[2], int tile) {
#pragma unroll
        for (int token = 0; token < tokens; ++token) {
            const uint2 x = x_[row_[token] + tile * 4];
            sums_[0][token] = dot(codes.y, x.y, dot(codes.x, x.x, sums_[0][token]));
            sums_[1][token] = dot(codes.w, x.y, dot(codes.z, x.x, sums_[1][token]));
        }
    }

    __device__ void advance(int tiles) { x_ += tiles * 4; }

    __device__ void close_group(const float (&scale)[2]) {
#pragma unroll
        for (int r = 0; r < 2; ++r)
#pragma unroll
            for (int token = 0; token < tokens; ++token) {
                totals_[r][token] =
                    fmaf(__int2float_rn(sums_[r][token]), scale[r], totals_[r][token]);
                sums_[r][token] = 0;
            }
    }

    __device__ void write(int lane, float (*totals)[kTotalsStride]) const {
        write_rows(totals_, lane, totals);
    }

 private:
    static __device__ int dot(std::uint32_t a, std::uint32_t b, int c) {
        return __dp4a(static_cast<int>(a), static_cast<int>(b), c);
    }

    const uint2* x_;
    int row_[tokens];
    int sums_[2][tokens] = {};
    float totals_[2][tokens] = {};
};

template <int group>
DecodeEntry entry(std::int64_t m) {
    if (m == 1) return &decode<Dp4a<1>, group>;
    if (m == 2) return &decode<Dp4a<2>, group>;
    if (m <= 4) return &decode<Dp4a<4>, group>;
    return &decode<Dp4a<8>, group>;
}

const char* refusal(const Product& product, const Device& device) {
    return decode_refusal(product, device, 8, Activations::int8);
}

cudaError_t launch_kernel(const Product& product, const Device& device, cudaStream_t stream) {
    const int group = decode_group(product.weight);
    const DecodeEntry kernel = group == 32   ? entry<32>(product.m)
                               : group == 64 ? entry<64>(product.m)
                                             : entry<128>(product.m);
    return launch_decode(kernel, product, device, stream);
}

}  // namespace

const Kernel kDecodeW8A8{"decode_w8a8", refusal, decode_workspace_bytes, launch_kernel};

}  // namespace sllmbench::cuda
