// The CPU's models of the instructions in csrc/cuda/instructions.h.
#pragma once

#include <cstdint>

#include "block.h"
#include "vector_types.h"

namespace cuda_host {

inline std::uint32_t lop3(std::uint32_t a, std::uint32_t b, std::uint32_t c, int table) {
    std::uint32_t d = 0;
    for (int i = 0; i < 8; ++i)
        if (table >> i & 1) d |= (i & 4 ? a : ~a) & (i & 2 ? b : ~b) & (i & 1 ? c : ~c);
    return d;
}

// Exact products and sum, c included, then one rounding to nearest even. A tensor core may cut
// low bits of the sum instead: its last bit can differ.
void mma_m16n8k8(std::uint32_t (&d)[2], const std::uint32_t (&a)[2], std::uint32_t b,
                 const std::uint32_t (&c)[2], Where where = Where::current());
void mma_m16n8k8(float (&d)[4], const std::uint32_t (&a)[2], std::uint32_t b, const float (&c)[4],
                 Where where = Where::current());
void mma_m8n8k16(std::int32_t (&d)[2], std::uint32_t a, std::uint32_t b, const std::int32_t (&c)[2],
                 Where where = Where::current());

inline uint4 load(const uint4* from, Where where = Where::current()) {
    check_alignment(from, 16, where);
    return *from;
}

// A copy may land at any time between its issue, which spoils the bytes, and the wait for its
// group, where it is made.
void copy_async(void* shared, const void* global, bool valid, Where where = Where::current());
void copy_async_commit();
void copy_async_wait(int pending);

}  // namespace cuda_host
