// A block's threads: fibers that run one at a time, each until it must wait for others.
//
// Which thread goes on is drawn by a seeded generator, mostly the one that was set free last, so
// that some warps run far ahead: what only a dropped barrier kept in order comes out wrong.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <source_location>
#include <vector>

#include "fiber.h"
#include "vector_types.h"

inline uint3 threadIdx, blockIdx;  // of the thread that runs
inline dim3 blockDim, gridDim;
inline constexpr int warpSize = 32;

namespace cuda_host {

using Where = std::source_location;

// Says what is wrong, in which kernel, block and thread, and aborts.
[[noreturn]] void fail(const char* what, const Where& where);

inline void check_alignment(const void* at, std::size_t bytes, Where where = Where::current()) {
    if (reinterpret_cast<std::uintptr_t>(at) % bytes != 0) fail("a misaligned address", where);
}

void set_seed(std::uint64_t seed);  // of the order of blocks and threads, from the next launch on

// What a lane brings to a meeting of its warp, and what it takes home.
struct Words {
    std::uint32_t word[7];
};
// Called once all have come; turns what the lanes of `mask` brought into what they take.
using Combine = void (*)(Words (&lanes)[32], std::uint32_t mask, const Where& where);
// The lanes of a mask must come with the same mask, for the same purpose, at the same place.
Words meet(std::uint32_t mask, const Words& brought, Combine combine, const Where& where);

void synchronize_block(const Where& where);

// Copies of the running thread that its copy_async_wait has not waited for yet.
struct PendingCopy {
    std::byte* to;
    const std::byte* from;  // null: zeros
    unsigned group;
};
struct PendingCopies {
    std::vector<PendingCopy> copies;
    unsigned groups_committed = 0;
};
PendingCopies& pending_copies();
unsigned lane();

// Every block of a grid, one after another. `kernel` names it in failures.
void run_grid(const std::function<void()>& body, const char* kernel, dim3 grid, dim3 block);

}  // namespace cuda_host
