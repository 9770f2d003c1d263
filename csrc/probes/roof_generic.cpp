// Roofs in plain C++, as fast as the compiler's baseline makes them.
#include "probes/roof.h"

namespace sllmbench {
namespace {

constexpr int kLanes = 64;

std::uint64_t read(const void* p, std::size_t bytes) {
    const auto* words = static_cast<const std::uint64_t*>(p);
    std::uint64_t sum[8] = {};
    for (std::size_t i = 0; i < bytes / 8; i += 8)
        for (std::size_t j = 0; j < 8; ++j) sum[j] ^= words[i + j];
    return sum[0] ^ sum[1] ^ sum[2] ^ sum[3] ^ sum[4] ^ sum[5] ^ sum[6] ^ sum[7];
}

// The asm makes the operands unknown to the compiler at every step: else it would solve the loop.
double int8_operations(std::int64_t iterations) {
    std::int32_t sum[kLanes / 2] = {};
    std::int16_t a[kLanes], b[kLanes];
    for (int i = 0; i < kLanes; ++i) a[i] = b[i] = static_cast<std::int16_t>(i);
    for (std::int64_t i = 0; i < iterations; ++i) {
        asm volatile("" : : "r"(a), "r"(b) : "memory");
        for (int j = 0; j < kLanes / 2; ++j)
            sum[j] += a[2 * j] * b[2 * j] + a[2 * j + 1] * b[2 * j + 1];
        asm volatile("" : : "r"(sum) : "memory");
    }
    return 2.0 * kLanes * static_cast<double>(iterations);
}

double fp32_operations(std::int64_t iterations) {
    float sum[kLanes] = {}, a[kLanes], b[kLanes];
    for (int i = 0; i < kLanes; ++i) a[i] = b[i] = 1.0f;
    for (std::int64_t i = 0; i < iterations; ++i) {
        asm volatile("" : : "r"(a), "r"(b) : "memory");
        for (int j = 0; j < kLanes; ++j) sum[j] += a[j] * b[j];
        asm volatile("" : : "r"(sum) : "memory");
    }
    return 2.0 * kLanes * static_cast<double>(iterations);
}

}  // namespace

extern const Roof roof_generic;
const Roof roof_generic = {read, int8_operations, fp32_operations};

}  // namespace sllmbench
