#include "cpu/isa.h"

#include <cstdlib>
#include <sstream>
#include <stdexcept>
#include <string_view>
#include <vector>

#include "isa_table.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace sllmbench {

#define SLLMBENCH_DECLARE(name, features)      \
    extern const Kernels kernels_exact_##name; \
    extern const Kernels kernels_int8_##name;  \
    extern const Roof roof_##name;
SLLMBENCH_ISA_TABLE(SLLMBENCH_DECLARE)
#undef SLLMBENCH_DECLARE

namespace {

#define SLLMBENCH_ROW(name, features) \
    {#name, features, &kernels_exact_##name, &kernels_int8_##name, &roof_##name},
constexpr Isa kIsas[] = {SLLMBENCH_ISA_TABLE(SLLMBENCH_ROW)};
#undef SLLMBENCH_ROW

#if defined(__x86_64__)

enum Register { eax, ebx, ecx, edx };
// Register state that the operating system must save on a context switch, as bits of XCR0.
constexpr unsigned kYmm = 0x06, kZmm = 0xE6;

struct Feature {
    std::string_view name;
    unsigned leaf;
    Register reg;
    int bit;
    unsigned state;
};
constexpr Feature kFeatures[] = {
    {"fma", 1, ecx, 12, kYmm},      {"f16c", 1, ecx, 29, kYmm},
    {"avx2", 7, ebx, 5, kYmm},      {"avx512f", 7, ebx, 16, kZmm},
    {"avx512dq", 7, ebx, 17, kZmm}, {"avx512bw", 7, ebx, 30, kZmm},
    {"avx512vl", 7, ebx, 31, kZmm}, {"avx512_vnni", 7, ecx, 11, kZmm},
};

unsigned saved_state() {
    unsigned regs[4];
    constexpr unsigned kOsxsave = 1u << 27;
    if (!__get_cpuid(1, &regs[eax], &regs[ebx], &regs[ecx], &regs[edx])) return 0;
    if ((regs[ecx] & kOsxsave) == 0) return 0;
    unsigned low, high;
    asm("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return low;
}

std::string missing(std::string_view name) {
    for (const Feature& feature : kFeatures) {
        if (feature.name != name) continue;
        unsigned regs[4] = {};
        __get_cpuid_count(feature.leaf, 0, &regs[eax], &regs[ebx], &regs[ecx], &regs[edx]);
        if ((regs[feature.reg] >> feature.bit & 1u) == 0)
            return "this CPU lacks " + std::string(name);
        if ((saved_state() & feature.state) != feature.state)
            return "the operating system does not save the registers of " + std::string(name);
        return {};
    }
    throw std::logic_error("isa.cmake names a CPU feature that isa.cpp does not know: " +
                           std::string(name));
}

#else

std::string missing(std::string_view name) {
    throw std::logic_error("no CPU feature is known for this processor: " + std::string(name));
}

#endif

// Why the first feature of the list that is missing is missing; empty when all are there.
std::string first_missing(const char* features) {
    std::istringstream stream(features);
    for (std::string name; stream >> name;)
        if (std::string reason = missing(name); !reason.empty()) return reason;
    return {};
}

std::string names() {
    std::string list;
    for (const Isa& isa : kIsas) list += (list.empty() ? "" : ", ") + std::string(isa.name);
    return list;
}

}  // namespace

std::span<const Isa> compiled_isas() {
    return kIsas;
}

const std::string& unsupported_reason(const Isa& isa) {
    // Asked once: cpuid leaves the virtual machine, 20 us each time where this was measured.
    static const std::vector<std::string> reasons = [] {
        std::vector<std::string> list;
        for (const Isa& each : kIsas) list.push_back(first_missing(each.features));
        return list;
    }();
    return reasons[static_cast<std::size_t>(&isa - kIsas)];
}

const Isa& compiled_isa(const std::string& name) {
    for (const Isa& isa : kIsas)
        if (name == isa.name) return isa;
    throw std::invalid_argument("unknown instruction set '" + name + "'; this build has " +
                                names());
}

const Isa& supported_isa(const std::string& name) {
    const Isa& isa = compiled_isa(name);
    if (const std::string& reason = unsupported_reason(isa); !reason.empty())
        throw std::invalid_argument("instruction set '" + name + "' cannot run here: " + reason);
    return isa;
}

const Isa& active_isa() {
    // A throwing initialiser is tried again at the next call, so a bad value always raises.
    static const Isa& active = []() -> const Isa& {
        if (const char* forced = std::getenv("SLLMBENCH_ISA"); forced != nullptr && *forced) {
            try {
                return supported_isa(forced);
            } catch (const std::invalid_argument& error) {
                throw std::invalid_argument("SLLMBENCH_ISA: " + std::string(error.what()));
            }
        }
        const Isa* best = &kIsas[0];
        for (const Isa& isa : kIsas)
            if (unsupported_reason(isa).empty()) best = &isa;
        return *best;
    }();
    return active;
}

}  // namespace sllmbench
