// Roofs with 512-bit registers and VNNI.
// Nothing but the table may have external linkage.
#include "probes/roof_avx512.h"

namespace sllmbench {
namespace {

double int8_operations(std::int64_t iterations) {
    const __m512i a = _mm512_set1_epi8(1), b = _mm512_set1_epi8(1);
    __m512i sum[kAccumulators];
    for (auto& s : sum) s = _mm512_setzero_si512();
    for (std::int64_t i = 0; i < iterations; ++i)
        for (auto& s : sum) asm volatile("vpdpbusd %2, %1, %0" : "+v"(s) : "v"(a), "v"(b));
    return 2.0 * 64 * kAccumulators * static_cast<double>(iterations);
}

}  // namespace

extern const Roof roof_avx512_vnni;
const Roof roof_avx512_vnni = {read, int8_operations, fp32_operations};

}  // namespace sllmbench
