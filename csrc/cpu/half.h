// fp16 to fp32 in plain C++, for the code that cannot count on F16C.
#pragma once

#include <cstdint>
#include <cstring>

namespace sllmbench {

// static: every file keeps its own copy, compiled with its own flags (see check_linkage.cmake).
static inline float half_to_float(std::uint16_t half) {
    const std::uint32_t sign = static_cast<std::uint32_t>(half & 0x8000u) << 16;
    const std::uint32_t magnitude = half & 0x7FFFu;
    float value;
    if (magnitude >= 0x7C00u) {  // infinity, NaN
        const std::uint32_t bits = 0x7F800000u | (magnitude & 0x3FFu) << 13;
        std::memcpy(&value, &bits, sizeof value);
    } else if (magnitude < 0x0400u) {
        // 0 and subnormals, from an integer: as the bits of a float they would be subnormal too,
        // which a thread that takes denormals for zero reads as 0. F16C does not.
        value = static_cast<float>(magnitude) * 0x1p-24f;
    } else {
        // Shifted into a float's place the exponent is 112 too small.
        const std::uint32_t bits = magnitude << 13;
        std::memcpy(&value, &bits, sizeof value);
        value *= 0x1p112f;
    }
    std::uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    bits |= sign;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

}  // namespace sllmbench
