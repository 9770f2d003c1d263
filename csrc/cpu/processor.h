// What the processor and the operating system say of AVX-512, AMX and the like.
//
// A border: the tests' build with -DSLLMBENCH_AMX_EMULATION=ON links a machine with AMX, made of
// software, in the place of processor.cpp (tests/amx_emulator). x86-64 only.
#pragma once

#include <cstdint>

namespace sllmbench {

enum CpuidRegister { eax, ebx, ecx, edx };
// Zeros for a leaf that the processor does not have.
struct Cpuid {
    unsigned reg[4];
};
Cpuid cpuid(unsigned leaf, unsigned subleaf);

// XCR0: the registers that the operating system saves on a context switch; 0 without xgetbv.
std::uint64_t saved_state();

// Asks the kernel to let this process use AMX's tiles; 0, or errno. Linux keeps the answer for the
// process: threads that run already have it too, children inherit it.
int request_tile_permission();

// Lets an illegal instruction end the calling process, whoever handles SIGILL.
void let_sigill_kill();

}  // namespace sllmbench
