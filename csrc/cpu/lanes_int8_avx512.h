// What the AVX-512 kernels with int8 arithmetic share.
//
// Everything is static: each per-ISA file keeps its own copy (see check_linkage.cmake).
#pragma once

#include "cpu/lanes_avx512.h"

namespace sllmbench {

// Kernels::prepare of rows row_begin .. row_end-1, for weights whose stored code `zero` is 0.
static inline void quantise_rows(const Job& job, std::int64_t row_begin, std::int64_t row_end,
                                 int zero) {
    for (std::int64_t row = row_begin; row < row_end; ++row)
        for (std::int64_t b = 0; b < job.n_blocks; ++b) {
            const Block& block = job.blocks[b];
            __m512 values[kVectors];
            const int largest_bits = load_block(job, row, block, values);
            const bool finite = largest_bits < kInfinityBits;
            const float largest = _mm_cvtss_f32(_mm_castsi128_ps(_mm_cvtsi32_si128(largest_bits)));
            const __m512 inverse = _mm512_set1_ps(largest > kSmallest ? 127.0f / largest : 0.0f);
            char* const to =
                static_cast<char*>(job.values) + block.k_padded * job.rows + row * block.padded;
            __m512i sum = _mm512_setzero_si512();
            for (int i = 0; 16 * i < block.padded; ++i) {
                const __m512i code = _mm512_cvtps_epi32(_mm512_mul_ps(values[i], inverse));
                sum = _mm512_add_epi32(sum, code);
                // The row after this one may be another thread's: no byte too much.
                const __m128i bytes = _mm512_cvtepi32_epi8(code);
                if (block.padded - 16 * i >= 16)
                    _mm_storeu_si128(reinterpret_cast<__m128i*>(to + 16 * i), bytes);
                else
                    _mm_storel_epi64(reinterpret_cast<__m128i*>(to + 16 * i), bytes);
            }
            const float scale = finite ? largest / 127.0f : __builtin_nanf("");
            // A NaN's code is INT_MIN, which must not be multiplied below.
            const int total = finite ? _mm512_reduce_add_epi32(sum) : 0;
            job.scales[b * job.rows + row] = scale;
            job.sums[b * job.rows + row] = scale * static_cast<float>(total);
            job.starts[b * job.rows + row] = -zero * total;
        }
}

ALWAYS_INLINE static inline __m512i broadcast4(const std::int8_t* x) {
    int four;
    __builtin_memcpy(&four, x, sizeof four);
    return _mm512_set1_epi32(four);
}

}  // namespace sllmbench
