// What the machine can reach: the roofs that a kernel's speed is held against.
#pragma once

#include <cstddef>
#include <cstdint>

namespace sllmbench {

// Per instruction set, in roof_NAME.cpp. Single-threaded pieces; roof.cpp runs and times them.
struct Roof {
    // Reads every byte once (bytes a multiple of 4096, p 64-byte aligned). The result keeps the
    // reads alive.
    std::uint64_t (*read)(const void* p, std::size_t bytes);
    // Multiply-adds from registers; return operations done (a multiply-add is two).
    double (*int8_operations)(std::int64_t iterations);
    double (*fp32_operations)(std::int64_t iterations);
};

struct Isa;
// GB/s (1e9 bytes) at which `threads` threads together read a working set of `bytes`, over and over
// for about `seconds`. Each thread reads a slice of its own.
double read_bandwidth_gbs(std::size_t bytes, int threads, double seconds);
enum class RoofKind : std::uint8_t { int8, fp32 };
// 1e9 operations/s that `threads` threads together reach from registers.
double peak_gops(RoofKind kind, const Isa& isa, int threads, double seconds);

}  // namespace sllmbench
