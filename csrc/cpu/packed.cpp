#include "cpu/packed.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <stdexcept>

#include "cpu/half.h"
#include "cpu/pool.h"

namespace sllmbench {
namespace {

// The stored code of one weight: as it is, 8 bits plus 128.
std::uint8_t source_code(const SourceWeights& w, std::int64_t row, std::int64_t k) {
    if (w.layout.bits == 8) return w.codes[row * w.k + k] ^ 0x80u;
    if (w.layout.bits != 4) return w.codes[row * w.k + k];
    const std::uint8_t pair = w.codes[row * ((w.k + 1) / 2) + k / 2];
    return k % 2 ? pair >> 4 : pair & 0x0F;
}

// A Block's places are 32-bit numbers. Checked before the blocks of a huge k fill the memory.
void check_panel_size(const Layout& layout, std::int64_t k, std::int64_t group_size) {
    constexpr std::int64_t kMax = std::numeric_limits<std::uint32_t>::max();
    bool fits = k <= kMax / (kPanelRows * layout.bits / 8);  // the codes; keeps the products small
    if (fits) {
        const std::int64_t groups = layout.two_level ? kSuperLength / group_size : 1;
        const std::int64_t span = layout.two_level ? kSuperLength : group_size;
        const std::int64_t rest = k % span;
        std::int64_t bytes = k < span ? 0 : k / span * record_bytes(layout, group_size, groups);
        if (rest > 0) bytes += record_bytes(layout, std::min(rest, group_size), groups);
        fits = bytes <= kMax;
    }
    if (!fits) throw std::invalid_argument("k is too large: a panel of 32 rows would pass 4 GiB");
}

float read_half(const std::uint8_t* from) {
    std::uint16_t half;
    std::memcpy(&half, from, sizeof half);
    return half_to_float(half);
}

}  // namespace

PackedWeights::PackedWeights(const SourceWeights& source)
    : n_(source.n), k_(source.k), layout_(source.layout), order_(source.order) {
    lay_out(source.group_size);
    data_ = allocate_pages(static_cast<std::size_t>(panels() * panel_bytes_));
    pool_run(panels(), configured_threads(), [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t p = begin; p < end; ++p) pack_panel(source, p);
    });
}

void PackedWeights::lay_out(std::int64_t group_size) {
    check_panel_size(layout_, k_, group_size);
    const std::int64_t span = layout_.two_level ? kSuperLength : group_size;
    std::int64_t record = 0;
    for (std::int64_t start = 0; start < k_; start += span) {
        const std::int64_t end = std::min(span, k_ - start) + start;
        std::int64_t codes = record + header_bytes(layout_);
        for (std::int64_t k = start; k < end; k += group_size) {
            Block block{};
            block.header = static_cast<std::uint32_t>(record);
            block.factors = static_cast<std::uint32_t>(codes);
            codes = lay_out_codes(codes + factor_bytes(layout_), k, std::min(group_size, end - k),
                                  block);
            if (end - k <= group_size) break;  // group_size may be near the end of the numbers
        }
        record = codes;
        if (k_ - start <= span) break;
    }
    panel_bytes_ = record;
    blocks_.shrink_to_fit();
}

// A group's codes, cut into blocks; returns where they end.
std::int64_t PackedWeights::lay_out_codes(std::int64_t codes, std::int64_t start,
                                          std::int64_t length, Block block) {
    const std::int64_t longest = length > kBlockLength ? kLongGroupBlockLength : kBlockLength;
    for (std::int64_t k = 0; k < length; k += longest) {
        const std::int64_t part = std::min(longest, length - k);
        const std::int64_t padded = (part + 7) / 8 * 8;
        block.codes = static_cast<std::uint32_t>(codes);
        block.k = static_cast<std::uint32_t>(start + k);
        block.k_padded = static_cast<std::uint32_t>(k_padded_);
        block.length = static_cast<std::uint16_t>(part);
        block.padded = static_cast<std::uint16_t>(padded);
        block.steps = static_cast<std::uint16_t>(steps(layout_.bits, part));
        blocks_.push_back(block);
        codes += step_bytes(layout_.bits) * steps(layout_.bits, part);
        k_padded_ += padded;
    }
    return codes;
}

void PackedWeights::pack_panel(const SourceWeights& source, std::int64_t panel) {
    std::uint8_t* const base = data_.get() + panel * panel_bytes_;
    const std::int64_t row0 = panel * kPanelRows;
    const auto rows = static_cast<int>(std::min<std::int64_t>(kPanelRows, n_ - row0));
    const int length = step_length(layout_.bits), bytes = step_bytes(layout_.bits);
    std::memset(base, 0, static_cast<std::size_t>(panel_bytes_));
    for (const Block& block : blocks_)
        for (int r = 0; r < rows; ++r) {
            pack_scales(source, block, row0 + r, r, base);
            std::uint8_t* const codes = base + block.codes;
            for (int i = 0; i < block.length; ++i)
                add_code(codes + i / length * bytes, layout_.bits, r, i % length,
                         source_code(source, row0 + r, block.k + i));
        }
}

void PackedWeights::pack_scales(const SourceWeights& source, const Block& block, std::int64_t row,
                                int r, std::uint8_t* base) const {
    const auto copy = [](std::uint8_t* to, const void* from, std::int64_t at, int size) {
        std::memcpy(to, static_cast<const std::uint8_t*>(from) + size * at,
                    static_cast<std::size_t>(size));
    };
    const std::int64_t groups = (k_ - 1) / source.group_size + 1;
    const std::int64_t at = row * groups + block.k / source.group_size;
    std::uint8_t* const header = base + block.header;
    if (!layout_.two_level) {
        copy(header + 2 * r, source.scales, at, 2);
        const int size = layout_.offset == Offset::minimum ? 2 : 1;
        if (layout_.offset != Offset::symmetric)
            copy(header + sizeof(Scales) + size * r, source.offsets, at, size);
        return;
    }
    const std::int64_t super = row * ((k_ - 1) / kSuperLength + 1) + block.k / kSuperLength;
    std::uint8_t* const factors = base + block.factors;
    copy(header + 2 * r, source.super_scales, super, 2);
    copy(factors + r, source.scales, at, 1);
    if (layout_.offset == Offset::symmetric) return;
    copy(header + sizeof(Scales) + 2 * r, source.super_minima, super, 2);
    copy(factors + sizeof(ScaleFactors) + r, source.offsets, at, 1);
}

std::size_t PackedWeights::nbytes() const {
    return static_cast<std::size_t>(panels() * panel_bytes_) + blocks_.size() * sizeof(Block) +
           order_.size() * sizeof order_[0];
}

void PackedWeights::dequantize_row(std::int64_t row, float* out) const {
    const std::uint8_t* const base = data() + row / kPanelRows * panel_bytes_;
    const auto r = static_cast<int>(row % kPanelRows);
    const int length = step_length(layout_.bits), bytes = step_bytes(layout_.bits);
    for (const Block& block : blocks_) {
        const std::uint8_t* const header = base + block.header;
        const std::uint8_t* const offsets = header + sizeof(Scales);
        const std::uint8_t* const factors = base + block.factors;
        float scale = read_half(header + 2 * r), minimum = 0;
        int zero_point = code_zero(layout_.bits, layout_.offset);
        if (layout_.offset == Offset::zero_point) zero_point += offsets[r];
        if (layout_.offset == Offset::minimum) minimum = read_half(offsets + 2 * r);
        if (layout_.two_level) scale *= static_cast<float>(static_cast<std::int8_t>(factors[r]));
        if (layout_.two_level && layout_.offset == Offset::minimum)
            minimum *= -static_cast<float>(factors[sizeof(ScaleFactors) + r]);
        for (int i = 0; i < block.length; ++i) {
            const int code =
                stored_code(base + block.codes + i / length * bytes, layout_.bits, r, i % length);
            const std::size_t k = block.k + static_cast<std::size_t>(i);
            out[order_.empty() ? k : static_cast<std::size_t>(order_[k])] =
                scale * static_cast<float>(code - zero_point) + minimum;
        }
    }
}

}  // namespace sllmbench
