// One function an instruction that C++ has no word for. On a GPU it is PTX; on the tests' shim the
// CPU's model of it. That both mean the same is proved by the PTX interpreter, bit for bit.
#pragma once

#include <cstdint>

#include "cuda/device.h"

namespace sllmbench::cuda {

// Any function of three bits, as its truth table: table(0xf0, 0xcc, 0xaa).
template <int table>
__device__ __forceinline__ std::uint32_t lop3(std::uint32_t a, std::uint32_t b, std::uint32_t c) {
#ifdef SLLMBENCH_CUDA_HOST
    return cuda_host::lop3(a, b, c, table);
#else
    std::uint32_t d;
    asm("lop3.b32 %0, %1, %2, %3, %4;" : "=r"(d) : "r"(a), "r"(b), "r"(c), "n"(table));
    return d;
#endif
}

// (a & b) | c, in one instruction where the compiler might take two.
__device__ __forceinline__ std::uint32_t and_or(std::uint32_t a, std::uint32_t b, std::uint32_t c) {
    return lop3<(0xf0 & 0xcc) | 0xaa>(a, b, c);
}

// A warp's d[16][8] = a[16][8] b[8][8] + c, all fp16. Lane 4g + t holds a: rows g (a[0]) and g + 8
// (a[1]), columns 2t, 2t + 1; b: rows 2t, 2t + 1, column g; c, d: rows g and g + 8, columns 2t,
// 2t + 1. sm_75.
__device__ __forceinline__ void mma_m16n8k8(std::uint32_t (&d)[2], const std::uint32_t (&a)[2],
                                            std::uint32_t b, const std::uint32_t (&c)[2]) {
#ifdef SLLMBENCH_CUDA_HOST
    cuda_host::mma_m16n8k8(d, a, b, c);
#else
    asm("mma.sync.aligned.m16n8k8.row.col.f16.f16.f16.f16 {%0, %1}, {%2, %3}, {%4}, {%5, %6};"
        : "=r"(d[0]), "=r"(d[1])
        : "r"(a[0]), "r"(a[1]), "r"(b), "r"(c[0]), "r"(c[1]));
#endif
}

// The same with sums in float32: c, d: row g (0, 1) and g + 8 (2, 3), columns 2t, 2t + 1. sm_75.
__device__ __forceinline__ void mma_m16n8k8(float (&d)[4], const std::uint32_t (&a)[2],
                                            std::uint32_t b, const float (&c)[4]) {
#ifdef SLLMBENCH_CUDA_HOST
    cuda_host::mma_m16n8k8(d, a, b, c);
#else
    asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, "
        "{%7, %8, %9, %10};"
        : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(b), "f"(c[0]), "f"(c[1]), "f"(c[2]), "f"(c[3]));
#endif
}

// A warp's d[8][8] = a[8][16] b[16][8] + c, int8 into int32. Lane 4g + t holds a: row g, columns
// 4t .. 4t + 3; b: rows 4t .. 4t + 3, column g; c, d: row g, columns 2t, 2t + 1. sm_75.
__device__ __forceinline__ void mma_m8n8k16(std::int32_t (&d)[2], std::uint32_t a, std::uint32_t b,
                                            const std::int32_t (&c)[2]) {
#ifdef SLLMBENCH_CUDA_HOST
    cuda_host::mma_m8n8k16(d, a, b, c);
#else
    asm("mma.sync.aligned.m8n8k16.row.col.s32.s8.s8.s32 {%0, %1}, {%2}, {%3}, {%4, %5};"
        : "=r"(d[0]), "=r"(d[1])
        : "r"(a), "r"(b), "r"(c[0]), "r"(c[1]));
#endif
}

// Stop the whole launch with an error, from a place that cannot be reached unless something is
// wrong.
__device__ __forceinline__ void fault() {
#ifdef SLLMBENCH_CUDA_HOST
    cuda_host::fail("a fault that the kernel raised", cuda_host::Where::current());
#else
    __trap();
#endif
}

// 16 bytes that are read once: not kept in L1.
__device__ __forceinline__ uint4 load_once(const uint4* from) {
#ifdef SLLMBENCH_CUDA_HOST
    return cuda_host::load(from);
#else
    uint4 v;
    asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "l"(from));
    return v;
#endif
}

#if defined(SLLMBENCH_CUDA_HOST) || (defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800)
#define SLLMBENCH_COPY_ASYNC 1
// 16 bytes from global to shared memory without registers, zeros where not `valid`. sm_80.
__device__ __forceinline__ void copy_async(void* shared, const void* global, bool valid) {
#ifdef SLLMBENCH_CUDA_HOST
    cuda_host::copy_async(shared, global, valid);
#else
    const auto to = static_cast<std::uint32_t>(__cvta_generic_to_shared(shared));
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(global),
                 "r"(valid ? 16 : 0)
                 : "memory");
#endif
}
__device__ __forceinline__ void copy_async_commit() {
#ifdef SLLMBENCH_CUDA_HOST
    cuda_host::copy_async_commit();
#else
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}
// Wait until at most `pending` of the committed groups are under way.
template <int pending>
__device__ __forceinline__ void copy_async_wait() {
#ifdef SLLMBENCH_CUDA_HOST
    cuda_host::copy_async_wait(pending);
#else
    asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
#endif
}
#endif

}  // namespace sllmbench::cuda
