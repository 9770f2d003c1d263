// Whether AMX's int8 instructions do what the processor says they do.
#pragma once

#include <string>

namespace sllmbench {

// Why they cannot be used though cpuid and XCR0 show them; empty when they can. Asks the kernel for
// permission first. x86-64 only.
std::string amx_int8_problem();

}  // namespace sllmbench
