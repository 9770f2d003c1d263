// How a per-ISA file picks one of its kernels.
#pragma once

#include "cpu/matmul.h"

namespace sllmbench {

using PanelsKernel = void (*)(const Job&, std::int64_t, std::int64_t);
using TileKernel = void (*)(const Job&, std::int64_t, std::int64_t, std::int64_t);

// The kinds of weights: 4 bits symmetric, 4 bits with offsets, 8 bits.
static inline int kind(const Job& job) {
    return job.bits == 8 ? 2 : job.offset != Offset::symmetric;
}

#define KINDS(KERNEL, M) {KERNEL<M, 4, false>, KERNEL<M, 4, true>, KERNEL<M, 8, false>}
#define ROWS_AND_KINDS(KERNEL) \
    {KINDS(KERNEL, 1), KINDS(KERNEL, 2), KINDS(KERNEL, 3), KINDS(KERNEL, 4)}

}  // namespace sllmbench
