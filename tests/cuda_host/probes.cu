// Single instructions, for the tests: the CPU's model of each against what NVIDIA documents, and
// against what the PTX interpreter makes of nvcc's PTX of this very file.
//
// All take words: a, b, c and what they give, d. Where threads do not work together, thread i takes
// word i of each.
#include <cstring>
#include <utility>

#include "cuda/instructions.h"

namespace sllmbench::cuda {

using Words = std::uint32_t;

__device__ __forceinline__ unsigned place() {
    return blockIdx.x * blockDim.x + threadIdx.x;
}
__device__ __forceinline__ __half2 pair_of(Words word) {
    __half2 pair;
    memcpy(&pair, &word, sizeof pair);
    return pair;
}
__device__ __forceinline__ Words word_of(__half2 pair) {
    Words word;
    memcpy(&word, &pair, sizeof word);
    return word;
}

// Every truth table: d[256].
template <int... tables>
__device__ __forceinline__ void all_tables(Words a, Words b, Words c, Words* d,
                                           std::integer_sequence<int, tables...>) {
    ((d[tables] = lop3<tables>(a, b, c)), ...);
}
__global__ void probe_lop3(const Words* a, const Words* b, const Words* c, Words* d) {
    const unsigned i = place();
    all_tables(a[i], b[i], c[i], d + 256 * i, std::make_integer_sequence<int, 256>());
}

// A lane's words: 2 of a, 1 of b, 2 of c (halves) or 4 (floats), as many of d as of c.
__global__ void probe_mma_f16(const Words* a, const Words* b, const Words* c, Words* d) {
    const unsigned i = place();
    Words sum[2] = {c[2 * i], c[2 * i + 1]};
    mma_m16n8k8(sum, {a[2 * i], a[2 * i + 1]}, b[i], sum);
    d[2 * i] = sum[0];
    d[2 * i + 1] = sum[1];
}
__global__ void probe_mma_f32(const Words* a, const Words* b, const Words* c, Words* d) {
    const unsigned i = place();
    float sum[4];
    for (int j = 0; j < 4; ++j) sum[j] = __uint_as_float(c[4 * i + j]);
    mma_m16n8k8(sum, {a[2 * i], a[2 * i + 1]}, b[i], sum);
    for (int j = 0; j < 4; ++j) d[4 * i + j] = __float_as_uint(sum[j]);
}
// One word of a and of b, two of c and of d.
__global__ void probe_mma_s8(const Words* a, const Words* b, const Words* c, Words* d) {
    const unsigned i = place();
    std::int32_t sum[2] = {static_cast<std::int32_t>(c[2 * i]),
                           static_cast<std::int32_t>(c[2 * i + 1])};
    mma_m8n8k16(sum, a[i], b[i], sum);
    d[2 * i] = static_cast<Words>(sum[0]);
    d[2 * i + 1] = static_cast<Words>(sum[1]);
}

// Pairs of halves: d[4].
__global__ void probe_half(const Words* a, const Words* b, const Words* c, Words* d) {
    const unsigned i = place();
    const __half2 x = pair_of(a[i]), y = pair_of(b[i]), z = pair_of(c[i]);
    d[4 * i] = word_of(__hadd2(x, y));
    d[4 * i + 1] = word_of(__hsub2(x, y));
    d[4 * i + 2] = word_of(__hmul2(x, y));
    d[4 * i + 3] = word_of(__hfma2(x, y, z));
}

// a: a float to halves; b: its lower half to float; c: a float to an integer. d[3]
__global__ void probe_convert(const Words* a, const Words* b, const Words* c, Words* d) {
    const unsigned i = place();
    d[3 * i] = __half_as_ushort(__float2half_rn(__uint_as_float(a[i])));
    d[3 * i + 1] = __float_as_uint(__low2float(pair_of(b[i])));
    d[3 * i + 2] = static_cast<Words>(__float2int_rn(__uint_as_float(c[i])));
}

// d[4]: dp4a, both ways to pick bytes by the same selector, a fused product of floats, a shuffle.
__global__ void probe_words(const Words* a, const Words* b, const Words* c, Words* d) {
    const unsigned i = place();
    d[4 * i] = static_cast<Words>(
        __dp4a(static_cast<int>(a[i]), static_cast<int>(b[i]), static_cast<int>(c[i])));
    d[4 * i + 1] = __byte_perm(a[i], b[i], c[i] & 0x7777);
    d[4 * i + 2] =
        __float_as_uint(fmaf(__uint_as_float(a[i]), __uint_as_float(b[i]), __uint_as_float(c[i])));
    d[4 * i + 3] = __shfl_xor_sync(0xffffffff, a[i], 5);
}

#ifdef SLLMBENCH_COPY_ASYNC
// Two groups of copies, of a and of b where c is not 0. d[12]: what a thread's 16 bytes of the
// first hold after a wait for it alone, then both after a wait for all.
__global__ void probe_copy_async(const Words* a, const Words* b, const Words* c, Words* d) {
    __shared__ uint4 first[32], second[32];
    const unsigned i = place(), t = threadIdx.x;
    copy_async(&first[t], a + 4 * i, true);
    copy_async_commit();
    copy_async(&second[t], b + 4 * i, c[i] != 0);
    copy_async_commit();
    copy_async_wait<1>();
    reinterpret_cast<uint4*>(d)[3 * i] = first[t];
    copy_async_wait<0>();
    reinterpret_cast<uint4*>(d)[3 * i + 1] = first[t];
    reinterpret_cast<uint4*>(d)[3 * i + 2] = second[t];
}
#endif

#ifdef SLLMBENCH_CUDA_HOST
namespace {

using Probe = void (*)(const Words*, const Words*, const Words*, Words*);

// What a reader sees that does not wait: on a GPU, anything.
__global__ void probe_no_wait(const Words* a, const Words*, const Words*, Words* d) {
    __shared__ uint4 buffer[32];
    const unsigned i = place();
    buffer[threadIdx.x] = uint4{1, 2, 3, 4};
    copy_async(&buffer[threadIdx.x], a + 4 * i, true);
    copy_async_commit();
    copy_async_wait<1>();
    reinterpret_cast<uint4*>(d)[i] = buffer[threadIdx.x];
}
// What shared memory holds before anybody writes it.
__global__ void probe_unwritten(const Words*, const Words*, const Words*, Words* d) {
    __shared__ Words words[32];
    d[place()] = words[threadIdx.x];
    words[threadIdx.x] = 7;
}

// Misuses that must end the process.
__global__ void misuse_barrier(const Words*, const Words*, const Words*, Words*) {
    if (threadIdx.x < 32) __syncthreads();
}
__global__ void misuse_barriers(const Words*, const Words*, const Words*, Words*) {
    if (threadIdx.x < 32)
        __syncthreads();
    else
        __syncthreads();
}
__global__ void misuse_mask(const Words*, const Words*, const Words*, Words* d) {
    d[place()] = __shfl_sync(threadIdx.x < 8 ? 0xffu : 0xffffffffu, threadIdx.x, 0);
}
__global__ void misuse_source(const Words*, const Words*, const Words*, Words* d) {
    if (threadIdx.x < 8) d[place()] = __shfl_sync(0xff, threadIdx.x, 9);
}
__global__ void misuse_place(const Words*, const Words*, const Words*, Words* d) {
    if (threadIdx.x % 2)
        d[place()] = __shfl_xor_sync(0xffffffff, threadIdx.x, 1);
    else
        d[place()] = __shfl_xor_sync(0xffffffff, threadIdx.x, 1);
}
__global__ void misuse_ended_lane(const Words*, const Words*, const Words*, Words* d) {
    if (threadIdx.x == 3) return;
    d[place()] = __shfl_sync(0xffffffff, threadIdx.x, 0);
}
__global__ void misuse_alignment(const Words* a, const Words*, const Words*, Words* d) {
    d[place()] = load_once(reinterpret_cast<const uint4*>(a + 1)).x;
}
__global__ void misuse_copy(const Words* a, const Words*, const Words*, Words* d) {
    copy_async(d + 4 * place(), a, true);
}

struct Named {
    const char* name;
    Probe kernel;
};
#define SLLMBENCH_NAMED(kernel) \
    Named {                     \
        #kernel, &kernel        \
    }
constexpr Named kProbes[] = {
    SLLMBENCH_NAMED(probe_lop3),       SLLMBENCH_NAMED(probe_mma_f16),
    SLLMBENCH_NAMED(probe_mma_f32),    SLLMBENCH_NAMED(probe_mma_s8),
    SLLMBENCH_NAMED(probe_half),       SLLMBENCH_NAMED(probe_convert),
    SLLMBENCH_NAMED(probe_words),      SLLMBENCH_NAMED(probe_copy_async),
    SLLMBENCH_NAMED(probe_no_wait),    SLLMBENCH_NAMED(probe_unwritten),
    SLLMBENCH_NAMED(misuse_barrier),   SLLMBENCH_NAMED(misuse_barriers),
    SLLMBENCH_NAMED(misuse_mask),      SLLMBENCH_NAMED(misuse_source),
    SLLMBENCH_NAMED(misuse_place),     SLLMBENCH_NAMED(misuse_ended_lane),
    SLLMBENCH_NAMED(misuse_alignment), SLLMBENCH_NAMED(misuse_copy),
};
#undef SLLMBENCH_NAMED

}  // namespace

extern "C" int host_probe(const char* name, unsigned blocks, unsigned threads, const Words* a,
                          const Words* b, const Words* c, Words* d) {
    for (const Named& probe : kProbes)
        if (std::strcmp(probe.name, name) == 0)
            return launch(probe.kernel, blocks, threads, nullptr, a, b, c, d);
    return cudaErrorInvalidValue;
}
#endif

}  // namespace sllmbench::cuda
