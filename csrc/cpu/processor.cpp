#include "cpu/processor.h"

#include <cpuid.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>

namespace sllmbench {

Cpuid cpuid(unsigned leaf, unsigned subleaf) {
    Cpuid id{};
    if (!__get_cpuid_count(leaf, subleaf, &id.reg[eax], &id.reg[ebx], &id.reg[ecx], &id.reg[edx]))
        return {};
    return id;
}

std::uint64_t saved_state() {
    constexpr unsigned kOsxsave = 1u << 27;
    if ((cpuid(1, 0).reg[ecx] & kOsxsave) == 0) return 0;
    unsigned low, high;
    asm("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return static_cast<std::uint64_t>(high) << 32 | low;
}

int request_tile_permission() {
    constexpr long kRequest = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, since Linux 5.16
    return syscall(SYS_arch_prctl, kRequest, kTileData) == 0 ? 0 : errno;
}

void let_sigill_kill() {
    signal(SIGILL, SIG_DFL);
}

}  // namespace sllmbench
