// The clock of a GPU's queue. The driver is found at run time; nothing of CUDA is needed to build.
#pragma once

#include <cstdint>
#include <memory>

#include "probes/clock.h"

namespace sllmbench {

// Readings are events recorded in `stream` (a CUstream's value; 0 is the default stream) of the
// context that is current; the time between two is the GPU's, and is waited for. Only the last two
// readings can be compared. Throws std::runtime_error where there is no driver, no device or no
// context, and where the driver reports an error later.
std::unique_ptr<Clock> cuda_event_clock(std::uintptr_t stream);

}  // namespace sllmbench
