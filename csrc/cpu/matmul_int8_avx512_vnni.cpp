// int8 arithmetic with AVX-512 VNNI.
//
// Nothing here may have external linkage but the table at the end (see check_linkage.cmake).
#include "cpu/lanes_int8_avx512.h"
#include "cpu/matmul.h"

namespace sllmbench {
namespace {

// gcc 12 copies the accumulators of _mm512_dpbusd_epi32 from register to register, and spills some;
// as asm the instruction is tied to one. KEEP stops it from sharing one start value among several
// accumulators and copying that in the loop.
#define DOT(acc, w, x) asm("vpdpbusd %2, %1, %0" : "+v"(acc) : "v"(w), "v"(x))
#define KEEP(acc) asm("" : "+v"(acc))

void prepare(const Job& job, std::int64_t row_begin, std::int64_t row_end) {
    quantise_rows(job, row_begin, row_end, code_zero(job.layout.bits, job.layout.offset));
}

// ------------------------------------------------------------------------------ up to 4 rows

// Straight from the codes. 8 k a step in `low`, 4 bits excepted: the high nibbles stay where they
// are (16 times too large) in accumulators of their own, shifted once a block, so a step of 256
// weights costs four ANDs and no shift. The accumulators start at -code_zero * sum(x): a constant
// zero is free.
template <int M, int BITS>
ALWAYS_INLINE inline void gemv_step(const std::uint8_t* codes, const std::int8_t* x, int stride,
                                    __m512i (&low)[M][2], __m512i (&high)[M][2]) {
    for (int i = 0; i < step_bytes(BITS); i += 64)
        _mm_prefetch(reinterpret_cast<const char*>(codes + kPrefetchBytes + i), _MM_HINT_T0);
    if (BITS == 5 || BITS == 6) {
        __m512i first[2], second[2];
        unpack_step<BITS>(codes, first, second);
        for (int m = 0; m < M; ++m) {
            const __m512i a = broadcast4(x + m * stride), c = broadcast4(x + m * stride + 4);
            DOT(low[m][0], first[0], a);
            DOT(low[m][1], first[1], a);
            DOT(high[m][0], second[0], c);
            DOT(high[m][1], second[1], c);
        }
        return;
    }
    __m512i v[2];
    load_codes(codes, v);
    if (BITS == 8) {
        for (int m = 0; m < M; ++m) {
            const __m512i a = broadcast4(x + m * stride);
            DOT(low[m][0], v[0], a);
            DOT(low[m][1], v[1], a);
        }
        return;
    }
    const __m512i low_mask = _mm512_set1_epi8(0x0F), high_mask = _mm512_set1_epi8(-16);
    const __m512i l0 = _mm512_and_si512(v[0], low_mask), h0 = _mm512_and_si512(v[0], high_mask);
    const __m512i l1 = _mm512_and_si512(v[1], low_mask), h1 = _mm512_and_si512(v[1], high_mask);
    for (int m = 0; m < M; ++m) {
        const __m512i a = broadcast4(x + m * stride), c = broadcast4(x + m * stride + 4);
        DOT(low[m][0], l0, a);
        DOT(low[m][1], l1, a);
        DOT(high[m][0], h0, c);
        DOT(high[m][1], h1, c);
    }
}

template <int M, int BITS, bool OFFSETS>
void gemv_kernel(const Job& job, std::int64_t panel_begin, std::int64_t panel_end) {
    constexpr int kStep = step_length(BITS), kBytes = step_bytes(BITS);
    for (std::int64_t p = panel_begin; p < panel_end; ++p) {
        const std::uint8_t* const base = job.panels + p * job.panel_bytes;
        __m512 y[M][2];
        for (int m = 0; m < M; ++m) y[m][0] = y[m][1] = _mm512_setzero_ps();
        for (std::int64_t b = 0; b < job.n_blocks; ++b) {
            const Block& block = job.blocks[b];
            const std::int32_t* const starts = job.starts + b * M;
            const std::int8_t* x = static_cast<const std::int8_t*>(job.values) + block.k_padded * M;
            const std::uint8_t* codes = base + block.codes;
            const int stride = block.padded;
            __m512i low[M][2], high[M][2];
            for (int m = 0; m < M; ++m)
                for (int h = 0; h < 2; ++h) {
                    low[m][h] = _mm512_set1_epi32(starts[m]);
                    high[m][h] = _mm512_setzero_si512();
                    KEEP(low[m][h]);
                    KEEP(high[m][h]);
                }
            int steps = block.steps;
            for (; steps >= 4; steps -= 4)
#pragma GCC unroll 4
                for (int j = 0; j < 4; ++j, codes += kBytes, x += kStep)
                    gemv_step<M, BITS>(codes, x, stride, low, high);
            for (; steps > 0; --steps, codes += kBytes, x += kStep)
                gemv_step<M, BITS>(codes, x, stride, low, high);
            const Header header = load_header<OFFSETS>(job, base, block);
            for (int m = 0; m < M; ++m) {
                const __m512 scale = _mm512_set1_ps(job.scales[b * M + m]);
                for (int h = 0; h < 2; ++h) {
                    __m512i dot = low[m][h];
                    if (BITS == 4) high[m][h] = _mm512_srai_epi32(high[m][h], 4);
                    if (BITS != 8) dot = _mm512_add_epi32(dot, high[m][h]);
                    y[m][h] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot),
                                              _mm512_mul_ps(header.scale[h], scale), y[m][h]);
                    if (OFFSETS)
                        y[m][h] = _mm512_fmadd_ps(header.offset[h],
                                                  _mm512_set1_ps(job.sums[b * M + m]), y[m][h]);
                }
            }
        }
        for (int m = 0; m < M; ++m) store_panel(job, p, m, y[m][0], y[m][1]);
    }
}

// --------------------------------------------------------------------------------- more rows

// A panel is taken in chunks of k whose unpacked codes stay in L1; each tile of rows then runs over
// the chunk's blocks with its float sums in registers.
constexpr int kChunk = 512;
constexpr int kChunkBlocks = kChunk / 8;  // a block has at least 8 padded k

struct Scratch {
    alignas(64) std::uint8_t codes[kChunk / 4 * kStepBytes];  // as formats.h stores 8 bits
    alignas(64) float scale[kChunkBlocks][kPanelRows];
    alignas(64) float offset[kChunkBlocks][kPanelRows];
    const std::uint8_t* block_codes[kChunkBlocks];
    int steps[kChunkBlocks];
    alignas(64) float y[kTileRows][kPanelRows];
};

// Unpacks 4, 5 or 6 bits into steps of 4 k, a byte each.
template <int BITS>
void unpack(const std::uint8_t* from, int steps, std::uint8_t* to) {
    for (int j = 0; j < steps; ++j, from += step_bytes(BITS), to += 2 * kStepBytes) {
        __m512i low[2], high[2];
        unpack_step<BITS>(from, low, high);
        for (int h = 0; h < 2; ++h) {
            _mm512_store_si512(to + 64 * h, low[h]);
            _mm512_store_si512(to + kStepBytes + 64 * h, high[h]);
        }
    }
}

template <int M, bool OFFSETS>
void tile(const Job& job, Scratch& scratch, std::int64_t block_begin, std::int64_t block_end,
          std::int64_t row, float (*sums_y)[kPanelRows]) {
    __m512 y[M][2];
    for (int m = 0; m < M; ++m)
        for (int h = 0; h < 2; ++h) y[m][h] = _mm512_load_ps(sums_y[m] + 16 * h);
    for (std::int64_t b = block_begin; b < block_end; ++b) {
        const Block& block = job.blocks[b];
        const std::int64_t at = b - block_begin;
        const int stride = block.padded;
        const std::int8_t* x =
            static_cast<const std::int8_t*>(job.values) + block.k_padded * job.rows + row * stride;
        const std::int64_t first_row = b * job.rows + row;
        const std::int32_t* const starts = job.starts + first_row;
        const float* const scales = job.scales + first_row;
        const float* const sums = job.sums + first_row;
        __m512i dot[M][2];
        for (int m = 0; m < M; ++m)
            for (int h = 0; h < 2; ++h) {
                dot[m][h] = _mm512_set1_epi32(starts[m]);
                KEEP(dot[m][h]);
            }
        const std::uint8_t* codes = scratch.block_codes[at];
#pragma GCC unroll 4
        for (int j = scratch.steps[at]; j > 0; --j, codes += kStepBytes, x += 4) {
            __m512i w[2];
            load_codes(codes, w);
            for (int m = 0; m < M; ++m) {
                const __m512i a = broadcast4(x + m * stride);
                DOT(dot[m][0], w[0], a);
                DOT(dot[m][1], w[1], a);
            }
        }
        for (int m = 0; m < M; ++m) {
            const __m512 scale = _mm512_set1_ps(scales[m]);
            for (int h = 0; h < 2; ++h) {
                y[m][h] = _mm512_fmadd_ps(
                    _mm512_cvtepi32_ps(dot[m][h]),
                    _mm512_mul_ps(_mm512_load_ps(scratch.scale[at] + 16 * h), scale), y[m][h]);
                if (OFFSETS)
                    y[m][h] = _mm512_fmadd_ps(_mm512_load_ps(scratch.offset[at] + 16 * h),
                                              _mm512_set1_ps(sums[m]), y[m][h]);
            }
        }
    }
    for (int m = 0; m < M; ++m)
        for (int h = 0; h < 2; ++h) _mm512_store_ps(sums_y[m] + 16 * h, y[m][h]);
}

template <int BITS, bool OFFSETS>
void gemm_kernel(const Job& job, std::int64_t panel, std::int64_t row_begin, std::int64_t row_end) {
    Scratch scratch;
    const std::uint8_t* const base = job.panels + panel * job.panel_bytes;
    const auto rows = static_cast<int>(row_end - row_begin);
    for (int m = 0; m < rows; ++m)
        for (int h = 0; h < 2; ++h) _mm512_store_ps(scratch.y[m] + 16 * h, _mm512_setzero_ps());
    for (std::int64_t b = 0; b < job.n_blocks;) {
        const std::int64_t block_begin = b;
        int k = 0;
        for (; b < job.n_blocks && k + job.blocks[b].padded <= kChunk; ++b) {
            const Block& block = job.blocks[b];
            const std::int64_t at = b - block_begin;
            const Header header = load_header<OFFSETS>(job, base, block);
            for (int h = 0; h < 2; ++h) {
                _mm512_store_ps(scratch.scale[at] + 16 * h, header.scale[h]);
                if (OFFSETS) _mm512_store_ps(scratch.offset[at] + 16 * h, header.offset[h]);
            }
            if (BITS == 8) {
                scratch.block_codes[at] = base + block.codes;
                scratch.steps[at] = block.steps;
            } else {
                std::uint8_t* const to = scratch.codes + k / 4 * kStepBytes;
                unpack<BITS == 8 ? 4 : BITS>(base + block.codes, block.steps, to);
                scratch.block_codes[at] = to;
                scratch.steps[at] = 2 * block.steps;
            }
            k += block.padded;
        }
        int m = 0;
        const auto tiles = [&](auto tile, int height) {
            for (; m + height <= rows; m += height)
                tile(job, scratch, block_begin, b, row_begin + m, scratch.y + m);
        };
        tiles(tile<6, OFFSETS>, 6);
        tiles(tile<4, OFFSETS>, 4);
        tiles(tile<2, OFFSETS>, 2);
    }
    for (int m = 0; m < rows && row_begin + m < job.m; ++m)
        store_panel(job, panel, row_begin + m, _mm512_load_ps(scratch.y[m]),
                    _mm512_load_ps(scratch.y[m] + 16));
}

void gemv(const Job& job, std::int64_t panel_begin, std::int64_t panel_end) {
    with_kind(job, [&]<int BITS, bool OFFSETS>() {
        with_rows(job,
                  [&]<int M>() { gemv_kernel<M, BITS, OFFSETS>(job, panel_begin, panel_end); });
    });
}

void gemm(const Job& job, std::int64_t panel, std::int64_t row_begin, std::int64_t row_end) {
    with_kind(job, [&]<int BITS, bool OFFSETS>() {
        gemm_kernel<BITS, OFFSETS>(job, panel, row_begin, row_end);
    });
}

}  // namespace

extern const Kernels kernels_int8_avx512_vnni;
const Kernels kernels_int8_avx512_vnni = {prepare, gemv, gemm};

}  // namespace sllmbench
