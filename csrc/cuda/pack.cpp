#include "cuda/pack.h"

#include <algorithm>
#include <cstring>

#include "cuda/layouts.h"

namespace sllmbench::cuda {
namespace {

constexpr int per_lane(int bits) {  // k of one row in a lane
    return tile_length(bits) / 4;
}

// The nibbles of 0x0d0c0b0a at the even places of a word, moved together: 0x0000dcba.
constexpr std::uint32_t together(std::uint32_t word) {
    word = (word | word >> 4) & 0x00ff00ff;
    return (word | word >> 8) & 0xffff;
}
// k + 0, 1, .. 7 from the lowest nibble on -> k + 0, 2, 4, 6, 1, 3, 5, 7.
constexpr std::uint32_t interleaved(std::uint32_t word) {
    return together(word & 0x0f0f0f0f) | together(word >> 4 & 0x0f0f0f0f) << 16;
}
static_assert(interleaved(0x76543210) == 0x75316420);

// The codes of one row from k = `first` on, as many as a lane holds, what is missing as a weight of
// 0: eight bytes either way.
void read_row(const HostWeight& weight, std::int64_t row, std::int64_t first,
              std::uint8_t (&out)[8]) {
    const std::int64_t groups = divide_up(weight.k, weight.group);
    const int symmetric_zero = weight.bits == 4 ? 8 : 0;
    const int zero = weight.zeros ? weight.zeros[(row + 1) * groups - 1] : symmetric_zero;
    const int here =
        static_cast<int>(std::clamp<std::int64_t>(weight.k - first, 0, per_lane(weight.bits)));
    if (weight.bits == 8) {
        std::memset(out, zero, sizeof out);
        std::memcpy(out, weight.codes + row * weight.k + first, static_cast<std::size_t>(here));
        return;
    }
    std::memset(out, zero * 0x11, sizeof out);
    const std::uint8_t* const from = weight.codes + row * divide_up(weight.k, 2) + first / 2;
    std::memcpy(out, from, static_cast<std::size_t>(here / 2));
    if (here % 2) out[here / 2] = static_cast<std::uint8_t>((from[here / 2] & 0x0f) | zero << 4);
}

void pack_tile_row(const HostWeight& weight, std::int64_t row, std::int64_t tile_k,
                   std::uint8_t* tile) {
    const int r = static_cast<int>(row % kTileRows);
    for (int q = 0; q < 4; ++q) {
        std::uint8_t codes[8];
        read_row(weight, row, tile_k + q * per_lane(weight.bits), codes);
        if (weight.bits == 4) {
            std::uint32_t words[2];
            std::memcpy(words, codes, sizeof words);
            for (std::uint32_t& word : words) word = interleaved(word);
            std::memcpy(codes, words, sizeof words);
        }
        std::uint8_t* const lane = tile + (4 * (r % 8) + q) * kLaneBytes;
        std::memcpy(lane + r / 8 * (kLaneBytes / 2), codes, sizeof codes);
    }
}

}  // namespace

PackedSizes packed_sizes(int bits, std::int64_t n, std::int64_t k, std::int64_t group) {
    return {row_blocks(n) * tiles_along_k(bits, k) * kTileBytes, row_blocks(n),
            divide_up(k, group)};
}

void pack(const HostWeight& weight, std::uint8_t* tiles, std::uint16_t* scales,
          std::uint8_t* zeros) {
    const auto [tile_bytes, blocks, groups] =
        packed_sizes(weight.bits, weight.n, weight.k, weight.group);
    const std::int64_t along_k = tiles_along_k(weight.bits, weight.k);
    // Rows of padding: scale 0, so that their codes do not matter.
    std::memset(tiles, 0, static_cast<std::size_t>(tile_bytes));
    std::fill_n(scales, blocks * groups * kTileRows, std::uint16_t{0});
    if (zeros) std::fill_n(zeros, blocks * groups * kTileRows, std::uint8_t{0});
    for (std::int64_t row = 0; row < weight.n; ++row) {
        const std::int64_t block = row / kTileRows;
        for (std::int64_t t = 0; t < along_k; ++t)
            pack_tile_row(weight, row, t * tile_length(weight.bits),
                          tiles + (block * along_k + t) * kTileBytes);
        for (std::int64_t g = 0; g < groups; ++g) {
            const std::int64_t to = (block * groups + g) * kTileRows + row % kTileRows;
            // The array may be misaligned.
            std::memcpy(scales + to, weight.scales + row * groups + g, sizeof *scales);
            if (zeros) zeros[to] = weight.zeros[row * groups + g];
        }
    }
}

}  // namespace sllmbench::cuda
