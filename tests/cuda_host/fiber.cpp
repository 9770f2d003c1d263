#include "fiber.h"

#include <sys/mman.h>

#include <cstdio>
#include <cstdlib>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

#ifndef __x86_64__
#error "the switch between fibers is written for x86-64"
#endif

namespace cuda_host {
namespace {

constexpr std::size_t kStackBytes = 256 << 10, kGuardBytes = 4 << 10;

void* scheduler_stack_pointer;
#ifdef __SANITIZE_ADDRESS__
void* scheduler_sanitizer_state;
const void* scheduler_stack;
std::size_t scheduler_stack_bytes;
#endif

// Saves what a call must keep on this stack, and goes on with another one.
extern "C" void cuda_host_switch(void** save, void* load);
asm(R"(
.text
.type cuda_host_switch, @function
cuda_host_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size cuda_host_switch, . - cuda_host_switch
)");

constexpr int kSavedRegisters = 6;

std::byte* new_stack() {
    void* const all = mmap(nullptr, kGuardBytes + kStackBytes, PROT_READ | PROT_WRITE,
                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (all == MAP_FAILED || mprotect(all, kGuardBytes, PROT_NONE) != 0) {
        std::perror("cuda_host: a fiber's stack");
        std::abort();
    }
    return static_cast<std::byte*>(all) + kGuardBytes;
}

}  // namespace

void prepare(Fiber& fiber, void (*entry)()) {
    if (fiber.stack == nullptr) fiber.stack = new_stack();
#ifdef __SANITIZE_ADDRESS__
    __asan_unpoison_memory_region(fiber.stack, kStackBytes);
    fiber.sanitizer_state = nullptr;
#endif
    auto top = reinterpret_cast<void**>(fiber.stack + kStackBytes);
    *--top = nullptr;  // as if entry had been called from nowhere: the stack is aligned as it wants
    *--top = reinterpret_cast<void*>(entry);
    for (int i = 0; i < kSavedRegisters; ++i) *--top = nullptr;
    fiber.stack_pointer = top;
}

void resume(Fiber& fiber) {
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_start_switch_fiber(&scheduler_sanitizer_state, fiber.stack, kStackBytes);
#endif
    cuda_host_switch(&scheduler_stack_pointer, fiber.stack_pointer);
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_finish_switch_fiber(scheduler_sanitizer_state, nullptr, nullptr);
#endif
}

void started(Fiber& fiber) {
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_finish_switch_fiber(fiber.sanitizer_state, &scheduler_stack,
                                    &scheduler_stack_bytes);
#else
    static_cast<void>(fiber);
#endif
}

void suspend(Fiber& fiber) {
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_start_switch_fiber(&fiber.sanitizer_state, scheduler_stack, scheduler_stack_bytes);
#endif
    cuda_host_switch(&fiber.stack_pointer, scheduler_stack_pointer);
    started(fiber);
}

}  // namespace cuda_host
