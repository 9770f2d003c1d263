// What the AVX-512 kernels share: 16 rows of the weight to a register, one row to a 32-bit lane.
//
// Everything is static: each per-ISA file keeps its own copy (see check_linkage.cmake).
#pragma once

#include <immintrin.h>

#include "cpu/kinds.h"
#include "cpu/lanes.h"
#include "cpu/matmul.h"

namespace sllmbench {

static constexpr int kVectors = kBlockLength / 16;
static inline __mmask16 first(int count) {
    return static_cast<__mmask16>(count >= 16 ? 0xFFFFu : count <= 0 ? 0u : (1u << count) - 1);
}

// Loads one block of one row of x, zeros behind it; returns the bits of its largest |value|,
// compared as integers, so that a NaN is larger than everything.
ALWAYS_INLINE static inline int load_block(const Job& job, std::int64_t row, const Block& block,
                                           __m512 (&values)[kVectors]) {
    const float* const from = job.x + row * job.k + block.k;
    const int length = row < job.m ? block.length : 0;
    __m512i largest = _mm512_setzero_si512();
    for (int i = 0; i < kVectors; ++i) {
        values[i] = _mm512_maskz_loadu_ps(first(length - 16 * i), from + 16 * i);
        largest = _mm512_max_epi32(largest, _mm512_castps_si512(_mm512_abs_ps(values[i])));
    }
    return _mm512_reduce_max_epi32(largest);
}

ALWAYS_INLINE static inline __m512 load_halves(const std::uint8_t* from) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
}

ALWAYS_INLINE static inline __m512 load_signed(const std::uint8_t* from) {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes));
}

ALWAYS_INLINE static inline __m512 load_unsigned(const std::uint8_t* from) {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
    return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(bytes));
}

// A group's scales and offsets: w = scale * (code - code_zero) + offset.
struct Header {
    __m512 scale[2];
    __m512 offset[2];
};

template <bool OFFSETS>
ALWAYS_INLINE static inline Header load_header(const Job& job, const std::uint8_t* panel,
                                               const Block& block) {
    Header header;
    const std::uint8_t* const scales = panel + block.header;
    const std::uint8_t* const offsets = scales + sizeof(Scales);
    const std::uint8_t* const factors = panel + block.factors;
    for (int h = 0; h < 2; ++h) {
        header.scale[h] = load_halves(scales + 32 * h);
        header.offset[h] = _mm512_setzero_ps();
        if (job.layout.two_level)
            header.scale[h] = _mm512_mul_ps(header.scale[h], load_signed(factors + 16 * h));
        if (!OFFSETS) continue;
        const __m512 zero = _mm512_setzero_ps();
        if (job.layout.offset == Offset::zero_point) {
            header.offset[h] = _mm512_mul_ps(load_unsigned(offsets + 16 * h),
                                             _mm512_sub_ps(zero, header.scale[h]));
            continue;
        }
        header.offset[h] = load_halves(offsets + 32 * h);
        if (job.layout.two_level)
            header.offset[h] =
                _mm512_mul_ps(_mm512_sub_ps(zero, header.offset[h]),
                              load_unsigned(factors + sizeof(ScaleFactors) + 16 * h));
    }
    return header;
}

ALWAYS_INLINE static inline void load_codes(const std::uint8_t* from, __m512i (&codes)[2]) {
    codes[0] = _mm512_loadu_si512(from);
    codes[1] = _mm512_loadu_si512(from + 64);
}

// A step of 4, 5 or 6 bits as bytes: low holds k 0..3, high k 4..7, of 16 rows a register.
template <int BITS>
ALWAYS_INLINE static inline void unpack_step(const std::uint8_t* codes, __m512i (&low)[2],
                                             __m512i (&high)[2]) {
    const __m512i mask = _mm512_set1_epi8(0x0F);
    __m512i v[2];
    load_codes(codes, v);
    for (int h = 0; h < 2; ++h) {
        low[h] = _mm512_and_si512(v[h], mask);
        high[h] = _mm512_and_si512(_mm512_srli_epi16(v[h], 4), mask);
    }
    constexpr int kOrAnd = 0xF8;  // a | (b & c)
    if (BITS == 5) {
        // Each half of a register is a quarter of the panel: bit 2 (quarter) + h goes to bit 4.
        const __m512i plane = _mm512_broadcast_i64x4(
            _mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes + kStepBytes)));
        const __m512i bit = _mm512_set1_epi8(0x10);
        const auto turned = [plane](int first) {
            const int second = (first + 30) % 32;
            return _mm512_rolv_epi32(
                plane, _mm512_inserti64x4(_mm512_set1_epi32(first), _mm256_set1_epi32(second), 1));
        };
        low[0] = _mm512_ternarylogic_epi32(low[0], turned(4), bit, kOrAnd);
        high[0] = _mm512_ternarylogic_epi32(high[0], turned(3), bit, kOrAnd);
        low[1] = _mm512_ternarylogic_epi32(low[1], turned(0), bit, kOrAnd);
        high[1] = _mm512_ternarylogic_epi32(high[1], turned(31), bit, kOrAnd);
    }
    if (BITS == 6) {
        const __m512i plane = _mm512_loadu_si512(codes + kStepBytes);
        const __m512i pair = _mm512_set1_epi8(0x30);
        low[0] = _mm512_ternarylogic_epi32(low[0], _mm512_slli_epi16(plane, 4), pair, kOrAnd);
        high[0] = _mm512_ternarylogic_epi32(high[0], _mm512_slli_epi16(plane, 2), pair, kOrAnd);
        low[1] = _mm512_ternarylogic_epi32(low[1], plane, pair, kOrAnd);
        high[1] = _mm512_ternarylogic_epi32(high[1], _mm512_srli_epi16(plane, 2), pair, kOrAnd);
    }
}

ALWAYS_INLINE static inline void store_panel(const Job& job, std::int64_t panel, std::int64_t row,
                                             __m512 low, __m512 high) {
    float* const to = job.out + row * job.n + panel * kPanelRows;
    const std::int64_t rest = job.n - panel * kPanelRows;
    if (rest >= kPanelRows) {
        _mm512_storeu_ps(to, low);
        _mm512_storeu_ps(to + 16, high);
    } else {
        const auto width = static_cast<int>(rest);
        _mm512_mask_storeu_ps(to, first(width), low);
        _mm512_mask_storeu_ps(to + 16, first(width - 16), high);
    }
}

}  // namespace sllmbench
