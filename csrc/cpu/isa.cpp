#include "cpu/isa.h"

#include <cstdlib>
#include <iterator>
#include <mutex>
#include <sstream>
#include <stdexcept>
#include <string_view>

#include "isa_table.h"

#if defined(__x86_64__)
#include "cpu/amx_probe.h"
#include "cpu/processor.h"
#endif

namespace sllmbench {

#define SLLMBENCH_DECLARE(name, exact_of, features) \
    extern const Kernels kernels_exact_##exact_of;  \
    extern const Kernels kernels_int8_##name;       \
    extern const Roof roof_##name;                  \
    GptqRows gptq_rows_##exact_of;
SLLMBENCH_ISA_TABLE(SLLMBENCH_DECLARE)
#undef SLLMBENCH_DECLARE

namespace {

#define SLLMBENCH_ROW(name, exact_of, features) \
    {#name,                                     \
     features,                                  \
     &kernels_exact_##exact_of,                 \
     &kernels_int8_##name,                      \
     &roof_##name,                              \
     &gptq_rows_##exact_of},
constexpr Isa kIsas[] = {SLLMBENCH_ISA_TABLE(SLLMBENCH_ROW)};
#undef SLLMBENCH_ROW

#if defined(__x86_64__)

// Register state that the operating system must save on a context switch, as bits of XCR0.
constexpr std::uint64_t kYmm = 0x06, kZmm = 0xE6, kTiles = 0x60000 | kZmm;

struct Feature {
    std::string_view name;
    unsigned leaf;
    CpuidRegister reg;
    int bit;
    std::uint64_t state;
    std::string (*problem)() = nullptr;  // what these bits do not show; empty: none
};
constexpr Feature kFeatures[] = {
    {"fma", 1, ecx, 12, kYmm},        {"f16c", 1, ecx, 29, kYmm},
    {"avx2", 7, ebx, 5, kYmm},        {"avx512f", 7, ebx, 16, kZmm},
    {"avx512dq", 7, ebx, 17, kZmm},   {"avx512bw", 7, ebx, 30, kZmm},
    {"avx512vl", 7, ebx, 31, kZmm},   {"avx512_vnni", 7, ecx, 11, kZmm},
    {"amx_tile", 7, edx, 24, kTiles}, {"amx_int8", 7, edx, 25, kTiles, amx_int8_problem},
};

std::string missing(std::string_view name) {
    for (const Feature& feature : kFeatures) {
        if (feature.name != name) continue;
        if ((cpuid(feature.leaf, 0).reg[feature.reg] >> feature.bit & 1u) == 0)
            return "this CPU lacks " + std::string(name);
        if ((saved_state() & feature.state) != feature.state)
            return "the operating system does not save the registers of " + std::string(name);
        return feature.problem == nullptr ? std::string{} : feature.problem();
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
    // Asked once: cpuid leaves the virtual machine, 20 us each time where this was measured. Each
    // level apart: where another is forced, nobody asks for AMX's permission or tries it.
    struct Answer {
        std::once_flag asked;
        std::string reason;
    };
    static Answer answers[std::size(kIsas)];
    Answer& answer = answers[&isa - kIsas];
    std::call_once(answer.asked, [&] { answer.reason = first_missing(isa.features); });
    return answer.reason;
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
        const Isa* best = std::end(kIsas) - 1;
        while (best != kIsas && !unsupported_reason(*best).empty()) --best;
        return *best;
    }();
    return active;
}

}  // namespace sllmbench
