// csrc/cpu/processor.h for a machine with AMX made of software: this processor plus the feature
// bits, the saved state and the permission. $AMX_EMULATOR makes one of them fail:
//   absent   no amx_int8 bit             unsaved  the operating system saves no tiles
//   denied   no permission               illegal  advertised, but the instructions are illegal
//   wrong    every product is too large
#include "cpu/processor.h"

#include <cpuid.h>
#include <signal.h>

#include <cerrno>
#include <cstdlib>
#include <string_view>

#include "emulator.h"

namespace sllmbench {
namespace {

bool fails(std::string_view what) {
    const char* const given = std::getenv("AMX_EMULATOR");
    return given != nullptr && given == what;
}

}  // namespace

Cpuid cpuid(unsigned leaf, unsigned subleaf) {
    Cpuid id{};
    if (!__get_cpuid_count(leaf, subleaf, &id.reg[eax], &id.reg[ebx], &id.reg[ecx], &id.reg[edx]))
        return {};
    if (leaf == 7 && subleaf == 0)
        id.reg[edx] |= 1u << 24 | (fails("absent") ? 0u : 1u << 25);  // amx_tile, amx_int8
    return id;
}

std::uint64_t saved_state() {
    unsigned low, high;
    asm("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return low | (fails("unsaved") ? 0u : 3u << 17);
}

int request_tile_permission() {
    if (fails("denied")) return EPERM;
    // Not before: unpermitted instructions are illegal, as on hardware.
    amx_emulator::install(fails("wrong"));
    return 0;
}

void let_sigill_kill() {
    if (fails("illegal")) signal(SIGILL, SIG_DFL);
}

}  // namespace sllmbench
