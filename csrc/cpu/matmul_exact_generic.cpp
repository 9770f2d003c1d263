// Exact arithmetic, float32 throughout, in plain C++: what runs where nothing better does, and a
// second opinion on the others.
//
// One panel's block is unpacked to L1 and used for all rows of x, whatever m is.
#include "cpu/lanes_generic.h"

namespace sllmbench {
namespace {

void prepare(const Job& job, std::int64_t row_begin, std::int64_t row_end) {
    for (std::int64_t row = row_begin; row < row_end; ++row)
        for (std::int64_t b = 0; b < job.n_blocks; ++b) {
            const Block& block = job.blocks[b];
            float* const to =
                static_cast<float*>(job.values) + block.k_padded * job.rows + row * block.padded;
            if (load_block(job, row, block, to) >= kInfinityBits) to[0] = not_a_number();
            float sum = 0;
            for (int i = 0; i < block.padded; ++i) sum += to[i];
            job.sums[b * job.rows + row] = sum;
        }
}

void gemm(const Job& job, std::int64_t panel, std::int64_t row_begin, std::int64_t row_end) {
    float y[kTileRows][kPanelRows] = {};
    std::int16_t codes[kPanelRows][kBlockLength];
    float w[kBlockLength][kPanelRows];
    for (std::int64_t b = 0; b < job.n_blocks; ++b) {
        const Block& block = job.blocks[b];
        const std::uint8_t* const base = job.panels + panel * job.panel_bytes;
        const Header header = load_header(job, base, block);
        unpack(job, block, base + block.codes, codes);
        for (int i = 0; i < block.length; ++i)
            for (int r = 0; r < kPanelRows; ++r)
                w[i][r] = header.scale[r] * static_cast<float>(codes[r][i]) + header.offset[r];
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

void gemv(const Job& job, std::int64_t panel_begin, std::int64_t panel_end) {
    for (std::int64_t p = panel_begin; p < panel_end; ++p) gemm(job, p, 0, job.rows);
}

}  // namespace

extern const Kernels kernels_exact_generic;
const Kernels kernels_exact_generic = {prepare, gemv, gemm, kTileRows, "generic", "generic"};

}  // namespace sllmbench
