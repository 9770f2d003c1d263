// How a quantised [n, k] weight lies in memory for every CPU kernel.
//
// Rows go in panels of 32; a panel is one sequential stream of records, one record a group:
//
//   panel p = rows 32p .. 32p+31
//   +----------------+----------------------------+-------------------------------------+
//   | 32 fp16 scales | offsets, one of            | codes, steps of 8 k (8 bits: 4 k)   |
//   | 64 B           |   nothing       (symmetric)|                                     |
//   |                |   32 u8 zeros  (zero_point)|                                     |
//   |                |   32 fp16 minima (minimum) |                                     |
//   +----------------+----------------------------+-------------------------------------+
//
//   Two-level scales (GGUF's K-quants) have a record every 256 k instead:
//   +---------------+---------------------+-----------------------------------------------------+
//   | 32 fp16 scales| 32 fp16 minima      | for each group 32 i8 factors, with minima 32 u8     |
//   | (super)       | (super, if minima)  | factors of these, and the group's codes             |
//   +---------------+---------------------+-----------------------------------------------------+
//   scale = super scale * factor, minimum = -super minimum * its factor. All factors in front of
//   all codes made two streams of one and took 1.3 to 1.6 times as long from memory.
//
//   A step's 128 bytes, row r, c = 0..3:
//     8 bits     byte 4r + c  =  code[r][c] + 128
//     4, 5, 6    byte 4r + c  =  low nibbles of code[r][c] | code[r][4 + c] << 4
//   and behind them the codes' upper bits, those of code[r][4h + c]:
//     5 bits     32 bytes: byte 4 (r % 8) + c, bit 2 (r / 8) + h
//     6 bits     64 bytes: byte 4 (r % 16) + c, bits 4 (r / 16) + 2h and the next
//
// So a 32-bit lane always holds one row, and a masked vector is at once the operand of vpdpbusd and
// of vpmaddubsw, and, shifted, an index vector for a table of float values; one vector of upper
// bits, shifted, serves every vector of nibbles. A thread reads one stream. 8-bit codes are stored
// unsigned because vpdpbusd wants unsigned weights against signed activations.
//
// A group's last step is padded with code 0 (the activations there are 0), the last panel with rows
// of scale 0.
#pragma once

#include <cstdint>

namespace sllmbench {

inline constexpr int kPanelRows = 32;
inline constexpr int kStepBytes = 128;    // without the upper bits
inline constexpr int kSuperLength = 256;  // k that share a super scale
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
struct ScaleFactors {
    std::int8_t value[kPanelRows];
};
struct MinimumFactors {
    std::uint8_t value[kPanelRows];
};
struct Nibbles {
    std::uint8_t pair[kPanelRows][4];  // 8 k
};
struct Bytes {
    std::uint8_t plus_128[kPanelRows][4];  // 4 k
};
struct FifthBits {
    std::uint8_t plane[8][4];  // 8 k
};
struct UpperPairs {
    std::uint8_t plane[16][4];  // 8 k
};
static_assert(sizeof(Scales) == 64 && sizeof(Minima) == 64 && sizeof(ZeroPoints) == 32);
static_assert(sizeof(ScaleFactors) == 32 && sizeof(MinimumFactors) == 32);
static_assert(sizeof(Nibbles) == kStepBytes && sizeof(Bytes) == kStepBytes);
static_assert(8 * sizeof(FifthBits) == 1 * kPanelRows * 8, "1 bit a weight");
static_assert(8 * sizeof(UpperPairs) == 2 * kPanelRows * 8, "2 bits a weight");

// How the weights of a matrix are stored.
struct Layout {
    int bits;  // 4, 5, 6 or 8
    Offset offset;
    bool two_level;
};

// static: the per-ISA files keep copies of their own (see cpu/check_linkage.cmake).
static constexpr int step_length(int bits) {
    return bits == 8 ? 4 : 8;
}
static constexpr int step_bytes(int bits) {
    return kStepBytes + (bits == 5   ? static_cast<int>(sizeof(FifthBits))
                         : bits == 6 ? static_cast<int>(sizeof(UpperPairs))
                                     : 0);
}
static constexpr std::int64_t steps(int bits, std::int64_t length) {
    return (length + step_length(bits) - 1) / step_length(bits);
}
// Value that a stored code stands for when nothing else is said: w = scale * (code - code_zero).
// The offset is added to that: w += -zero_point * scale, or w += minimum.
static constexpr int code_zero(int bits, Offset offset) {
    return offset == Offset::symmetric ? 1 << (bits - 1) : 0;
}

// What precedes the codes: a record's scales and offsets ...
static constexpr std::int64_t header_bytes(const Layout& layout) {
    return sizeof(Scales) + (layout.offset == Offset::symmetric    ? 0
                             : layout.offset == Offset::zero_point ? sizeof(ZeroPoints)
                                                                   : sizeof(Minima));
}
// ... and, with two levels, each of its groups' factors.
static constexpr std::int64_t factor_bytes(const Layout& layout) {
    return !layout.two_level
               ? 0
               : sizeof(ScaleFactors) +
                     (layout.offset == Offset::symmetric ? 0 : sizeof(MinimumFactors));
}
// A record of `groups` groups of `length` k each; one group where scales have one level.
static constexpr std::int64_t record_bytes(const Layout& layout, std::int64_t length,
                                           std::int64_t groups = 1) {
    return header_bytes(layout) +
           groups * (factor_bytes(layout) + step_bytes(layout.bits) * steps(layout.bits, length));
}

static constexpr double bits_per_weight(const Layout& layout, int length, int groups = 1) {
    return 8.0 * static_cast<double>(record_bytes(layout, length, groups)) /
           (kPanelRows * length * groups);
}
static_assert(bits_per_weight({4, Offset::symmetric, false}, 32) == 4.5);  // Q4_0
static_assert(bits_per_weight({4, Offset::symmetric, false}, 128) == 4.125);
static_assert(bits_per_weight({4, Offset::zero_point, false}, 32) == 4.75);
static_assert(bits_per_weight({4, Offset::zero_point, false}, 128) == 4.1875);
static_assert(bits_per_weight({4, Offset::minimum, false}, 32) == 5.0);          // Q4_1
static_assert(bits_per_weight({5, Offset::symmetric, false}, 32) == 5.5);        // Q5_0
static_assert(bits_per_weight({8, Offset::symmetric, false}, 32) == 8.5);        // Q8_0
static_assert(bits_per_weight({4, Offset::minimum, true}, 32, 8) == 4.625);      // Q4_K: 4.5 + 2.8%
static_assert(bits_per_weight({5, Offset::minimum, true}, 32, 8) == 5.625);      // Q5_K: 5.5 + 2.3%
static_assert(bits_per_weight({6, Offset::symmetric, true}, 16, 16) == 6.5625);  // Q6_K

// A step's code of row r at place i; `add` sets the bits of a step of zeros.
static inline std::uint8_t stored_code(const std::uint8_t* step, int bits, int r, int i) {
    const int c = i % 4, high = i / 4;
    if (bits == 8) return step[4 * r + c];
    const int nibble = step[4 * r + c] >> 4 * high & 0x0F;
    const std::uint8_t* const upper = step + kStepBytes;
    if (bits == 5)
        return static_cast<std::uint8_t>(nibble |
                                         (upper[4 * (r % 8) + c] >> (2 * (r / 8) + high) & 1) << 4);
    if (bits == 6)
        return static_cast<std::uint8_t>(
            nibble | (upper[4 * (r % 16) + c] >> (4 * (r / 16) + 2 * high) & 3) << 4);
    return static_cast<std::uint8_t>(nibble);
}
static inline void add_code(std::uint8_t* step, int bits, int r, int i, std::uint8_t code) {
    const int c = i % 4, high = i / 4;
    const auto add = [](std::uint8_t& to, int value) {
        to = static_cast<std::uint8_t>(to | value);
    };
    if (bits == 8) return add(step[4 * r + c], code);
    add(step[4 * r + c], (code & 0x0F) << 4 * high);
    std::uint8_t* const upper = step + kStepBytes;
    if (bits == 5) add(upper[4 * (r % 8) + c], code >> 4 << (2 * (r / 8) + high));
    if (bits == 6) add(upper[4 * (r % 16) + c], code >> 4 << (4 * (r / 16) + 2 * high));
}

// Consecutive k of one group that share an activation scale.
struct Block {
    std::uint32_t header;    // bytes from the panel's start to the record's scales
    std::uint32_t factors;   // the same to the group's factors, where scales have two levels
    std::uint32_t codes;     // bytes from the panel's start to this block's codes
    std::uint32_t k;         // first k, counted in the matrix
    std::uint32_t k_padded;  // the same, counted with every block's padding
    std::uint16_t length;    // k in the block
    std::uint16_t padded;    // length rounded up to 8
    std::uint16_t steps;     // code steps of step_bytes each
};

}  // namespace sllmbench
