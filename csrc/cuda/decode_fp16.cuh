// Codes times fp16 activations: how codes become fp16, and the two ways to multiply them.
//
// A code c is put into the low bits of the mantissa of 2^e, which then is 2^e + c * unit, and the
// same with the zero point is subtracted, exactly: (c - zero) * unit, of at most 1, so that no
// product can overflow. What would be smaller than fp16's normal numbers is off by at most 2^-25.
#pragma once

#include "cuda/decode.cuh"

namespace sllmbench::cuda {

__device__ __forceinline__ __half2 as_half2(std::uint32_t word) {
    __half2 pair;
    __builtin_memcpy(&pair, &word, sizeof pair);
    return pair;
}
__device__ __forceinline__ std::uint32_t subtract(std::uint32_t a, std::uint32_t b) {
    const __half2 difference = __hsub2(as_half2(a), as_half2(b));
    std::uint32_t word;
    __builtin_memcpy(&word, &difference, sizeof word);
    return word;
}

template <int bits>
struct Codes;

// 9 instructions a word of 8 codes: 1 shift, 4 lop3, 4 subtractions. Half of the nibbles lie 4 bits
// higher; an exponent 4 lower makes the same of them, where a multiplication by 1/16 would do too.
template <>
struct Codes<4> {
    static constexpr int kPairs = 8;  // of two k, in each of a lane's two rows of a tile
    static constexpr float kUnit = 16;
    struct Zero {
        std::uint32_t lower, upper;  // 64 + zero / 16; 4 + zero / 16
    };
    static constexpr Zero kSymmetric{0x54085408, 0x44804480};
    static __device__ __forceinline__ Zero zero(std::uint32_t point) {
        const std::uint32_t lower = __byte_perm(point, 0x54, 0x4040);
        return {lower, subtract(lower, 0x53805380)};  // 60
    }
    static __device__ __forceinline__ void unpack(std::uint32_t word, const Zero& zero,
                                                  std::uint32_t* pairs) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            const std::uint32_t byte = word >> 8 * i;
            pairs[2 * i] = subtract(and_or(byte, 0x000f000f, 0x54005400), zero.lower);
            pairs[2 * i + 1] = subtract(and_or(byte, 0x00f000f0, 0x44004400), zero.upper);
        }
    }
};

// 5 instructions a word of 4 codes: a flip of the signs, 2 byte permutations, 2 subtractions.
template <>
struct Codes<8> {
    static constexpr int kPairs = 4;
    static constexpr float kUnit = 128;
    using Zero = std::uint32_t;                     // 8 + zero / 128
    static constexpr Zero kSymmetric = 0x48804880;  // 128, because the signs are flipped
    static __device__ __forceinline__ void unpack(std::uint32_t word, Zero zero,
                                                  std::uint32_t* pairs) {
        const std::uint32_t unsigned_codes = word ^ 0x80808080;
        pairs[0] = subtract(__byte_perm(unsigned_codes, 0x48484848, 0x4140), zero);
        pairs[1] = subtract(__byte_perm(unsigned_codes, 0x48484848, 0x4342), zero);
    }
};

// A lane's codes of a tile: rows r and r + 8, pairs of k.
template <int bits>
__device__ __forceinline__ void unpack_tile(const uint4& codes,
                                            const typename Codes<bits>::Zero (&zero)[2],
                                            std::uint32_t (&pairs)[2][Codes<bits>::kPairs]) {
    constexpr int kHalf = Codes<bits>::kPairs / 2;
    Codes<bits>::unpack(codes.x, zero[0], pairs[0]);
    Codes<bits>::unpack(codes.y, zero[0], pairs[0] + kHalf);
    Codes<bits>::unpack(codes.z, zero[1], pairs[1]);
    Codes<bits>::unpack(codes.w, zero[1], pairs[1] + kHalf);
}

// The activations of a lane's k in a tile, as pairs, from one row of x.
template <int bits>
__device__ __forceinline__ void load_pairs(const uint4* x,
                                           std::uint32_t (&pairs)[Codes<bits>::kPairs]) {
#pragma unroll
    for (int i = 0; i < Codes<bits>::kPairs / 4; ++i) {
        const uint4 words = x[i];
        pairs[4 * i] = words.x;
        pairs[4 * i + 1] = words.y;
        pairs[4 * i + 2] = words.z;
        pairs[4 * i + 3] = words.w;
    }
}

// Spans a turn where a warp has two mmas a tile. From sm_80 on two spans at once spill.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
inline constexpr int kSpansOfTwoMmas = 1;
#else
inline constexpr int kSpansOfTwoMmas = 2;
#endif

// Tensor cores: the weight's 16 rows are A, rows of x the 8 columns of B. The codes are exact in
// fp16 and all sums float32, so the arithmetic adds next to nothing to the error of the format.
//
// Each mma takes k from all four quarters of a tile. Where those belong to two groups (4 bits, 32)
// a row of x has a column for each, zero in the k of the other: 4 rows of x an mma.
//
// sm_75 instructions a weight in the loop, 4 bits, groups of 128 / 64 / 32, symmetric: 1.73 / 1.84
// / 1.94, whatever m up to 8 (groups of 32: up to 4, then 2.55); with zero points 1.88 / 2.05
// / 2.15 (2.82). Fp16 pairs take 2.02 / 2.24 / 2.24 at m = 1 and 7.3 / 8.4 / 8.5 at m = 8, so a
// device with tensor cores has no use for them. Tried: places worked out for each load, 2.02 for
// groups of 128 (addresses are then a fifth of the loop); one span a turn, 1.78.
template <int bits, bool zeros, bool two_groups, int mmas>
struct TensorCores : Codes<bits> {
    static constexpr int kBits = bits;
    static constexpr bool kZeros = zeros;
    static constexpr int kTokensAtOnce = two_groups ? 4 : 8;
    static constexpr int kTokens = mmas * kTokensAtOnce;
    static constexpr int kBlocks = two_groups ? 2 : 4, kUnroll = mmas > 1 ? kSpansOfTwoMmas : 2;
    using typename Codes<bits>::Zero;

    __device__ TensorCores(const DecodeOperands& p, int lane) {
        const int column = lane / 4, quarter = lane % 4;
        has_k_ = !two_groups || column / 4 == quarter / 2;
        for (int i = 0; i < mmas; ++i) {
            // Columns past m repeat the last row of x; nobody reads them.
            const int token = min(column % kTokensAtOnce + i * kTokensAtOnce, p.m - 1);
            x_[i] = reinterpret_cast<const uint4*>(static_cast<const __half*>(p.x) +
                                                   token * p.stride_x) +
                    quarter * kWords;
        }
    }

    __device__ void multiply(const uint4& codes, const Zero (&zero)[2], int tile) {
        std::uint32_t a[2][kPairs], x[mmas][kPairs] = {};
#pragma unroll
        for (int i = 0; i < mmas; ++i)
            if (has_k_) load_pairs<bits>(x_[i] + tile * 4 * kWords, x[i]);
        unpack_tile<bits>(codes, zero, a);
#pragma unroll
        for (int pair = 0; pair < kPairs; ++pair)
#pragma unroll
            for (int i = 0; i < mmas; ++i)
                mma_m16n8k8(sums_[i], {a[0][pair], a[1][pair]}, x[i][pair], sums_[i]);
    }

    __device__ void advance(int tiles) {
        for (int i = 0; i < mmas; ++i) x_[i] += tiles * 4 * kWords;
    }

    __device__ void close_group(const float (&scale)[2]) {
#pragma unroll
        for (int i = 0; i < mmas; ++i)
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                totals_[i][j] = fmaf(sums_[i][j], scale[j / 2], totals_[i][j]);
                sums_[i][j] = 0;
            }
    }

    __device__ void write(int lane, float (*totals)[kTotalsStride]) const {
        const int row = lane / 4, column = 2 * (lane % 4);
        for (int i = 0; i < mmas; ++i)
            for (int j = 0; j < 4; ++j) {
                float total = totals_[i][j];
                if (two_groups) total += __shfl_xor_sync(0xffffffff, total, 2);
                if (column < kTokensAtOnce)
                    totals[i * kTokensAtOnce + column + j % 2][row + j / 2 * 8] = total;
            }
    }

 private:
    static constexpr int kPairs = Codes<bits>::kPairs, kWords = kPairs / 4;
    const uint4* x_[mmas];
    bool has_k_;
    float sums_[mmas][4] = {}, totals_[mmas][4] = {};
};

// Without tensor cores: fp16 pairs. A sum of fp16 has 16 products at most before it is closed (128
// k in four lanes, two sums each), each of at most |x|, so it rounds at most 16 times, by 2^-11 of
// what it then is.
template <int bits, bool zeros, int tokens>
struct HalfPairs : Codes<bits> {
    static constexpr int kBits = bits;
    static constexpr bool kZeros = zeros;
    static constexpr int kTokens = tokens;
    static constexpr int kBlocks = tokens > 4 ? 2 : tokens > 2 ? 3 : 4;
    static constexpr int kUnroll = tokens > 4 ? 1 : 2;
    using typename Codes<bits>::Zero;

    __device__ HalfPairs(const DecodeOperands& p, int lane) {
        x_ = static_cast<const uint4*>(p.x) + lane % 4 * kWords;
        for (int token = 0; token < tokens; ++token)
            row_[token] = min(token, p.m - 1) * static_cast<int>(p.stride_x / 8);
    }

    __device__ void multiply(const uint4& codes, const Zero (&zero)[2], int tile) {
        std::uint32_t weights[2][kPairs];
        unpack_tile<bits>(codes, zero, weights);
#pragma unroll
        for (int token = 0; token < tokens; ++token) {
            std::uint32_t x[kPairs];
            load_pairs<bits>(x_ + row_[token] + tile * 4 * kWords, x);
#pragma unroll
            for (int pair = 0; pair < kPairs; ++pair)
#pragma unroll
                for (int r = 0; r < 2; ++r)
                    sums_[r][token] =
                        __hfma2(as_half2(weights[r][pair]), as_half2(x[pair]), sums_[r][token]);
        }
    }

    __device__ void advance(int tiles) { x_ += tiles * 4 * kWords; }

    __device__ void close_group(const float (&scale)[2]) {
#pragma unroll
        for (int r = 0; r < 2; ++r)
#pragma unroll
            for (int token = 0; token < tokens; ++token) {
                const float2 sum = __half22float2(sums_[r][token]);
                totals_[r][token] = fmaf(sum.x + sum.y, scale[r], totals_[r][token]);
                sums_[r][token] = as_half2(0);
            }
    }

    __device__ void write(int lane, float (*totals)[kTotalsStride]) const {
        write_rows(totals_, lane, totals);
    }

 private:
    static constexpr int kPairs = Codes<bits>::kPairs, kWords = kPairs / 4;
    const uint4* x_;
    int row_[tokens];
    __half2 sums_[2][tokens] = {};
    float totals_[2][tokens] = {};
};

// The kernel for a group and a number of rows of x.
template <int bits, int group, bool zeros>
DecodeEntry fp16_entry(std::int64_t m, const Device& device) {
    constexpr bool two_groups = group < tile_length(bits);
    if (device.has_tensor_cores) {
        if constexpr (two_groups)
            if (m > 4) return &decode<TensorCores<bits, zeros, true, 2>, group>;
        return &decode<TensorCores<bits, zeros, two_groups, 1>, group>;
    }
    if (m == 1) return &decode<HalfPairs<bits, zeros, 1>, group>;
    if (m == 2) return &decode<HalfPairs<bits, zeros, 2>, group>;
    if (m <= 4) return &decode<HalfPairs<bits, zeros, 4>, group>;
    return &decode<HalfPairs<bits, zeros, 8>, group>;
}

template <int bits, bool zeros>
DecodeEntry fp16_entry(const Product& product, const Device& device) {
    const int group = decode_group(product.weight);
    if (group == 32) return fp16_entry<bits, 32, zeros>(product.m, device);
    if (group == 64) return fp16_entry<bits, 64, zeros>(product.m, device);
    return fp16_entry<bits, 128, zeros>(product.m, device);
}

}  // namespace sllmbench::cuda
