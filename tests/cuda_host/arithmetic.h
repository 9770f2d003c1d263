// Integer, float and memory intrinsics that need nothing of other threads. Threads are fibers that
// only stop where they wait, so an atomic is what it does. fmaf, fmaxf and the like are C's own.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <type_traits>

#include "block.h"
#include "vector_types.h"

inline int min(int a, int b) {
    return std::min(a, b);
}
inline int max(int a, int b) {
    return std::max(a, b);
}
inline unsigned min(unsigned a, unsigned b) {
    return std::min(a, b);
}
inline unsigned max(unsigned a, unsigned b) {
    return std::max(a, b);
}
inline long min(long a, long b) {
    return std::min(a, b);
}
inline long max(long a, long b) {
    return std::max(a, b);
}

inline float __fmaf_rn(float a, float b, float c) {
    return std::fma(a, b, c);
}
inline float __fadd_rn(float a, float b) {
    return a + b;
}
inline float __fsub_rn(float a, float b) {
    return a - b;
}
inline float __fmul_rn(float a, float b) {
    return a * b;
}
inline float __fdiv_rn(float a, float b) {
    return a / b;
}
inline float __frcp_rn(float a) {
    return 1.0f / a;
}
inline int __float2int_rn(float a) {  // saturates; NaN is 0
    if (!(a == a)) return 0;
    if (a >= 0x1p31f) return INT32_MAX;
    if (a < -0x1p31f) return INT32_MIN;
    return static_cast<int>(std::nearbyint(a));
}
inline float __int2float_rn(int a) {
    return static_cast<float>(a);
}
inline float __uint2float_rn(unsigned a) {
    return static_cast<float>(a);
}
inline unsigned __float_as_uint(float a) {
    return std::bit_cast<unsigned>(a);
}
inline int __float_as_int(float a) {
    return std::bit_cast<int>(a);
}
inline float __uint_as_float(unsigned a) {
    return std::bit_cast<float>(a);
}
inline float __int_as_float(int a) {
    return std::bit_cast<float>(a);
}

inline int __popc(unsigned a) {
    return std::popcount(a);
}
inline int __clz(int a) {
    return std::countl_zero(static_cast<unsigned>(a));
}
inline int __ffs(int a) {
    return a == 0 ? 0 : std::countr_zero(static_cast<unsigned>(a)) + 1;
}
inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift) {
    return static_cast<unsigned>((std::uint64_t{high} << 32 | low) >> (shift & 31));
}
inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned shift) {
    return static_cast<unsigned>((std::uint64_t{high} << 32 | low) << (shift & 31) >> 32);
}
inline unsigned __byte_perm(unsigned low, unsigned high, unsigned selector,
                            cuda_host::Where where = cuda_host::Where::current()) {
    if (selector & 0x8888) cuda_host::fail("__byte_perm: a selector's fourth bit is set", where);
    const std::uint64_t bytes = std::uint64_t{high} << 32 | low;
    unsigned d = 0;
    for (int i = 0; i < 4; ++i) d |= (bytes >> 8 * (selector >> 4 * i & 7) & 0xff) << 8 * i;
    return d;
}
inline int __dp4a(int a, int b, int c) {
    unsigned sum = static_cast<unsigned>(c);  // wraps
    for (int i = 0; i < 32; i += 8)
        sum += static_cast<unsigned>(static_cast<std::int8_t>(a >> i) *
                                     static_cast<std::int8_t>(b >> i));
    return static_cast<int>(sum);
}
inline unsigned __dp4a(unsigned a, unsigned b, unsigned c) {
    for (int i = 0; i < 32; i += 8) c += (a >> i & 0xff) * (b >> i & 0xff);
    return c;
}

template <class T>
inline T __ldg(const T* from) {
    cuda_host::check_alignment(from, sizeof(T));
    return *from;
}
template <class T>
inline T __ldcs(const T* from) {
    return __ldg(from);
}
template <class T>
inline T __ldcg(const T* from) {
    return __ldg(from);
}

template <class T>
inline T atomicAdd(T* at, std::type_identity_t<T> by) {
    const T old = *at;
    *at = old + by;
    return old;
}
template <class T>
inline T atomicExch(T* at, std::type_identity_t<T> with) {
    const T old = *at;
    *at = with;
    return old;
}
template <class T>
inline T atomicMax(T* at, std::type_identity_t<T> with) {
    const T old = *at;
    *at = std::max(old, with);
    return old;
}
inline unsigned atomicInc(unsigned* at, unsigned last) {
    const unsigned old = *at;
    *at = old >= last ? 0 : old + 1;
    return old;
}
inline unsigned atomicCAS(unsigned* at, unsigned expected, unsigned with) {
    const unsigned old = *at;
    if (old == expected) *at = with;
    return old;
}

// A thread's writes are seen at once by all.
inline void __threadfence() {}
inline void __threadfence_block() {}
