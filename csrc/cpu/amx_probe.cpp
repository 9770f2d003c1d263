// A feature bit is no proof: there are hypervisors that pass AMX's on with no tile palette, so that
// each of its instructions is illegal. One product is tried, in a child process:
//
// - a handler for SIGILL in this process instead would belong to its other threads as well, and
//   take the place of theirs (Python's faulthandler installs one);
// - clone, not fork: no pthread_atfork handlers run, and without an exit signal the application's
//   SIGCHLD handler never hears of it. The memory is a copy: nothing the child does is seen here,
//   and the kernel, which ends every process that shares the memory of one that dumps core, ends
//   only the child. The copy of the page tables costs milliseconds for gigabytes, once a process.
//
// The child calls only what is async-signal-safe: other threads may hold any lock.
#include "cpu/amx_probe.h"

#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdint>
#include <system_error>

#include "cpu/processor.h"

namespace sllmbench {
namespace {

constexpr int kRows = 16, kColumns = 16, kDepth = 64;
enum ExitStatus { right = 0, wrong = 1 };

// [16, 64] times [64, 16] signed bytes from tiles, against the same in plain C++.
bool product_is_right() {
    struct alignas(64) Config {
        std::uint8_t palette = 1, start_row = 0, reserved[14] = {};
        std::uint16_t row_bytes[16] = {64, 64, 64};
        std::uint8_t rows[16] = {16, 16, 16};
    };
    const Config config;
    std::int8_t a[kRows * kDepth], b[kDepth * kColumns];  // b is [k / 4, n, k % 4]
    std::int32_t c[kRows * kColumns];
    for (int i = 0; i < kRows * kDepth; ++i) a[i] = static_cast<std::int8_t>(37 * i + 5);
    for (int i = 0; i < kDepth * kColumns; ++i) b[i] = static_cast<std::int8_t>(101 * i - 90);
    constexpr std::int64_t kStride = 64;
    asm volatile(
        "ldtilecfg %0\n"
        "tilezero %%tmm0\n"
        "tileloadd (%1,%4,1), %%tmm1\n"
        "tileloadd (%2,%4,1), %%tmm2\n"
        "tdpbssd %%tmm2, %%tmm1, %%tmm0\n"
        "tilestored %%tmm0, (%3,%4,1)\n"
        "tilerelease"
        :
        : "m"(config), "r"(a), "r"(b), "r"(c), "r"(kStride)
        : "memory");
    for (int m = 0; m < kRows; ++m)
        for (int n = 0; n < kColumns; ++n) {
            std::int32_t sum = 0;
            for (int k = 0; k < kDepth; ++k)
                sum += a[m * kDepth + k] * b[(k / 4 * kColumns + n) * 4 + k % 4];
            if (c[m * kColumns + n] != sum) return false;
        }
    return true;
}

std::string describe(const char* what, int error) {
    return std::string(what) + ": " + std::generic_category().message(error);
}

std::string verdict(int status) {
    const std::string advertised = "amx_int8 is advertised, but ";
    if (WIFSIGNALED(status) && WTERMSIG(status) == SIGILL)
        return advertised + "its instructions die with SIGILL here";
    if (WIFSIGNALED(status))
        return advertised + "trying it ended with signal " + std::to_string(WTERMSIG(status));
    if (WEXITSTATUS(status) != right) return advertised + "a product came out wrong here";
    return {};
}

}  // namespace

std::string amx_int8_problem() {
    if (const int error = request_tile_permission())
        return describe(error == ENOSPC ? "a thread's signal stack is too small for AMX's tiles"
                                        : "the operating system does not permit AMX's tiles",
                        error);
    const long child = syscall(SYS_clone, 0L, 0L, 0L, 0L, 0L);
    if (child < 0) return describe("amx_int8 cannot be tried in a child process", errno);
    if (child == 0) {
        prctl(PR_SET_DUMPABLE, 0);  // an illegal instruction leaves no core file
        let_sigill_kill();
        _exit(product_is_right() ? right : wrong);
    }
    int status = 0;
    while (waitpid(static_cast<pid_t>(child), &status, __WALL) < 0)
        if (errno != EINTR) return describe("waiting for the trial of amx_int8 failed", errno);
    return verdict(status);
}

}  // namespace sllmbench
