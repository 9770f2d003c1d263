// What the kernels of every instruction set share.
#pragma once

#include <cstdint>

#define ALWAYS_INLINE __attribute__((always_inline))

namespace sllmbench {

// As integers, the bits of |value| from here on are an infinity or a NaN.
static constexpr std::int32_t kInfinityBits = 0x7F800000;
// Activations below this count as 0: 127 / amax must stay finite.
static constexpr float kSmallest = 1e-30f;

}  // namespace sllmbench
