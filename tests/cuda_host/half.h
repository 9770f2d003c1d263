// fp16 and its intrinsics: IEEE binary16, subnormals kept, one rounding to nearest even an
// operation, every NaN the one that NVIDIA's arithmetic gives.
#pragma once

#include <immintrin.h>

#include <bit>
#include <cmath>
#include <cstdint>

#include "vector_types.h"

struct __half {
    std::uint16_t bits;
};
using half = __half;
struct alignas(4) __half2 {
    __half x, y;
};
using half2 = __half2;

namespace cuda_host {

inline constexpr std::uint16_t kHalfNan = 0x7fff;

inline float widen(__half a) {
    return _cvtsh_ss(a.bits);
}
inline __half round_to_half(float a) {
    return {a == a ? static_cast<std::uint16_t>(_cvtss_sh(a, _MM_FROUND_TO_NEAREST_INT))
                   : kHalfNan};
}
// Through a float rounded to odd, so that the second rounding sees on which side of a tie it is.
inline __half round_to_half(double a) {
    const float nearest = static_cast<float>(a);
    std::uint32_t bits = std::bit_cast<std::uint32_t>(nearest);
    if (static_cast<double>(nearest) != a && std::isfinite(a) && std::isfinite(nearest)) {
        if (std::fabs(static_cast<double>(nearest)) > std::fabs(a)) --bits;  // towards zero
        bits |= 1;
    }
    return round_to_half(std::bit_cast<float>(bits));
}
// A product has 22 bits and the sum with c never needs more than 53 where it can be near a tie.
inline __half fused(__half a, __half b, __half c) {
    return round_to_half(static_cast<double>(widen(a)) * widen(b) + widen(c));
}

}  // namespace cuda_host

inline float __half2float(__half a) {
    return cuda_host::widen(a);
}
inline __half __float2half_rn(float a) {
    return cuda_host::round_to_half(a);
}
inline __half __float2half(float a) {
    return cuda_host::round_to_half(a);
}
inline __half __double2half(double a) {
    return cuda_host::round_to_half(a);
}
inline __half __int2half_rn(int a) {
    return cuda_host::round_to_half(static_cast<double>(a));
}
inline __half __ushort_as_half(unsigned short a) {
    return {a};
}
inline unsigned short __half_as_ushort(__half a) {
    return a.bits;
}

// One rounding in float is enough: its 24 bits are more than twice 11 and 2.
inline __half __hadd(__half a, __half b) {
    return cuda_host::round_to_half(cuda_host::widen(a) + cuda_host::widen(b));
}
inline __half __hsub(__half a, __half b) {
    return cuda_host::round_to_half(cuda_host::widen(a) - cuda_host::widen(b));
}
inline __half __hmul(__half a, __half b) {
    return cuda_host::round_to_half(cuda_host::widen(a) * cuda_host::widen(b));
}
inline __half __hfma(__half a, __half b, __half c) {
    return cuda_host::fused(a, b, c);
}
inline __half __hneg(__half a) {
    return {static_cast<std::uint16_t>(a.bits ^ 0x8000)};
}
inline __half __habs(__half a) {
    return {static_cast<std::uint16_t>(a.bits & 0x7fff)};
}
inline bool __hisnan(__half a) {
    return (a.bits & 0x7fff) > 0x7c00;
}
inline __half __hmax(__half a, __half b) {  // a number where one of both is NaN; +0 above -0
    if (__hisnan(a)) return __hisnan(b) ? __half{cuda_host::kHalfNan} : b;
    if (__hisnan(b)) return a;
    const float x = cuda_host::widen(a), y = cuda_host::widen(b);
    if (x == y) return a.bits & 0x8000 ? b : a;
    return x > y ? a : b;
}
inline __half __hmin(__half a, __half b) {
    return __hneg(__hmax(__hneg(a), __hneg(b)));
}
inline bool __hgt(__half a, __half b) {
    return cuda_host::widen(a) > cuda_host::widen(b);
}
inline bool __hlt(__half a, __half b) {
    return cuda_host::widen(a) < cuda_host::widen(b);
}
inline bool __heq(__half a, __half b) {
    return cuda_host::widen(a) == cuda_host::widen(b);
}

inline __half2 __halves2half2(__half low, __half high) {
    return {low, high};
}
inline __half2 make_half2(__half low, __half high) {
    return {low, high};
}
inline __half2 __half2half2(__half a) {
    return {a, a};
}
inline __half2 __float2half2_rn(float a) {
    return {__float2half_rn(a), __float2half_rn(a)};
}
inline __half2 __floats2half2_rn(float low, float high) {
    return {__float2half_rn(low), __float2half_rn(high)};
}
inline __half2 __float22half2_rn(float2 a) {
    return {__float2half_rn(a.x), __float2half_rn(a.y)};
}
inline float2 __half22float2(__half2 a) {
    return {__half2float(a.x), __half2float(a.y)};
}
inline __half __low2half(__half2 a) {
    return a.x;
}
inline __half __high2half(__half2 a) {
    return a.y;
}
inline float __low2float(__half2 a) {
    return __half2float(a.x);
}
inline float __high2float(__half2 a) {
    return __half2float(a.y);
}
inline __half2 __low2half2(__half2 a) {
    return {a.x, a.x};
}
inline __half2 __high2half2(__half2 a) {
    return {a.y, a.y};
}
inline __half2 __lows2half2(__half2 a, __half2 b) {
    return {a.x, b.x};
}
inline __half2 __highs2half2(__half2 a, __half2 b) {
    return {a.y, b.y};
}
inline __half2 __lowhigh2highlow(__half2 a) {
    return {a.y, a.x};
}
inline __half2 __hadd2(__half2 a, __half2 b) {
    return {__hadd(a.x, b.x), __hadd(a.y, b.y)};
}
inline __half2 __hsub2(__half2 a, __half2 b) {
    return {__hsub(a.x, b.x), __hsub(a.y, b.y)};
}
inline __half2 __hmul2(__half2 a, __half2 b) {
    return {__hmul(a.x, b.x), __hmul(a.y, b.y)};
}
inline __half2 __hfma2(__half2 a, __half2 b, __half2 c) {
    return {__hfma(a.x, b.x, c.x), __hfma(a.y, b.y, c.y)};
}
inline __half2 __hneg2(__half2 a) {
    return {__hneg(a.x), __hneg(a.y)};
}
inline __half2 __habs2(__half2 a) {
    return {__habs(a.x), __habs(a.y)};
}
inline __half2 __hmax2(__half2 a, __half2 b) {
    return {__hmax(a.x, b.x), __hmax(a.y, b.y)};
}
inline __half2 __hmin2(__half2 a, __half2 b) {
    return {__hmin(a.x, b.x), __hmin(a.y, b.y)};
}
