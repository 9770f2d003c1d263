// How a quantised [n, k] weight lies in a GPU's memory, for every kernel alike.
//
// A tile is what the 32 lanes of a warp read with one 128-bit load each, 512 contiguous bytes:
// 16 rows of 64 k (4 bits) or of 32 k (8 bits). Tiles of the same rows follow each other along k,
// so a warp streams. Lane 4r + q holds rows r and r + 8 and a quarter of the k, as an A fragment of
// mma.m16n8k8 wants its rows; which k goes into which of the fragment's columns is free, as long
// as the activations follow, so a lane's k are contiguous:
//
//   4 bits   words 0, 1: row r, k = 16q .. 16q + 7 and 16q + 8 .. 16q + 15; words 2, 3: row r + 8
//            nibbles of a word, from the lowest:  k + 0, 2, 4, 6, 1, 3, 5, 7
//            so (word >> 8j & 0x000f000f) is the pair k + 4j, k + 4j + 1 as two 16-bit lanes, and
//            (word >> 8j & 0x00f000f0) the next pair, times 16
//   8 bits   bytes 0 .. 7: row r, k = 8q .. 8q + 7; bytes 8 .. 15: row r + 8; two's complement
//
// Rows are padded to 16 with scale 0, k to a whole tile with the code that stands for 0. Scales are
// fp16, zero points u8, both [row blocks][groups][16 rows]; w = scale * (code - zero point), where
// the zero point of symmetric 4-bit codes is 8 and of 8-bit codes 0.
#pragma once

#include <cstdint>

namespace sllmbench::cuda {

inline constexpr int kTileRows = 16;
inline constexpr int kTileBytes = 512;
inline constexpr int kLaneBytes = kTileBytes / 32;  // one 128-bit load

constexpr int tile_length(int bits) {  // k of a tile
    return kTileBytes * 8 / (kTileRows * bits);
}
static_assert(tile_length(4) == 64 && tile_length(8) == 32);

constexpr std::int64_t divide_up(std::int64_t a, std::int64_t b) {
    return (a + b - 1) / b;
}
constexpr std::int64_t row_blocks(std::int64_t n) {
    return divide_up(n, kTileRows);
}
constexpr std::int64_t tiles_along_k(int bits, std::int64_t k) {
    return divide_up(k, tile_length(bits));
}
// Where the code of (row, column) lies: bytes from the start, and for 4 bits its shift in the byte.
struct Place {
    std::int64_t byte;
    int shift;
};
constexpr Place place(int bits, std::int64_t k, std::int64_t row, std::int64_t column) {
    const std::int64_t tile = row / kTileRows * tiles_along_k(bits, k) + column / tile_length(bits);
    const int r = static_cast<int>(row % kTileRows),
              c = static_cast<int>(column % tile_length(bits));
    const int per_lane = tile_length(bits) / 4;  // k
    const std::int64_t lane = tile * kTileBytes + (4 * (r % 8) + c / per_lane) * kLaneBytes;
    const int upper = r / 8 * (kLaneBytes / 2), i = c % per_lane;
    if (bits == 8) return {lane + upper + i, 0};
    const int nibble = i % 8 / 2 + 4 * (i % 2);
    return {lane + upper + i / 8 * 4 + nibble / 2, 4 * (nibble % 2)};
}

}  // namespace sllmbench::cuda
