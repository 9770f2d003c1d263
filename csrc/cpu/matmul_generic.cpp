// The kernels in plain C++: what runs where nothing better does, and a second opinion on the others.
//
// One panel's block is unpacked to L1 and used for all rows of x, whatever m is.
#include <algorithm>
#include <cstring>

#include "cpu/half.h"
#include "cpu/matmul.h"

namespace sllmbench {
namespace {

// 1.5 * 2^23: adding it leaves a float's integer part in the low mantissa bits, rounded to nearest
// even, as the vector conversions of the other files round.
constexpr float kRounder = 12582912.0f;
constexpr std::uint32_t kRounderBits = 0x4B400000u;
constexpr std::uint32_t kInfinityBits = 0x7F800000u;
// Activations below this count as 0: 127 / amax must stay finite.
constexpr float kSmallest = 1e-30f;

std::uint32_t bits_of(float value) {
    std::uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
}

float not_a_number() { return __builtin_nanf(""); }

// Copies one block of one row of x, zeros behind it; returns the bits of its largest |value|.
// Compared as integers, so that a NaN is larger than everything.
std::uint32_t load_block(const Job& job, std::int64_t row, const Block& block, float* to) {
    std::fill_n(to, block.padded, 0.0f);
    if (row >= job.m) return 0;
    std::memcpy(to, job.x + row * job.k + block.k, sizeof(float) * block.length);
    std::uint32_t largest = 0;
    for (int i = 0; i < block.padded; ++i) largest = std::max(largest, bits_of(to[i]) & ~(1u << 31));
    return largest;
}

// No starts: code_at() takes the zero off.
void prepare_int8(const Job& job, std::int64_t row_begin, std::int64_t row_end) {
    for (std::int64_t row = row_begin; row < row_end; ++row)
        for (std::int64_t b = 0; b < job.n_blocks; ++b) {
            const Block& block = job.blocks[b];
            float values[kBlockLength];
            const std::uint32_t largest_bits = load_block(job, row, block, values);
            float largest;
            std::memcpy(&largest, &largest_bits, sizeof largest);
            const bool finite = largest_bits < kInfinityBits;
            const float inverse = finite && largest > kSmallest ? 127.0f / largest : 0.0f;
            auto* const to = static_cast<std::int8_t*>(job.values) + block.k_padded * job.rows +
                             row * block.padded;
            std::int32_t sum = 0;
            for (int i = 0; i < block.padded; ++i) {
                const float value = finite ? values[i] * inverse : 0.0f;
                const auto code = static_cast<std::int32_t>(bits_of(value + kRounder) - kRounderBits);
                to[i] = static_cast<std::int8_t>(code);
                sum += code;
            }
            const float scale = finite ? largest / 127.0f : not_a_number();
            job.scales[b * job.rows + row] = scale;
            job.sums[b * job.rows + row] = scale * static_cast<float>(sum);
        }
}

void prepare_exact(const Job& job, std::int64_t row_begin, std::int64_t row_end) {
    for (std::int64_t row = row_begin; row < row_end; ++row)
        for (std::int64_t b = 0; b < job.n_blocks; ++b) {
            const Block& block = job.blocks[b];
            float* const to = static_cast<float*>(job.values) + block.k_padded * job.rows +
                              row * block.padded;
            if (load_block(job, row, block, to) >= kInfinityBits) to[0] = not_a_number();
            float sum = 0;
            for (int i = 0; i < block.padded; ++i) sum += to[i];
            job.sums[b * job.rows + row] = sum;
        }
}

// A group's scale and offset for each row of the panel: w = scale * (code - code_zero) + offset.
struct Header {
    float scale[kPanelRows];
    float offset[kPanelRows];
};

Header load_header(const Job& job, const std::uint8_t* header) {
    Header h;
    Scales scales;
    std::memcpy(&scales, header, sizeof scales);
    for (int r = 0; r < kPanelRows; ++r) h.scale[r] = half_to_float(scales.fp16[r]);
    std::fill_n(h.offset, kPanelRows, 0.0f);
    header += sizeof scales;
    if (job.offset == Offset::zero_point) {
        for (int r = 0; r < kPanelRows; ++r)
            h.offset[r] = -h.scale[r] * static_cast<float>(header[r]);
    } else if (job.offset == Offset::minimum) {
        Minima minima;
        std::memcpy(&minima, header, sizeof minima);
        for (int r = 0; r < kPanelRows; ++r) h.offset[r] = half_to_float(minima.fp16[r]);
    }
    return h;
}

// Code minus zero of row r, place i of a block.
int code_at(const Job& job, const std::uint8_t* codes, int r, int i) {
    const int zero = code_zero(job.bits, job.offset);
    if (job.bits == 8) return codes[kStepBytes * (i / 4) + 4 * r + i % 4] - zero;
    return (codes[kStepBytes * (i / 8) + 4 * r + i % 4] >> (i % 8 < 4 ? 0 : 4) & 0x0F) - zero;
}

void store(const Job& job, std::int64_t panel, std::int64_t row_begin, std::int64_t row_end,
           const float (*y)[kPanelRows]) {
    const std::int64_t n0 = panel * kPanelRows;
    const auto width = static_cast<std::size_t>(std::min<std::int64_t>(kPanelRows, job.n - n0));
    for (std::int64_t row = row_begin; row < std::min(row_end, job.m); ++row)
        std::memcpy(job.out + row * job.n + n0, y[row - row_begin], width * sizeof(float));
}

void gemm_int8(const Job& job, std::int64_t panel, std::int64_t row_begin, std::int64_t row_end) {
    float y[kTileRows][kPanelRows] = {};
    std::int16_t w[kPanelRows][kBlockLength];  // 16 bits: what SSE2 and NEON multiply-add in pairs
    for (std::int64_t b = 0; b < job.n_blocks; ++b) {
        const Block& block = job.blocks[b];
        const std::uint8_t* const base = job.panels + panel * job.panel_bytes;
        const Header header = load_header(job, base + block.header);
        for (int r = 0; r < kPanelRows; ++r)
            for (int i = 0; i < block.length; ++i)
                w[r][i] = static_cast<std::int16_t>(code_at(job, base + block.codes, r, i));
        for (std::int64_t row = row_begin; row < row_end; ++row) {
            const auto* const from = static_cast<const std::int8_t*>(job.values) +
                                     block.k_padded * job.rows + row * block.padded;
            std::int16_t x[kBlockLength];
            for (int i = 0; i < block.length; ++i) x[i] = from[i];
            const float scale = job.scales[b * job.rows + row];
            const float sum = job.sums[b * job.rows + row];
            for (int r = 0; r < kPanelRows; ++r) {
                std::int32_t dot = 0;
                for (int i = 0; i < block.length; ++i) dot += w[r][i] * x[i];
                y[row - row_begin][r] += static_cast<float>(dot) * (header.scale[r] * scale) +
                                         header.offset[r] * sum;
            }
        }
    }
    store(job, panel, row_begin, row_end, y);
}

void gemm_exact(const Job& job, std::int64_t panel, std::int64_t row_begin, std::int64_t row_end) {
    float y[kTileRows][kPanelRows] = {};
    float w[kBlockLength][kPanelRows];
    for (std::int64_t b = 0; b < job.n_blocks; ++b) {
        const Block& block = job.blocks[b];
        const std::uint8_t* const base = job.panels + panel * job.panel_bytes;
        const Header header = load_header(job, base + block.header);
        for (int i = 0; i < block.length; ++i)
            for (int r = 0; r < kPanelRows; ++r)
                w[i][r] = header.scale[r] *
                              static_cast<float>(code_at(job, base + block.codes, r, i)) +
                          header.offset[r];
        for (std::int64_t row = row_begin; row < row_end; ++row) {
            const float* const x = static_cast<const float*>(job.values) +
                                   block.k_padded * job.rows + row * block.padded;
            float* const sums = y[row - row_begin];
            for (int i = 0; i < block.length; ++i)
                for (int r = 0; r < kPanelRows; ++r) sums[r] += x[i] * w[i][r];
        }
    }
    store(job, panel, row_begin, row_end, y);
}

void gemv_int8(const Job& job, std::int64_t panel_begin, std::int64_t panel_end) {
    for (std::int64_t p = panel_begin; p < panel_end; ++p) gemm_int8(job, p, 0, job.rows);
}

void gemv_exact(const Job& job, std::int64_t panel_begin, std::int64_t panel_end) {
    for (std::int64_t p = panel_begin; p < panel_end; ++p) gemm_exact(job, p, 0, job.rows);
}

}  // namespace

extern const Kernels kernels_generic;
const Kernels kernels_generic = {prepare_int8, prepare_exact, gemv_int8,
                                 gemv_exact,   gemm_int8,     gemm_exact};

}  // namespace sllmbench
