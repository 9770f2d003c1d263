// Roofs with AMX: int8 products from tiles, the rest from 512-bit registers.
// Nothing but the table may have external linkage.
#include "cpu/tiles_amx.h"
#include "probes/roof_avx512.h"

namespace sllmbench {
namespace {

// Six sums in turn: a product is said to take 52 cycles and to start every 16, so four are needed.
double int8_operations(std::int64_t iterations) {
    TileConfig config{};
    config.palette = 1;
    for (int tile = 0; tile < 8; ++tile) {
        config.row_bytes[tile] = 64;
        config.rows[tile] = 16;
    }
    TILE_CONFIG(config);
    for (std::int64_t i = 0; i < iterations; ++i) {
        TILE_DOT(0, 6, 7);
        TILE_DOT(1, 6, 7);
        TILE_DOT(2, 6, 7);
        TILE_DOT(3, 6, 7);
        TILE_DOT(4, 6, 7);
        TILE_DOT(5, 6, 7);
    }
    TILE_RELEASE();
    return 2.0 * 16 * 16 * 64 * 6 * static_cast<double>(iterations);
}

}  // namespace

extern const Roof roof_amx_int8;
const Roof roof_amx_int8 = {read, int8_operations, fp32_operations};

}  // namespace sllmbench
