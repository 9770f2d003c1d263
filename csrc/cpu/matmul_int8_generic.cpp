// int8 arithmetic in plain C++: what runs where nothing better does, and a second opinion on the
// others.
//
// One panel's block is unpacked to L1 and used for all rows of x, whatever m is.
#include "cpu/lanes_generic.h"

namespace sllmbench {
namespace {

// 1.5 * 2^23: adding it leaves a float's integer part in the low mantissa bits, rounded to nearest
// even, as the vector conversions of the other files round.
constexpr float kRounder = 12582912.0f;
constexpr std::uint32_t kRounderBits = 0x4B400000u;

// No starts: unpack() takes the zero off.
void prepare(const Job& job, std::int64_t row_begin, std::int64_t row_end) {
    for (std::int64_t row = row_begin; row < row_end; ++row)
        for (std::int64_t b = 0; b < job.n_blocks; ++b) {
            const Block& block = job.blocks[b];
            float values[kBlockLength];
            const std::int32_t largest_bits = load_block(job, row, block, values);
            float largest;
            std::memcpy(&largest, &largest_bits, sizeof largest);
            const bool finite = largest_bits < kInfinityBits;
            const float inverse = finite && largest > kSmallest ? 127.0f / largest : 0.0f;
            auto* const to = static_cast<std::int8_t*>(job.values) + block.k_padded * job.rows +
                             row * block.padded;
            std::int32_t sum = 0;
            for (int i = 0; i < block.padded; ++i) {
                const float value = finite ? values[i] * inverse : 0.0f;
                const auto code =
                    static_cast<std::int32_t>(bits_of(value + kRounder) - kRounderBits);
                to[i] = static_cast<std::int8_t>(code);
                sum += code;
            }
            const float scale = finite ? largest / 127.0f : not_a_number();
            job.scales[b * job.rows + row] = scale;
            job.sums[b * job.rows + row] = scale * static_cast<float>(sum);
        }
}

void gemm(const Job& job, std::int64_t panel, std::int64_t row_begin, std::int64_t row_end) {
    float y[kTileRows][kPanelRows] = {};
    std::int16_t w[kPanelRows][kBlockLength];  // 16 bits: what SSE2 and NEON multiply-add in pairs
    for (std::int64_t b = 0; b < job.n_blocks; ++b) {
        const Block& block = job.blocks[b];
        const std::uint8_t* const base = job.panels + panel * job.panel_bytes;
        const Header header = load_header(job, base, block);
        unpack(job, block, base + block.codes, w);
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
                y[row - row_begin][r] +=
                    static_cast<float>(dot) * (header.scale[r] * scale) + header.offset[r] * sum;
            }
        }
    }
    store(job, panel, row_begin, row_end, y);
}

void gemv(const Job& job, std::int64_t panel_begin, std::int64_t panel_end) {
    for (std::int64_t p = panel_begin; p < panel_end; ++p) gemm(job, p, 0, job.rows);
}

}  // namespace

extern const Kernels kernels_int8_generic;
const Kernels kernels_int8_generic = {prepare, gemv, gemm, kTileRows, "generic", "generic"};

}  // namespace sllmbench
