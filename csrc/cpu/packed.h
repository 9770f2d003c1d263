// A quantised weight in the layout of formats.h.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "cpu/pages.h"
#include "formats.h"

namespace sllmbench {

// What a QuantTensor holds: row-major codes, scales and offsets, not owned.
struct SourceWeights {
    std::int64_t n;
    std::int64_t k;
    std::int64_t group_size;
    Layout layout;
    const std::uint8_t* codes;  // 4 bits: [n, ceil(k/2)], lower k low; 5, 6, 8 (int8): [n, k]
    const void* scales;         // fp16 [n, groups]; two levels: i8
    const void* offsets;        // nothing, or [n, groups]: u8, or fp16 minima; two levels: u8
    const std::uint16_t* super_scales;  // two levels: fp16 [n, ceil(k/256)]
    const std::uint16_t* super_minima;  // two levels with minima: the same
    const std::vector<std::int32_t>&
        order;  // nothing, or [k]: the input channel that each column belongs to
};

class PackedWeights {
 public:
    explicit PackedWeights(const SourceWeights& source);

    std::int64_t n() const { return n_; }
    std::int64_t k() const { return k_; }
    const Layout& layout() const { return layout_; }
    std::int64_t panels() const { return (n_ + kPanelRows - 1) / kPanelRows; }
    std::int64_t panel_bytes() const { return panel_bytes_; }
    std::int64_t k_padded() const { return k_padded_; }
    const std::vector<Block>& blocks() const { return blocks_; }
    const std::uint8_t* data() const { return data_.get(); }
    // The input channel that each column belongs to; nullptr where they are in order.
    const std::int32_t* order() const { return order_.empty() ? nullptr : order_.data(); }
    // Bytes held: the packed panels, the table of blocks, the order.
    std::size_t nbytes() const;
    // Writes row `row`'s k float32 weights to `out`.
    void dequantize_row(std::int64_t row, float* out) const;

 private:
    void lay_out(std::int64_t group_size);
    std::int64_t lay_out_codes(std::int64_t codes, std::int64_t start, std::int64_t length,
                               Block block);
    void pack_scales(const SourceWeights& source, const Block& block, std::int64_t row, int r,
                     std::uint8_t* base) const;
    void pack_panel(const SourceWeights& source, std::int64_t panel);

    std::int64_t n_, k_;
    Layout layout_;
    std::int64_t panel_bytes_ = 0;
    std::int64_t k_padded_ = 0;
    std::vector<Block> blocks_;
    std::vector<std::int32_t> order_;
    Pages data_;
};

}  // namespace sllmbench
