// A function with a stack of its own that can stop in the middle and go on later.
#pragma once

#include <cstddef>

namespace cuda_host {

struct Fiber {
    std::byte* stack = nullptr;  // kept for the next use
    void* stack_pointer = nullptr;
    void* sanitizer_state = nullptr;
};

void prepare(Fiber& fiber, void (*entry)());  // entry must suspend instead of returning
void resume(Fiber& fiber);                    // returns when the fiber suspends
void started(Fiber& fiber);                   // the first thing that entry calls
void suspend(Fiber& fiber);                   // called on the fiber itself

}  // namespace cuda_host
