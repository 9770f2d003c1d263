#include "cpu/packed.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <new>
#include <stdexcept>

#include "cpu/half.h"
#include "cpu/pool.h"

namespace sllmbench {
namespace {

constexpr std::size_t kHugePage = 2u << 20;

std::uint8_t* allocate(std::size_t bytes) {
    const bool huge = bytes >= 2 * kHugePage;
    void* p = nullptr;
    if (posix_memalign(&p, huge ? kHugePage : 64, std::max<std::size_t>(bytes, 1)) != 0)
        throw std::bad_alloc();
    // Whole huge pages only, so that a matrix never takes more than its size. A hint: where huge
    // pages are switched off the weights are merely a little slower to read.
    if (huge) madvise(p, bytes / kHugePage * kHugePage, MADV_HUGEPAGE);
    return static_cast<std::uint8_t*>(p);
}

// The stored code of one weight: 4 bits as it is, 8 bits plus 128.
std::uint8_t source_code(const SourceWeights& w, std::int64_t row, std::int64_t k) {
    if (w.bits == 8) return w.codes[row * w.k + k] ^ 0x80u;
    const std::uint8_t pair = w.codes[row * ((w.k + 1) / 2) + k / 2];
    return k % 2 ? pair >> 4 : pair & 0x0F;
}

// A Block's places are 32-bit numbers. Checked before the blocks of a huge k fill the memory.
void check_panel_size(int bits, Offset offset, std::int64_t k, std::int64_t group_size) {
    constexpr std::int64_t kMax = std::numeric_limits<std::uint32_t>::max();
    bool fits = k <= kMax / (kPanelRows * bits / 8);  // the codes alone; keeps the products small
    if (fits) {
        const std::int64_t rest = k % group_size;
        std::int64_t bytes =
            k < group_size ? 0 : k / group_size * record_bytes(bits, offset, group_size);
        if (rest > 0) bytes += record_bytes(bits, offset, rest);
        fits = bytes <= kMax;
    }
    if (!fits) throw std::invalid_argument("k is too large: a panel of 32 rows would pass 4 GiB");
}

}  // namespace

void PackedWeights::Free::operator()(std::uint8_t* p) const {
    std::free(p);
}

PackedWeights::PackedWeights(const SourceWeights& source)
    : n_(source.n), k_(source.k), bits_(source.bits), offset_(source.offset) {
    lay_out(source.group_size);
    data_.reset(allocate(static_cast<std::size_t>(panels() * panel_bytes_)));
    pool_run(panels(), configured_threads(), [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t p = begin; p < end; ++p) pack_panel(source, p);
    });
}

void PackedWeights::lay_out(std::int64_t group_size) {
    check_panel_size(bits_, offset_, k_, group_size);
    std::int64_t record = 0;
    for (std::int64_t start = 0; start < k_; start += group_size) {
        const std::int64_t group = std::min(group_size, k_ - start);
        const std::int64_t block = group > kBlockLength ? kLongGroupBlockLength : kBlockLength;
        std::int64_t codes = record + header_bytes(offset_);
        for (std::int64_t k = 0; k < group; k += block) {
            const std::int64_t length = std::min(block, group - k);
            const std::int64_t padded = (length + 7) / 8 * 8;
            blocks_.push_back(
                {static_cast<std::uint32_t>(record), static_cast<std::uint32_t>(codes),
                 static_cast<std::uint32_t>(start + k), static_cast<std::uint32_t>(k_padded_),
                 static_cast<std::uint16_t>(length), static_cast<std::uint16_t>(padded),
                 static_cast<std::uint16_t>(steps(bits_, length))});
            codes += kStepBytes * steps(bits_, length);
            k_padded_ += padded;
        }
        record = codes;
    }
    panel_bytes_ = record;
    blocks_.shrink_to_fit();
}

void PackedWeights::pack_panel(const SourceWeights& source, std::int64_t panel) {
    std::uint8_t* const base = data_.get() + panel * panel_bytes_;
    const std::int64_t row0 = panel * kPanelRows;
    const auto rows = static_cast<int>(std::min<std::int64_t>(kPanelRows, n_ - row0));
    const std::int64_t groups = (k_ - 1) / source.group_size + 1;
    std::memset(base, 0, static_cast<std::size_t>(panel_bytes_));
    for (const Block& block : blocks_) {
        const std::int64_t group = block.k / source.group_size;
        for (int r = 0; r < rows; ++r) {
            const std::int64_t at = (row0 + r) * groups + group;
            std::memcpy(base + block.header + 2 * r, source.scales + at, 2);
            std::uint8_t* offset = base + block.header + sizeof(Scales);
            if (offset_ == Offset::zero_point)
                offset[r] = static_cast<const std::uint8_t*>(source.offsets)[at];
            else if (offset_ == Offset::minimum)
                std::memcpy(offset + 2 * r, static_cast<const std::uint16_t*>(source.offsets) + at,
                            2);
            std::uint8_t* const codes = base + block.codes + 4 * r;
            for (int i = 0; i < block.length; ++i) {
                const std::uint8_t code = source_code(source, row0 + r, block.k + i);
                if (bits_ == 8)
                    codes[kStepBytes * (i / 4) + i % 4] = code;
                else
                    codes[kStepBytes * (i / 8) + i % 4] |=
                        static_cast<std::uint8_t>(code << (i % 8 < 4 ? 0 : 4));
            }
        }
    }
}

std::size_t PackedWeights::nbytes() const {
    return static_cast<std::size_t>(panels() * panel_bytes_) + blocks_.size() * sizeof(Block);
}

void PackedWeights::dequantize_row(std::int64_t row, float* out) const {
    const std::uint8_t* const base = data() + row / kPanelRows * panel_bytes_;
    const std::int64_t r = row % kPanelRows;
    const int zero = code_zero(bits_, offset_);
    for (const Block& block : blocks_) {
        std::uint16_t half;
        std::memcpy(&half, base + block.header + 2 * r, 2);
        const float scale = half_to_float(half);
        const std::uint8_t* const offsets = base + block.header + sizeof(Scales);
        int zero_point = zero;
        float minimum = 0;
        if (offset_ == Offset::zero_point) {
            zero_point += offsets[r];
        } else if (offset_ == Offset::minimum) {
            std::memcpy(&half, offsets + 2 * r, 2);
            minimum = half_to_float(half);
        }
        const std::uint8_t* const codes = base + block.codes + 4 * r;
        for (int i = 0; i < block.length; ++i) {
            const int code =
                bits_ == 8 ? codes[kStepBytes * (i / 4) + i % 4]
                           : codes[kStepBytes * (i / 8) + i % 4] >> (i % 8 < 4 ? 0 : 4) & 0x0F;
            out[block.k + i] = scale * static_cast<float>(code - zero_point) + minimum;
        }
    }
}

}  // namespace sllmbench
