// A quantised weight in the layout of formats.h.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "formats.h"

namespace sllmbench {

// What a QuantTensor holds: row-major codes, scales and offsets, not owned.
struct SourceWeights {
    std::int64_t n;
    std::int64_t k;
    int bits;
    std::int64_t group_size;
    Offset offset;
    const std::uint8_t* codes;    // 4 bits: [n, ceil(k/2)], lower k low; 8 bits: int8 [n, k]
    const std::uint16_t* scales;  // fp16 [n, groups]
    const void* offsets;          // nothing, u8 [n, groups] or fp16 [n, groups]
};

class PackedWeights {
 public:
    explicit PackedWeights(const SourceWeights& source);

    std::int64_t n() const { return n_; }
    std::int64_t k() const { return k_; }
    int bits() const { return bits_; }
    Offset offset() const { return offset_; }
    std::int64_t panels() const { return (n_ + kPanelRows - 1) / kPanelRows; }
    std::int64_t panel_bytes() const { return panel_bytes_; }
    std::int64_t k_padded() const { return k_padded_; }
    const std::vector<Block>& blocks() const { return blocks_; }
    const std::uint8_t* data() const { return data_.get(); }
    // Bytes held: the packed panels and the table of blocks.
    std::size_t nbytes() const;
    // Writes row `row`'s k float32 weights to `out`.
    void dequantize_row(std::int64_t row, float* out) const;

 private:
    void lay_out(std::int64_t group_size);
    void pack_panel(const SourceWeights& source, std::int64_t panel);

    struct Free {
        void operator()(std::uint8_t* p) const;
    };
    std::int64_t n_, k_;
    int bits_;
    Offset offset_;
    std::int64_t panel_bytes_ = 0;
    std::int64_t k_padded_ = 0;
    std::vector<Block> blocks_;
    std::unique_ptr<std::uint8_t, Free> data_;
};

}  // namespace sllmbench
