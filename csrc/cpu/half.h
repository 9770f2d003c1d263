// fp16 to fp32 and back in plain C++, for the code that cannot count on F16C.
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

// To nearest, ties to even; beyond float16 to infinity.
static inline std::uint16_t float_to_half(float value) {
    std::uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    const std::uint32_t sign = bits >> 16 & 0x8000u;
    bits &= 0x7FFFFFFFu;
    std::uint32_t half;
    if (bits > 0x7F800000u) {  // NaN
        half = 0x7E00u;
    } else if (bits >= 0x477FF000u) {  // rounds to 65536 or more
        half = 0x7C00u;
    } else if (bits < 0x38800000u) {
        // Below the least normal: adding 1/2 leaves float16's last place, 2^-24, as the float's.
        float magnitude;
        std::memcpy(&magnitude, &bits, sizeof magnitude);
        magnitude += 0.5f;
        std::memcpy(&half, &magnitude, sizeof half);
        half -= 0x3F000000u;
    } else {
        // The exponent is 112 too large; half a place less one, and one where the place is odd.
        half = (bits - 0x38000000u + 0x0FFFu + (bits >> 13 & 1)) >> 13;
    }
    return static_cast<std::uint16_t>(sign | half);
}

}  // namespace sllmbench
