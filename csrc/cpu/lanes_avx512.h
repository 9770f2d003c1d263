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
// How far the gemvs prefetch ahead, into the next panel too. One row times 8192x2048 int4-g32 from
// memory, one thread, 10th percentiles in us: int8 0 KB 301, 2 KB 287, 8 KB 272; exact 0 KB 346,
// 2 KB 346, 8 KB 287.
static constexpr int kPrefetchBytes = 8192;

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

// A group's scales and offsets: w = scale * (code - code_zero) + offset.
struct Header {
    __m512 scale[2];
    __m512 offset[2];
};

template <bool OFFSETS>
ALWAYS_INLINE static inline Header load_header(const Job& job, const std::uint8_t* from) {
    Header header;
    const auto halves = [](const std::uint8_t* p) {
        return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
    };
    header.scale[0] = halves(from);
    header.scale[1] = halves(from + 32);
    from += sizeof(Scales);
    if (!OFFSETS) {
        header.offset[0] = header.offset[1] = _mm512_setzero_ps();
    } else if (job.offset == Offset::minimum) {
        header.offset[0] = halves(from);
        header.offset[1] = halves(from + 32);
    } else {
        for (int h = 0; h < 2; ++h) {
            const __m128i zeros = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + 16 * h));
            header.offset[h] = _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(zeros)),
                                             _mm512_sub_ps(_mm512_setzero_ps(), header.scale[h]));
        }
    }
    return header;
}

ALWAYS_INLINE static inline void load_codes(const std::uint8_t* from, __m512i (&codes)[2]) {
    codes[0] = _mm512_loadu_si512(from);
    codes[1] = _mm512_loadu_si512(from + 64);
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
