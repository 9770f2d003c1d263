// What the kernels in plain C++ share.
//
// Everything is static: each file keeps its own copy (see check_linkage.cmake).
#pragma once

#include <algorithm>
#include <cstring>

#include "cpu/half.h"
#include "cpu/lanes.h"
#include "cpu/matmul.h"

namespace sllmbench {

static inline std::uint32_t bits_of(float value) {
    std::uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
}

static inline float not_a_number() {
    return __builtin_nanf("");
}

// Copies one block of one row of x, zeros behind it; returns the bits of its largest |value|,
// compared as integers, so that a NaN is larger than everything.
static inline std::int32_t load_block(const Job& job, std::int64_t row, const Block& block,
                                      float* to) {
    std::fill_n(to, block.padded, 0.0f);
    if (row >= job.m) return 0;
    std::memcpy(to, job.x + row * job.k + block.k, sizeof(float) * block.length);
    std::uint32_t largest = 0;
    for (int i = 0; i < block.padded; ++i)
        largest = std::max(largest, bits_of(to[i]) & ~(1u << 31));
    return static_cast<std::int32_t>(largest);
}

// A group's scale and offset for each row of the panel: w = scale * (code - code_zero) + offset.
struct Header {
    float scale[kPanelRows];
    float offset[kPanelRows];
};

static inline Header load_header(const Job& job, const std::uint8_t* panel, const Block& block) {
    Header h;
    Scales scales;
    std::memcpy(&scales, panel + block.header, sizeof scales);
    for (int r = 0; r < kPanelRows; ++r) h.scale[r] = half_to_float(scales.fp16[r]);
    std::fill_n(h.offset, kPanelRows, 0.0f);
    const std::uint8_t* const offsets = panel + block.header + sizeof scales;
    const std::uint8_t* const factors = panel + block.factors;
    if (job.layout.two_level)
        for (int r = 0; r < kPanelRows; ++r)
            h.scale[r] *= static_cast<float>(static_cast<std::int8_t>(factors[r]));
    if (job.layout.offset == Offset::zero_point) {
        for (int r = 0; r < kPanelRows; ++r)
            h.offset[r] = -h.scale[r] * static_cast<float>(offsets[r]);
    } else if (job.layout.offset == Offset::minimum) {
        Minima minima;
        std::memcpy(&minima, offsets, sizeof minima);
        for (int r = 0; r < kPanelRows; ++r) {
            h.offset[r] = half_to_float(minima.fp16[r]);
            if (job.layout.two_level)
                h.offset[r] *= -static_cast<float>(factors[sizeof(ScaleFactors) + r]);
        }
    }
    return h;
}

// Unpacks a block's codes minus zero, row by row; `to` has places for the block's padding.
static inline void unpack(const Job& job, const Block& block, const std::uint8_t* codes,
                          std::int16_t (&to)[kPanelRows][kBlockLength]) {
    const int bits = job.layout.bits, length = step_length(bits);
    const int zero = code_zero(bits, job.layout.offset);
    for (int j = 0; j < block.steps; ++j, codes += step_bytes(bits))
        for (int r = 0; r < kPanelRows; ++r)
            for (int i = 0; i < length; ++i)
                to[r][length * j + i] =
                    static_cast<std::int16_t>(stored_code(codes, bits, r, i) - zero);
}

static inline void store(const Job& job, std::int64_t panel, std::int64_t row_begin,
                         std::int64_t row_end, const float (*y)[kPanelRows]) {
    const std::int64_t n0 = panel * kPanelRows;
    const auto width = static_cast<std::size_t>(std::min<std::int64_t>(kPanelRows, job.n - n0));
    for (std::int64_t row = row_begin; row < std::min(row_end, job.m); ++row)
        std::memcpy(job.out + row * job.n + n0, y[row - row_begin], width * sizeof(float));
}

}  // namespace sllmbench
