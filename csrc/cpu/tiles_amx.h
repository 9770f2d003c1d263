// AMX's instructions as macros, and its configuration: palette 1, eight tiles tmm0-tmm7 of at most
// 16 rows of 64 bytes.
//
// asm with a clobber of memory, volatile: gcc 12's tile intrinsics have none, so it moves the
// stores that fill an operand past the load of the tile. The tile number is written out in each.
#pragma once

#include <cstdint>

namespace sllmbench {

struct alignas(64) TileConfig {
    std::uint8_t palette;  // 1
    std::uint8_t start_row;
    std::uint8_t reserved[14];
    std::uint16_t row_bytes[16];  // both 0: a tile that is not used
    std::uint8_t rows[16];
};
static_assert(sizeof(TileConfig) == 64);

// Zeroes all tiles. A thread has no configuration until it loads one.
#define TILE_CONFIG(config) asm volatile("ldtilecfg %0" : : "m"(config) : "memory")
// Tiles are caller-saved, so nobody's are lost; a thread whose tiles are released has no 8 KB of
// them to save at each context switch.
#define TILE_RELEASE() asm volatile("tilerelease" : : : "memory")
#define TILE_ZERO(tile) asm volatile("tilezero %%tmm" #tile : : : "memory")
// Row r is at p + r * stride.
#define TILE_LOAD(tile, p, stride)                   \
    asm volatile("tileloadd (%0,%1,1), %%tmm" #tile  \
                 :                                   \
                 : "r"(p), "r"(std::int64_t{stride}) \
                 : "memory")
#define TILE_STORE(tile, p, stride)                     \
    asm volatile("tilestored %%tmm" #tile ", (%0,%1,1)" \
                 :                                      \
                 : "r"(p), "r"(std::int64_t{stride})    \
                 : "memory")
// sums [m, n] += a [m, 4 k4], signed bytes, times b [k4, n, 4], signed bytes.
#define TILE_DOT(sums, a, b) \
    asm volatile("tdpbssd %%tmm" #b ", %%tmm" #a ", %%tmm" #sums : : : "memory")

}  // namespace sllmbench
