// From our host form of a quantised weight to the order in which GPUs read it (layouts.h).
#pragma once

#include <cstdint>

namespace sllmbench::cuda {

// What formats.py calls a QuantTensor, as far as GPUs multiply it.
struct HostWeight {
    int bits;  // 4 or 8
    std::int64_t n, k, group;
    const std::uint8_t*
        codes;  // 4 bits: [n, ceil(k / 2)], the lower k in the low nibble; 8: [n, k]
    const std::uint16_t* scales;  // fp16 [n, groups]
    const std::uint8_t* zeros;    // [n, groups], null: symmetric
};

struct PackedSizes {
    std::int64_t tile_bytes;
    std::int64_t row_blocks, groups;  // scales, and zero points: [row_blocks][groups][16]
};
PackedSizes packed_sizes(int bits, std::int64_t n, std::int64_t k, std::int64_t group);

// Writes every byte of all three; `zeros` is null where the weight has none.
void pack(const HostWeight& weight, std::uint8_t* tiles, std::uint16_t* scales,
          std::uint8_t* zeros);

}  // namespace sllmbench::cuda
