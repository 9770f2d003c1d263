// AMX in software, for machines without it: the tests of the AMX kernels run on it.
#pragma once

namespace amx_emulator {

// From here on an AMX instruction that dies with SIGILL is executed in software instead, on tiles
// that each thread has of its own. Wrong use ends the process with a line that says what was wrong.
// `wrong_products` makes every product come out too large, as a broken machine might.
void install(bool wrong_products);

}  // namespace amx_emulator
