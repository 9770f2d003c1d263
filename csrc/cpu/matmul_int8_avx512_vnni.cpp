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

// A block's float sums: y += scale * scale of x * dot, and the offset's share.
template <bool OFFSETS>
ALWAYS_INLINE inline __m512 fold(__m512i dot, __m512 scale, __m512 offset, float x_scale,
                                 float x_sum, __m512 y) {
    y = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot), _mm512_mul_ps(scale, _mm512_set1_ps(x_scale)), y);
    return OFFSETS ? _mm512_fmadd_ps(offset, _mm512_set1_ps(x_sum), y) : y;
}

// Without a loop: 8192x2048 int4-g128 hot in L3, one row, one thread, 120 us against 142 with a
// loop of four steps unrolled, 159 with a prefetch in it. No prefetch at all: on Zen 4 the
// processor's own keeps up, from memory too (8 KB ahead, all lines: 23 GB/s of one thread against
// 30). Zen 5 gained 10% from memory by 8 KB ahead.
template <int STEPS, int P, int M, int BITS>
ALWAYS_INLINE inline void gemv_steps(const std::uint8_t* codes, std::int64_t panel_bytes,
                                     const std::int8_t* x, int stride, __m512i (&low)[P][M][2],
                                     __m512i (&high)[P][M][2]) {
#pragma GCC unroll 16
    for (int j = 0; j < STEPS; ++j)
#pragma GCC unroll 2
        for (int i = 0; i < P; ++i)
            gemv_step<M, BITS>(codes + i * panel_bytes + j * step_bytes(BITS),
                               x + j * step_length(BITS), stride, low[i], high[i]);
}

// P panels at once, which share each broadcast of x.
template <int P, int M, int BITS, bool OFFSETS>
void gemv_panels(const Job& job, std::int64_t panel) {
    const std::uint8_t* const base = job.panels + panel * job.panel_bytes;
    __m512 y[P][M][2];
    for (auto& rows : y)
        for (auto& row : rows) row[0] = row[1] = _mm512_setzero_ps();
    for (std::int64_t b = 0; b < job.n_blocks; ++b) {
        const Block& block = job.blocks[b];
        const std::int8_t* const x =
            static_cast<const std::int8_t*>(job.values) + block.k_padded * M;
        const std::uint8_t* const codes = base + block.codes;
        const int stride = block.padded;
        __m512i low[P][M][2], high[P][M][2];
        for (int i = 0; i < P; ++i)
            for (int m = 0; m < M; ++m)
                for (int h = 0; h < 2; ++h) {
                    low[i][m][h] = _mm512_set1_epi32(job.starts[b * M + m]);
                    high[i][m][h] = _mm512_setzero_si512();
                    KEEP(low[i][m][h]);
                    KEEP(high[i][m][h]);
                }
        const auto run = [&]<int STEPS>(int first) ALWAYS_INLINE {
            gemv_steps<STEPS, P, M, BITS>(codes + first * step_bytes(BITS), job.panel_bytes,
                                          x + first * step_length(BITS), stride, low, high);
        };
        switch (block.steps) {
            case 16:
                run.template operator()<16>(0);
                break;
            case 8:
                run.template operator()<8>(0);
                break;
            case 4:
                run.template operator()<4>(0);
                break;
            case 2:
                run.template operator()<2>(0);
                break;
            default:
                for (int j = 0; j < block.steps; ++j) run.template operator()<1>(j);
        }
        for (int i = 0; i < P; ++i) {
            const Header header = load_header<OFFSETS>(job, base + i * job.panel_bytes, block);
            for (int m = 0; m < M; ++m)
                for (int h = 0; h < 2; ++h) {
                    __m512i dot = low[i][m][h], upper = high[i][m][h];
                    if (BITS == 4) upper = _mm512_srai_epi32(upper, 4);
                    if (BITS != 8) dot = _mm512_add_epi32(dot, upper);
                    y[i][m][h] =
                        fold<OFFSETS>(dot, header.scale[h], header.offset[h], job.scales[b * M + m],
                                      job.sums[b * M + m], y[i][m][h]);
                }
        }
    }
    for (int i = 0; i < P; ++i)
        for (int m = 0; m < M; ++m) store_panel(job, panel + i, m, y[i][m][0], y[i][m][1]);
}

template <int M, int BITS, bool OFFSETS>
void gemv_kernel(const Job& job, std::int64_t panel_begin, std::int64_t panel_end) {
    std::int64_t panel = panel_begin;
    // Two panels, one thread, us of 8192x2048 against one panel at a time: int8 223 against 269,
    // q8_0 239, 323, q6_k 284, 325, q5_k 306, 327, int4-g128 118, 120. Short blocks of 4 bits lose
    // to their headers' registers: int4-g32 175, 165, q4_1 211, 150.
    const bool pairs = M == 1 && (BITS != 4 || job.blocks[0].steps > 4);
    for (; pairs && panel + 2 <= panel_end; panel += 2)
        gemv_panels<M == 1 ? 2 : 1, M, BITS, OFFSETS>(job, panel);
    for (; panel < panel_end; ++panel) gemv_panels<1, M, BITS, OFFSETS>(job, panel);
}

// --------------------------------------------------------------------------------- more rows

// Rows of a tile, an even number. 128 rows times 8192x2048 on Zen 4, two threads, GOP/s at g128 and
// g32: 6 rows 761, 649; 8 rows 756, 637; 10 rows 756, 610; 12 rows 750, 587. Before, the codes were
// unpacked once for all rows, 512 k at a time, into L1: 676, 595, and 16 rows 585 against 778; the
// stores and the cold loads of the unpacking (8% of the time at 128 rows) had nothing beside them.
//
// Groups of 32 fold four times as often. Without the product of the two scales in the fold (scales
// of x rounded to powers of two, added to the exponent instead): 16 rows 1.02-1.03 times as fast,
// 128 rows 0.99-1.01, so it is not that multiplication, and x would be coarser.
constexpr int kTallest = 8;

// M rows from the codes as they are stored, unpacked in registers: vpdpbusd keeps two of Zen 4's
// four pipes, the masks and shifts go to the others.
template <int M, int BITS, bool OFFSETS>
void tile(const Job& job, std::int64_t panel, std::int64_t row) {
    constexpr int kStep = step_length(BITS), kBytes = step_bytes(BITS);
    const std::uint8_t* const base = job.panels + panel * job.panel_bytes;
    alignas(64) __m512 y[M][2];
    for (int m = 0; m < M; ++m) y[m][0] = y[m][1] = _mm512_setzero_ps();
    for (std::int64_t b = 0; b < job.n_blocks; ++b) {
        const Block& block = job.blocks[b];
        const int stride = block.padded;
        const std::int64_t first_row = b * job.rows + row;
        const std::int8_t* x =
            static_cast<const std::int8_t*>(job.values) + block.k_padded * job.rows + row * stride;
        const std::uint8_t* codes = base + block.codes;
        __m512i dot[M][2];
        for (int m = 0; m < M; ++m)
            for (int h = 0; h < 2; ++h) {
                dot[m][h] = _mm512_set1_epi32(job.starts[first_row + m]);
                KEEP(dot[m][h]);
            }
        for (int j = block.steps; j > 0; --j, codes += kBytes, x += kStep) {
            __m512i low[2], high[2];
            if (BITS == 8)
                load_codes(codes, low);
            else
                unpack_step<BITS == 8 ? 4 : BITS>(codes, low, high);
            for (int m = 0; m < M; ++m) {
                const __m512i a = broadcast4(x + m * stride);
                DOT(dot[m][0], low[0], a);
                DOT(dot[m][1], low[1], a);
            }
            if (BITS == 8) continue;
            for (int m = 0; m < M; ++m) {
                const __m512i a = broadcast4(x + m * stride + 4);
                DOT(dot[m][0], high[0], a);
                DOT(dot[m][1], high[1], a);
            }
        }
        const Header header = load_header<OFFSETS>(job, base, block);
        for (int m = 0; m < M; ++m)
            for (int h = 0; h < 2; ++h)
                y[m][h] =
                    fold<OFFSETS>(dot[m][h], header.scale[h], header.offset[h],
                                  job.scales[first_row + m], job.sums[first_row + m], y[m][h]);
    }
    for (int m = 0; m < M && row + m < job.m; ++m)
        store_panel(job, panel, row + m, y[m][0], y[m][1]);
}

void gemv(const Job& job, std::int64_t panel_begin, std::int64_t panel_end) {
    with_kind(job, [&]<int BITS, bool OFFSETS>() {
        with_rows(job,
                  [&]<int M>() { gemv_kernel<M, BITS, OFFSETS>(job, panel_begin, panel_end); });
    });
}

void gemm(const Job& job, std::int64_t panel, std::int64_t row_begin, std::int64_t row_end) {
    with_kind(job, [&]<int BITS, bool OFFSETS>() {
        with_height<kTallest>(row_end - row_begin,
                              [&]<int M>() { tile<M, BITS, OFFSETS>(job, panel, row_begin); });
    });
}

}  // namespace

extern const Kernels kernels_int8_avx512_vnni;
const Kernels kernels_int8_avx512_vnni = {prepare,  gemv,          gemm,
                                          kTallest, "avx512_vnni", "avx512_vnni"};

}  // namespace sllmbench
