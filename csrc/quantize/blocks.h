// GGUF's quantised blocks: the search for the scales, minima and codes of least squared error.
#pragma once

#include <cstdint>

namespace sllmbench {

inline constexpr int kSuperValues = 256;

// What a block type can say. A value is scale * code, plus a minimum where it has minima; with
// factors, scale and minimum are a whole number a group times a float16 a super-group of 256.
struct BlockFormat {
    int bits;        // codes: 0 to 2^bits - 1 with minima, else centred on 0
    int group_size;  // values of k that share a scale: 16 or 32
    bool minima;     // with factors, minima are 0 or below
    int factor_max;  // 0: one level; with minima 0 to factor_max, else -factor_max - 1 to it
};

// Row-major arrays to fill. `scales` and `minima` are float16 a group, or a super-group where there
// are factors (super minima are to be subtracted). Codes are stored from 0 up, 8 bits as int8.
struct BlockArrays {
    std::uint8_t* codes;            // [n, k]
    std::uint16_t* scales;          // [n, groups or super-groups]
    std::uint16_t* minima;          // the same, where there are minima
    std::int8_t* factors;           // [n, groups], where there are factors
    std::uint8_t* minimum_factors;  // [n, groups], where there are both
};

// Finds blocks for values [n, k], k in whole groups or super-groups, that have a small
// sum of importance[column] * (value - what the code stands for)^2, every importance above 0.
void search_blocks(const float* values, const float* importance, std::int64_t n, std::int64_t k,
                   const BlockFormat& format, const BlockArrays& out, int threads);

}  // namespace sllmbench
