// int8 arithmetic with AVX-512, without VNNI: products in pairs of 16 bits, as with AVX2.
//
// Nothing here may have external linkage but the table at the end (see check_linkage.cmake).
#include "cpu/lanes_int8_avx512.h"
#include "cpu/matmul.h"

namespace sllmbench {
namespace {

// gcc 12 moves the 16-bit additions away from their vpmaddubsw, and then spills: as with AVX2.
#define KEEP(acc) asm volatile("" : "+v"(acc))

void prepare(const Job& job, std::int64_t row_begin, std::int64_t row_end) {
    const int zero =  // 8 bits: see Signed
        job.layout.bits == 8 ? 0 : code_zero(job.layout.bits, job.layout.offset);
    quantise_rows(job, row_begin, row_end, zero);
}

ALWAYS_INLINE inline __m512i widen(__m512i pairs) {
    return _mm512_madd_epi16(pairs, _mm512_set1_epi16(1));
}

// 8-bit weights as |w| and where they are negative. |w| * (x with w's sign) in 16-bit pairs: at
// most 32512, as |w| <= 128 and |x| <= 127, so nothing saturates, as u8 times s8 would.
struct Signed {
    __m512i magnitude;
    __mmask64 negative;
};

ALWAYS_INLINE inline Signed load_signed_codes(const std::uint8_t* from) {
    const __m512i w = _mm512_xor_si512(_mm512_loadu_si512(from), _mm512_set1_epi8(-128));
    return {_mm512_abs_epi8(w), _mm512_movepi8_mask(w)};
}

ALWAYS_INLINE inline __m512i dot_signed(const Signed& w, __m512i x) {
    const __m512i turned = _mm512_mask_sub_epi8(x, w.negative, _mm512_setzero_si512(), x);
    return widen(_mm512_maddubs_epi16(w.magnitude, turned));
}

// Steps whose products are summed in 16 bits before they are widened: see matmul_int8_avx2.cpp.
template <int BITS>
constexpr int kSteps16 = BITS == 4   ? 4
                         : BITS == 5 ? 2
                                     : 1;

// M rows times a panel for up to kSteps16 steps of 8 k, or for a step of 4 k of 8 bits.
template <int M, int BITS>
ALWAYS_INLINE inline void add_steps(const std::uint8_t* codes, const std::int8_t* x, int stride,
                                    int steps, __m512i (&dot)[M][2]) {
    if constexpr (BITS == 8) {
        const Signed w[2] = {load_signed_codes(codes), load_signed_codes(codes + 64)};
        for (int m = 0; m < M; ++m) {
            const __m512i a = broadcast4(x + m * stride);
            for (int h = 0; h < 2; ++h)
                dot[m][h] = _mm512_add_epi32(dot[m][h], dot_signed(w[h], a));
        }
        return;
    } else {
        __m512i pairs[M][2];
        for (auto& row : pairs) row[0] = row[1] = _mm512_setzero_si512();
#pragma GCC unroll 4
        for (int j = 0; j < steps; ++j) {
            __m512i low[2], high[2];
            unpack_step<BITS>(codes + step_bytes(BITS) * j, low, high);
            for (int m = 0; m < M; ++m) {
                const std::int8_t* const at = x + m * stride + 8 * j;
                const __m512i a = broadcast4(at), c = broadcast4(at + 4);
                for (int h = 0; h < 2; ++h) {
                    pairs[m][h] = _mm512_add_epi16(
                        pairs[m][h], _mm512_add_epi16(_mm512_maddubs_epi16(low[h], a),
                                                      _mm512_maddubs_epi16(high[h], c)));
                    KEEP(pairs[m][h]);
                }
            }
        }
        for (int m = 0; m < M; ++m)
            for (int h = 0; h < 2; ++h) dot[m][h] = _mm512_add_epi32(dot[m][h], widen(pairs[m][h]));
    }
}

// M rows from the codes as they are stored, unpacked in registers: both gemv and gemm.
template <int M, int BITS, bool OFFSETS>
void tile(const Job& job, std::int64_t panel, std::int64_t row) {
    const std::uint8_t* const base = job.panels + panel * job.panel_bytes;
    __m512 y[M][2];
    for (int m = 0; m < M; ++m) y[m][0] = y[m][1] = _mm512_setzero_ps();
    for (std::int64_t b = 0; b < job.n_blocks; ++b) {
        const Block& block = job.blocks[b];
        const int stride = block.padded;
        const std::int64_t at = b * job.rows + row;
        const std::int8_t* x =
            static_cast<const std::int8_t*>(job.values) + block.k_padded * job.rows + row * stride;
        const std::uint8_t* codes = base + block.codes;
        __m512i dot[M][2];
        for (int m = 0; m < M; ++m) dot[m][0] = dot[m][1] = _mm512_set1_epi32(job.starts[at + m]);
        constexpr int kSteps = kSteps16<BITS>;
        int steps = block.steps;
        for (; steps >= kSteps; steps -= kSteps) {
            add_steps<M, BITS>(codes, x, stride, kSteps, dot);
            codes += kSteps * step_bytes(BITS);
            x += kSteps * step_length(BITS);
        }
        if (steps > 0) add_steps<M, BITS>(codes, x, stride, steps, dot);
        const Header header = load_header<OFFSETS>(job, base, block);
        for (int m = 0; m < M; ++m)
            for (int h = 0; h < 2; ++h) {
                const __m512 scale =
                    _mm512_mul_ps(header.scale[h], _mm512_set1_ps(job.scales[at + m]));
                y[m][h] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot[m][h]), scale, y[m][h]);
                if (OFFSETS)
                    y[m][h] = _mm512_fmadd_ps(header.offset[h], _mm512_set1_ps(job.sums[at + m]),
                                              y[m][h]);
            }
    }
    for (int m = 0; m < M && row + m < job.m; ++m)
        store_panel(job, panel, row + m, y[m][0], y[m][1]);
}

// Rows of a tile, an even number. 128 rows times 8192x2048 on Zen 4, one thread, ms at g128 and
// g32: 4 rows 14.6, 16.7; 6 rows 14.2, 16.5. 8 do not fit the registers.
constexpr int kTallest = 6;

void gemv(const Job& job, std::int64_t panel_begin, std::int64_t panel_end) {
    with_kind(job, [&]<int BITS, bool OFFSETS>() {
        with_rows(job, [&]<int M>() {
            for (std::int64_t p = panel_begin; p < panel_end; ++p)
                tile<M, BITS, OFFSETS>(job, p, 0);
        });
    });
}

void gemm(const Job& job, std::int64_t panel, std::int64_t row_begin, std::int64_t row_end) {
    with_kind(job, [&]<int BITS, bool OFFSETS>() {
        with_height<kTallest>(row_end - row_begin,
                              [&]<int M>() { tile<M, BITS, OFFSETS>(job, panel, row_begin); });
    });
}

}  // namespace

extern const Kernels kernels_int8_avx512;
const Kernels kernels_int8_avx512 = {prepare, gemv, gemm, kTallest, "avx512", "avx512"};

}  // namespace sllmbench
