// The roofs that every level with 512-bit registers has.
//
// Everything is static: each per-ISA file keeps its own copy (see check_linkage.cmake).
#pragma once

#include <immintrin.h>

#include "probes/roof.h"

namespace sllmbench {

static constexpr int kAccumulators = 16;  // latency 4, two a cycle: eight are needed

static inline std::uint64_t read(const void* p, std::size_t bytes) {
    const auto* const from = static_cast<const char*>(p);
    __m512i sum[8];
    for (auto& s : sum) s = _mm512_setzero_si512();
    for (std::size_t i = 0; i < bytes; i += sizeof sum)
        for (int j = 0; j < 8; ++j)
            sum[j] = _mm512_xor_si512(sum[j], _mm512_load_si512(from + i + 64 * j));
    for (int j = 1; j < 8; ++j) sum[0] = _mm512_xor_si512(sum[0], sum[j]);
    return static_cast<std::uint64_t>(_mm512_reduce_add_epi64(sum[0]));
}

static inline double fp32_operations(std::int64_t iterations) {
    const __m512 a = _mm512_set1_ps(1), b = _mm512_set1_ps(1);
    __m512 sum[kAccumulators];
    for (auto& s : sum) s = _mm512_setzero_ps();
    for (std::int64_t i = 0; i < iterations; ++i)
        for (auto& s : sum) asm volatile("vfmadd231ps %2, %1, %0" : "+v"(s) : "v"(a), "v"(b));
    return 2.0 * 16 * kAccumulators * static_cast<double>(iterations);
}

}  // namespace sllmbench
