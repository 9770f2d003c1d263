// How a quantised [n, k] weight lies in memory for every CPU kernel.
//
// Rows go in panels of 32; a panel is one sequential stream of records, one record a group:
//
//   panel p = rows 32p .. 32p+31
//   +--------------------+----------------------------+-------------------------------------+
//   | 32 fp16 scales     | offsets, one of            | codes, steps of 128 bytes           |
//   | 64 B               |   nothing       (symmetric)|                                     |
//   |                    |   32 u8 zeros   (zero_point)|  4 bits: 8 k a step, 8 bits: 4 k   |
//   |                    |   32 fp16 minima (minimum) |                                     |
//   +--------------------+----------------------------+-------------------------------------+
//
//   4 bits, step j of a group:   byte 4r + c  =  code[row r][8j + c]  |  code[row r][8j + 4 + c] <<
//   4 8 bits, step j of a group:   byte 4r + c  =  code[row r][4j + c] + 128
//
// So a 32-bit lane always holds one row, and a masked vector is at once the operand of vpdpbusd and
// of vpmaddubsw, and, shifted, an index vector for a table of float values. A thread reads one
// stream. 8-bit codes are stored unsigned because vpdpbusd wants unsigned weights against signed
// activations.
//
// A group's last step is padded with code 0 (the activations there are 0), the last panel with rows
// of scale 0.
#pragma once

#include <cstdint>

namespace sllmbench {

inline constexpr int kPanelRows = 32;
inline constexpr int kStepBytes = 128;
// Activations share a scale, and int32 sums are folded to float, over a group of at most this many
// k.
inline constexpr int kBlockLength = 128;
// A longer group, a whole row at the most, is cut finer: nothing but speed asks for long blocks
// there. SmolLM2's perplexity with int8 rows is above float32's by 0.48% with exact activations,
// 0.60% with blocks of 32 k, 1.46% with blocks of 128.
inline constexpr int kLongGroupBlockLength = 32;

enum class Offset : std::uint8_t { symmetric, zero_point, minimum };

struct Scales {
    std::uint16_t fp16[kPanelRows];
};
struct ZeroPoints {
    std::uint8_t value[kPanelRows];
};
struct Minima {
    std::uint16_t fp16[kPanelRows];
};
struct Codes4 {
    std::uint8_t pair[kPanelRows][4];  // 8 k
};
struct Codes8 {
    std::uint8_t plus_128[kPanelRows][4];  // 4 k
};
static_assert(sizeof(Scales) == 64 && sizeof(Minima) == 64 && sizeof(ZeroPoints) == 32);
static_assert(sizeof(Codes4) == kStepBytes && sizeof(Codes8) == kStepBytes);
static_assert(8 * sizeof(Codes4) == 4 * kPanelRows * 8, "4 bits a weight");
static_assert(8 * sizeof(Codes8) == 8 * kPanelRows * 4, "8 bits a weight");

// static: the per-ISA files keep copies of their own (see cpu/check_linkage.cmake).
static constexpr std::int64_t header_bytes(Offset offset) {
    switch (offset) {
        case Offset::symmetric:
            return sizeof(Scales);
        case Offset::zero_point:
            return sizeof(Scales) + sizeof(ZeroPoints);
        case Offset::minimum:
            return sizeof(Scales) + sizeof(Minima);
    }
    return 0;
}
static constexpr int step_length(int bits) {
    return bits == 4 ? 8 : 4;
}
static constexpr std::int64_t steps(int bits, std::int64_t length) {
    return (length + step_length(bits) - 1) / step_length(bits);
}
static constexpr std::int64_t record_bytes(int bits, Offset offset, std::int64_t length) {
    return header_bytes(offset) + kStepBytes * steps(bits, length);
}
// Value that a stored code stands for when nothing else is said: w = scale * (code - code_zero).
// The offset is added to that: w += -zero_point * scale, or w += minimum.
static constexpr int code_zero(int bits, Offset offset) {
    return bits == 8 ? 128 : offset == Offset::symmetric ? 8 : 0;
}

static constexpr double bits_per_weight(int bits, Offset offset, int length) {
    return 8.0 * static_cast<double>(record_bytes(bits, offset, length)) / (kPanelRows * length);
}
static_assert(bits_per_weight(4, Offset::symmetric, 32) == 4.5);
static_assert(bits_per_weight(4, Offset::symmetric, 128) == 4.125);
static_assert(bits_per_weight(4, Offset::zero_point, 32) == 4.75);
static_assert(bits_per_weight(4, Offset::zero_point, 128) == 4.1875);
static_assert(bits_per_weight(4, Offset::minimum, 32) == 5.0);    // Q4_1
static_assert(bits_per_weight(8, Offset::symmetric, 32) == 8.5);  // Q8_0

// Consecutive k of one group that share an activation scale.
struct Block {
    std::uint32_t header;    // bytes from the panel's start to the group's scales
    std::uint32_t codes;     // bytes from the panel's start to this block's codes
    std::uint32_t k;         // first k, counted in the matrix
    std::uint32_t k_padded;  // the same, counted with every block's padding
    std::uint16_t length;    // k in the block
    std::uint16_t padded;    // length rounded up to 8
    std::uint16_t steps;     // code steps of 128 bytes
};

}  // namespace sllmbench
