// What the AVX2 kernels share: 8 rows of the weight to a register, one row to a 32-bit lane.
//
// Everything is static: each per-ISA file keeps its own copy (see check_linkage.cmake).
#pragma once

#include <immintrin.h>

#include "cpu/kinds.h"
#include "cpu/lanes.h"
#include "cpu/matmul.h"

namespace sllmbench {

static constexpr int kQuarters = kPanelRows / 8;
// Copies one block of one row of x, zeros behind it; returns the bits of its largest |value|,
// compared as integers, so that a NaN is larger than everything.
ALWAYS_INLINE static inline int load_block(const Job& job, std::int64_t row, const Block& block,
                                           float* to) {
    const int length = row < job.m ? block.length : 0;
    __builtin_memcpy(to, job.x + row * job.k + block.k, sizeof(float) * length);
    for (int i = length; i < block.padded; ++i) to[i] = 0;
    const __m256i magnitude = _mm256_set1_epi32(0x7FFFFFFF);
    __m256i largest = _mm256_setzero_si256();
    for (int i = 0; i < block.padded; i += 8)
        largest = _mm256_max_epi32(
            largest, _mm256_and_si256(_mm256_castps_si256(_mm256_loadu_ps(to + i)), magnitude));
    __m128i half =
        _mm_max_epi32(_mm256_castsi256_si128(largest), _mm256_extracti128_si256(largest, 1));
    half = _mm_max_epi32(half, _mm_shuffle_epi32(half, 0x4E));
    half = _mm_max_epi32(half, _mm_shuffle_epi32(half, 0xB1));
    return _mm_cvtsi128_si32(half);
}

ALWAYS_INLINE static inline __m256 load_halves(const std::uint8_t* from) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
}

ALWAYS_INLINE static inline __m256 load_signed(const std::uint8_t* from) {
    const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(from));
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes));
}

ALWAYS_INLINE static inline __m256 load_unsigned(const std::uint8_t* from) {
    const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(from));
    return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes));
}

// w = scale * (code - code_zero) + offset, for the eight rows of a quarter.
ALWAYS_INLINE static inline __m256 load_scale(const Job& job, const std::uint8_t* panel,
                                              const Block& block, int quarter) {
    const __m256 scale = load_halves(panel + block.header + 16 * quarter);
    if (!job.layout.two_level) return scale;
    return _mm256_mul_ps(scale, load_signed(panel + block.factors + 8 * quarter));
}

ALWAYS_INLINE static inline __m256 load_offset(const Job& job, const std::uint8_t* panel,
                                               const Block& block, int quarter, __m256 scale) {
    const std::uint8_t* const offsets = panel + block.header + sizeof(Scales);
    const __m256 zero = _mm256_setzero_ps();
    if (job.layout.offset == Offset::zero_point)
        return _mm256_mul_ps(load_unsigned(offsets + 8 * quarter), _mm256_sub_ps(zero, scale));
    const __m256 minimum = load_halves(offsets + 16 * quarter);
    if (!job.layout.two_level) return minimum;
    return _mm256_mul_ps(_mm256_sub_ps(zero, minimum),
                         load_unsigned(panel + block.factors + sizeof(ScaleFactors) + 8 * quarter));
}

ALWAYS_INLINE static inline __m256i load_codes(const std::uint8_t* from) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
}

// A quarter of a step of 4, 5 or 6 bits as bytes: low holds k 0..3 of its 8 rows, high k 4..7.
template <int BITS>
ALWAYS_INLINE static inline void unpack_step(const std::uint8_t* codes, int quarter, __m256i& low,
                                             __m256i& high) {
    const __m256i mask = _mm256_set1_epi8(0x0F);
    const __m256i v = load_codes(codes + 32 * quarter);
    low = _mm256_and_si256(v, mask);
    high = _mm256_and_si256(_mm256_srli_epi16(v, 4), mask);
    if (BITS == 4) return;
    // `bits` of each byte of the plane, moved down to bit 0 and up to bit 4.
    const auto upper = [](__m256i plane, int at, int bits) {
        const __m256i down = _mm256_srl_epi16(plane, _mm_cvtsi32_si128(at));
        const __m256i wanted = _mm256_set1_epi8(static_cast<char>((1 << bits) - 1));
        return _mm256_slli_epi16(_mm256_and_si256(down, wanted), 4);
    };
    if (BITS == 5) {
        const __m256i plane = load_codes(codes + kStepBytes);
        low = _mm256_or_si256(low, upper(plane, 2 * quarter, 1));
        high = _mm256_or_si256(high, upper(plane, 2 * quarter + 1, 1));
    } else {
        const __m256i plane = load_codes(codes + kStepBytes + 32 * (quarter % 2));
        low = _mm256_or_si256(low, upper(plane, 4 * (quarter / 2), 2));
        high = _mm256_or_si256(high, upper(plane, 4 * (quarter / 2) + 2, 2));
    }
}

ALWAYS_INLINE static inline __m256i signed_codes(const std::uint8_t* from) {
    return _mm256_xor_si256(load_codes(from), _mm256_set1_epi8(-128));
}

static inline void store_panel(const Job& job, std::int64_t panel, std::int64_t row,
                               const float* y) {
    float* const to = job.out + row * job.n + panel * kPanelRows;
    const std::int64_t width = job.n - panel * kPanelRows;
    if (width >= kPanelRows)
        __builtin_memcpy(to, y, kPanelRows * sizeof(float));
    else
        __builtin_memcpy(to, y, static_cast<std::size_t>(width) * sizeof(float));
}

}  // namespace sllmbench
