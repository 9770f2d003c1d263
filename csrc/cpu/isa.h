// The instruction sets of this build: which ones this CPU runs, and which one is used.
#pragma once

#include <span>
#include <string>

#include "cpu/matmul.h"
#include "probes/roof.h"
#include "quantize/gptq.h"

namespace sllmbench {

struct Isa {
    const char* name;
    const char* features;  // as /proc/cpuinfo spells them, separated by blanks
    const Kernels* exact;
    const Kernels* int8;
    const Roof* roof;
    GptqRows* gptq_rows;
};

// Slowest first.
std::span<const Isa> compiled_isas();
// Why this CPU or operating system cannot run it; empty when it can.
const std::string& unsupported_reason(const Isa& isa);
// Throw std::invalid_argument for a name that this build does not have or this CPU cannot run.
const Isa& compiled_isa(const std::string& name);
const Isa& supported_isa(const std::string& name);
// $SLLMBENCH_ISA, else the last supported one. Throws as supported_isa does.
const Isa& active_isa();

}  // namespace sllmbench
