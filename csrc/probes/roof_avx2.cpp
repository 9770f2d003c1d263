// Roofs with 256-bit registers. Nothing but the table may have external linkage.
#include <immintrin.h>

#include "probes/roof.h"

namespace sllmbench {
namespace {

constexpr int kAccumulators = 12;  // latency 4-5, two a cycle: ten are needed; 16 registers

std::uint64_t read(const void* p, std::size_t bytes) {
    const auto* const from = static_cast<const char*>(p);
    __m256i sum[8];
    for (auto& s : sum) s = _mm256_setzero_si256();
    for (std::size_t i = 0; i < bytes; i += sizeof sum)
        for (int j = 0; j < 8; ++j)
            sum[j] = _mm256_xor_si256(
                sum[j], _mm256_load_si256(reinterpret_cast<const __m256i*>(from + i + 32 * j)));
    for (int j = 1; j < 8; ++j) sum[0] = _mm256_xor_si256(sum[0], sum[j]);
    return static_cast<std::uint64_t>(_mm256_extract_epi64(sum[0], 0));
}

// What AVX2 has for int8: vpmaddubsw to pairs in 16 bits, and an addition for each. The widening to
// 32 bits, once for several of them, is left out: this is a roof.
double int8_operations(std::int64_t iterations) {
    const __m256i a = _mm256_set1_epi8(1), b = _mm256_set1_epi8(1);
    __m256i sum[kAccumulators];
    for (auto& s : sum) s = _mm256_setzero_si256();
    for (std::int64_t i = 0; i < iterations; ++i)
        for (auto& s : sum) {
            __m256i product;
            asm volatile("vpmaddubsw %2, %1, %0" : "=x"(product) : "x"(a), "x"(b));
            asm volatile("vpaddw %1, %0, %0" : "+x"(s) : "x"(product));
        }
    return 2.0 * 32 * kAccumulators * static_cast<double>(iterations);
}

double fp32_operations(std::int64_t iterations) {
    const __m256 a = _mm256_set1_ps(1), b = _mm256_set1_ps(1);
    __m256 sum[kAccumulators];
    for (auto& s : sum) s = _mm256_setzero_ps();
    for (std::int64_t i = 0; i < iterations; ++i)
        for (auto& s : sum) asm volatile("vfmadd231ps %2, %1, %0" : "+x"(s) : "x"(a), "x"(b));
    return 2.0 * 8 * kAccumulators * static_cast<double>(iterations);
}

}  // namespace

extern const Roof roof_avx2;
const Roof roof_avx2 = {read, int8_operations, fp32_operations};

}  // namespace sllmbench
