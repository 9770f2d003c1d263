// The threads that share a call's work.
//
// One caller at a time; the caller works too. Tasks are taken from a counter, in pieces that shrink
// towards the end, and a worker that has not woken up by then is not waited for: a descheduled core
// delays a call by the piece it holds, never by its wake-up. Threads may run wherever the affinity
// mask lets them, but a worker does not stay on its caller's CPU.
#pragma once

#include <cstdint>
#include <type_traits>

namespace sllmbench {

// Threads for calls that do not say: set_threads, else $SLLMBENCH_THREADS, else the CPUs in the
// affinity mask. Throws std::invalid_argument when the environment's value is no positive number.
int configured_threads();
// Throws std::invalid_argument unless 1 <= threads <= kMaxThreads.
void set_configured_threads(int threads);
void check_threads(long long threads);
inline constexpr int kMaxThreads = 512;

using TaskFunction = void (*)(void* context, std::int64_t begin, std::int64_t end);
// Calls function(context, begin, end) for pieces that cover 0..tasks, on up to `threads` threads.
void pool_run(std::int64_t tasks, int threads, TaskFunction function, void* context);

template <class Body>
void pool_run(std::int64_t tasks, int threads, Body&& body) {
    pool_run(
        tasks, threads,
        [](void* context, std::int64_t begin, std::int64_t end) {
            (*static_cast<std::remove_reference_t<Body>*>(context))(begin, end);
        },
        &body);
}

}  // namespace sllmbench
