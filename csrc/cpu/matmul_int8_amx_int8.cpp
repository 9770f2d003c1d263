// int8 arithmetic with AMX. Up to 4 rows, and the preparing of x, are AVX-512 VNNI's: at one row
// memory is the bound, and a tile product costs the same for 4 rows as a few vectors do.
//
// This project has checked the results, under emulation (tests/amx_emulator), and has never timed
// this file: it had no machine with AMX. The shape comes from what is known of Sapphire Rapids: a
// product of three full tiles starts every 16 cycles, whatever its k, and takes 52; so a group of
// 32 k, which fills half of a tile, wastes half.
//
// A panel's block of up to 128 k times 16 rows:
//
//   tmm4 | tmm5     [16 rows, 64 k | the rest]     x as prepared, signed bytes
//     times
//   tmm0, tmm1      [64 k, 16 + 16 columns]        weights unpacked to signed bytes in steps of 4
//   k, tmm2, tmm3      [the rest, 16 + 16]            128 bytes each, which is a row of both tiles
//     gives
//   tmm6, tmm7      [16 rows, 16 + 16 columns]     int32, stored and folded into floats
//
// The weights stay in tmm0-3 for all rows. While the products of one row tile run, the vector units
// fold those of the row tile before it and unpack a share of the next block.
//
// Nothing here may have external linkage but the table at the end (see check_linkage.cmake).
#include "cpu/lanes_avx512.h"
#include "cpu/matmul.h"
#include "cpu/tiles_amx.h"

namespace sllmbench {

extern const Kernels kernels_int8_avx512_vnni;

namespace {

constexpr int kPieceLength = 64;  // k in a row of a tile
constexpr int kTileHeight = 16;

struct Scratch {
    alignas(64) std::uint8_t codes[kBlockLength / 4 * kStepBytes];  // a block, signed
    // Twice: one is being folded while the next products are stored.
    alignas(64) std::int32_t dot[2][kTileHeight][kPanelRows];
    alignas(64) float y[kTileRows][kPanelRows];
};

// The rows of one call, cut into tiles of one height, so that one configuration serves all and few
// rows cost no more than themselves. The last tile ends with the rows and may overlap the one
// before: what it shares with that is computed again and not folded.
struct RowTiles {
    int rows, count, height;

    explicit RowTiles(int all)
        : rows(all),
          count((all + kTileHeight - 1) / kTileHeight),
          height((all + count - 1) / count) {}
    int first(int t) const { return t + 1 == count ? rows - height : t * height; }
    int shared(int t) const { return t * height - first(t); }
};

// Tiles for blocks of `padded` k; zeroes them all.
void configure(int height, int padded) {
    const int piece = padded < kPieceLength ? padded : kPieceLength, rest = padded - piece;
    TileConfig config{};
    config.palette = 1;
    const auto shape = [&config](int tile, int rows, int row_bytes) {
        if (rows == 0 || row_bytes == 0) return;  // not used
        config.rows[tile] = static_cast<std::uint8_t>(rows);
        config.row_bytes[tile] = static_cast<std::uint16_t>(row_bytes);
    };
    for (int half = 0; half < 2; ++half) {
        shape(half, piece / 4, 64);
        shape(2 + half, rest / 4, 64);
        shape(6 + half, height, 64);
    }
    shape(4, height, piece);
    shape(5, height, rest);
    TILE_CONFIG(config);
}

// Steps begin .. end-1 of a block as signed bytes: code - zero. 4 bits without offsets as 16 times
// that, one instruction from the nibble; the scale is divided by 16 for it.
template <int BITS, bool OFFSETS>
void unpack(const std::uint8_t* from, int begin, int end, std::uint8_t* to) {
    const __m512i sign = _mm512_set1_epi8(-128);
    for (int j = begin; j < end; ++j) {
        const std::uint8_t* const step = from + step_bytes(BITS) * j;
        std::uint8_t* const at = to + step_length(BITS) / 4 * kStepBytes * j;
        __m512i low[2], high[2];
        if constexpr (BITS == 8) {
            load_codes(step, low);
            for (auto& codes : low) codes = _mm512_xor_si512(codes, sign);
        } else if constexpr (BITS == 4 && !OFFSETS) {
            const __m512i nibble = _mm512_set1_epi8(-16);
            constexpr int kAndXor = 0x6A;  // (a & b) ^ c
            load_codes(step, high);
            for (int h = 0; h < 2; ++h) {
                const __m512i shifted = _mm512_slli_epi16(high[h], 4);
                low[h] = _mm512_ternarylogic_epi32(shifted, nibble, sign, kAndXor);
                high[h] = _mm512_ternarylogic_epi32(high[h], nibble, sign, kAndXor);
            }
        } else {
            unpack_step<BITS>(step, low, high);
            if constexpr (!OFFSETS) {
                const __m512i zero = _mm512_set1_epi8(code_zero(BITS, Offset::symmetric));
                for (int h = 0; h < 2; ++h) {
                    low[h] = _mm512_sub_epi8(low[h], zero);
                    high[h] = _mm512_sub_epi8(high[h], zero);
                }
            }
        }
        for (int h = 0; h < 2; ++h) {
            _mm512_store_si512(at + 64 * h, low[h]);
            if (BITS != 8) _mm512_store_si512(at + kStepBytes + 64 * h, high[h]);
        }
    }
}

template <int BITS, bool OFFSETS>
Header header_of(const Job& job, const std::uint8_t* base, const Block& block) {
    Header header = load_header<OFFSETS>(job, base, block);
    if (BITS == 4 && !OFFSETS)
        for (auto& scale : header.scale) scale = _mm512_mul_ps(scale, _mm512_set1_ps(1.0f / 16));
    return header;
}

// 8 bits: the last step of a tile may be one that the block does not have, with whatever was there
// before; x is 0 there.
void load_weights(const std::uint8_t* codes, int padded) {
    TILE_LOAD(0, codes, kStepBytes);
    TILE_LOAD(1, codes + 64, kStepBytes);
    if (padded <= kPieceLength) return;
    const std::uint8_t* const rest = codes + kPieceLength / 4 * kStepBytes;
    TILE_LOAD(2, rest, kStepBytes);
    TILE_LOAD(3, rest + 64, kStepBytes);
}

void multiply(const std::int8_t* x, int padded) {
    TILE_LOAD(4, x, padded);
    TILE_ZERO(6);
    TILE_ZERO(7);
    TILE_DOT(6, 4, 0);
    TILE_DOT(7, 4, 1);
    if (padded <= kPieceLength) return;
    TILE_LOAD(5, x + kPieceLength, padded);
    TILE_DOT(6, 5, 2);
    TILE_DOT(7, 5, 3);
}

// A row tile whose products are stored but not folded.
struct Pending {
    const std::int32_t (*dot)[kPanelRows];
    std::int64_t block;
    int tile;
};

template <bool OFFSETS>
void fold(const Job& job, const Pending& pending, const Header& header, const RowTiles& tiles,
          std::int64_t row_begin, float (*y)[kPanelRows]) {
    const int first_row = tiles.first(pending.tile);
    const std::int64_t at = pending.block * job.rows + row_begin + first_row;
    for (int r = tiles.shared(pending.tile); r < tiles.height; ++r) {
        const __m512 scale = _mm512_set1_ps(job.scales[at + r]);
        for (int h = 0; h < 2; ++h) {
            float* const to = y[first_row + r] + 16 * h;
            const __m512i dot = _mm512_load_si512(pending.dot[r] + 16 * h);
            __m512 sum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot),
                                         _mm512_mul_ps(header.scale[h], scale), _mm512_load_ps(to));
            if (OFFSETS)
                sum = _mm512_fmadd_ps(header.offset[h], _mm512_set1_ps(job.sums[at + r]), sum);
            _mm512_store_ps(to, sum);
        }
    }
}

template <int BITS, bool OFFSETS>
void gemm_kernel(const Job& job, std::int64_t panel, std::int64_t row_begin, std::int64_t row_end) {
    Scratch scratch;
    const std::uint8_t* const base = job.panels + panel * job.panel_bytes;
    const RowTiles tiles(static_cast<int>(row_end - row_begin));
    __builtin_memset(scratch.y, 0, sizeof scratch.y[0] * static_cast<std::size_t>(tiles.rows));
    const Block* const end = job.blocks + job.n_blocks;
    unpack<BITS, OFFSETS>(base + job.blocks->codes, 0, job.blocks->steps, scratch.codes);
    Header header = header_of<BITS, OFFSETS>(job, base, *job.blocks);
    Pending pending{};
    int padded = 0, turn = 0;
    for (const Block* block = job.blocks; block < end; ++block) {
        // In every call: another library in this thread may have configured the tiles since.
        if (block->padded != padded) configure(tiles.height, padded = block->padded);
        load_weights(scratch.codes, padded);
        const std::int8_t* const x = static_cast<const std::int8_t*>(job.values) +
                                     block->k_padded * job.rows + row_begin * padded;
        for (int t = 0; t < tiles.count; ++t, turn ^= 1) {
            multiply(x + tiles.first(t) * padded, padded);
            if (pending.dot != nullptr)
                fold<OFFSETS>(job, pending, header, tiles, row_begin, scratch.y);
            // Only now: the fold may have been the block before's.
            if (t == 0) header = header_of<BITS, OFFSETS>(job, base, *block);
            TILE_STORE(6, scratch.dot[turn], kPanelRows * 4);
            TILE_STORE(7, scratch.dot[turn][0] + 16, kPanelRows * 4);
            pending = {scratch.dot[turn], block - job.blocks, t};
            if (const Block* const next = block + 1; next < end)
                unpack<BITS, OFFSETS>(base + next->codes, next->steps * t / tiles.count,
                                      next->steps * (t + 1) / tiles.count, scratch.codes);
        }
    }
    fold<OFFSETS>(job, pending, header, tiles, row_begin, scratch.y);
    TILE_RELEASE();
    for (int m = 0; m < tiles.rows && row_begin + m < job.m; ++m)
        store_panel(job, panel, row_begin + m, _mm512_load_ps(scratch.y[m]),
                    _mm512_load_ps(scratch.y[m] + 16));
}

void prepare(const Job& job, std::int64_t row_begin, std::int64_t row_end) {
    kernels_int8_avx512_vnni.prepare(job, row_begin, row_end);
}

void gemv(const Job& job, std::int64_t panel_begin, std::int64_t panel_end) {
    kernels_int8_avx512_vnni.gemv(job, panel_begin, panel_end);
}

void gemm(const Job& job, std::int64_t panel, std::int64_t row_begin, std::int64_t row_end) {
    with_kind(job, [&]<int BITS, bool OFFSETS>() {
        gemm_kernel<BITS, OFFSETS>(job, panel, row_begin, row_end);
    });
}

}  // namespace

extern const Kernels kernels_int8_amx_int8;
const Kernels kernels_int8_amx_int8 = {prepare, gemv, gemm, kTileRows, "avx512_vnni", "amx_int8"};

}  // namespace sllmbench
