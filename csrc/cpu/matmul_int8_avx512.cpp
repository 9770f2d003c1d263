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

// Steps of 8 k whose products are summed in 16 bits before they are widened: see
// matmul_int8_avx2.cpp.
template <int BITS>
constexpr int kSteps16 = BITS == 4   ? 4
                         : BITS == 5 ? 2
                                     : 1;

// ------------------------------------------------------------------------------ up to 4 rows

template <int M, int BITS>
ALWAYS_INLINE inline void gemv_steps(const std::uint8_t* codes, const std::int8_t* x, int stride,
                                     int steps, __m512i (&dot)[M][2]) {
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
                pairs[m][h] = _mm512_add_epi16(pairs[m][h],
                                               _mm512_add_epi16(_mm512_maddubs_epi16(low[h], a),
                                                                _mm512_maddubs_epi16(high[h], c)));
                KEEP(pairs[m][h]);
            }
        }
    }
    for (int m = 0; m < M; ++m)
        for (int h = 0; h < 2; ++h) dot[m][h] = _mm512_add_epi32(dot[m][h], widen(pairs[m][h]));
}

template <int M, int BITS>
ALWAYS_INLINE inline void gemv_block(const std::uint8_t* codes, const std::int8_t* x, int stride,
                                     int steps, __m512i (&dot)[M][2]) {
    const auto prefetch = [&](int bytes) ALWAYS_INLINE {
        for (int i = 0; i < bytes; i += 64)
            _mm_prefetch(reinterpret_cast<const char*>(codes + kPrefetchBytes + i), _MM_HINT_T0);
    };
    if constexpr (BITS != 8) {
        constexpr int kSteps = kSteps16<BITS>, kBytes = kSteps * step_bytes(BITS);
        for (; steps >= kSteps; steps -= kSteps, codes += kBytes, x += 8 * kSteps) {
            prefetch(kBytes);
            gemv_steps<M, BITS>(codes, x, stride, kSteps, dot);
        }
        if (steps > 0) gemv_steps<M, BITS>(codes, x, stride, steps, dot);
        return;
    }
    for (; steps > 0; --steps, codes += kStepBytes, x += 4) {
        prefetch(kStepBytes);
        for (int h = 0; h < 2; ++h) {
            const Signed w = load_signed_codes(codes + 64 * h);
            for (int m = 0; m < M; ++m)
                dot[m][h] = _mm512_add_epi32(dot[m][h], dot_signed(w, broadcast4(x + m * stride)));
        }
    }
}

template <int M, int BITS, bool OFFSETS>
void gemv_kernel(const Job& job, std::int64_t panel_begin, std::int64_t panel_end) {
    for (std::int64_t p = panel_begin; p < panel_end; ++p) {
        const std::uint8_t* const base = job.panels + p * job.panel_bytes;
        __m512 y[M][2];
        for (int m = 0; m < M; ++m) y[m][0] = y[m][1] = _mm512_setzero_ps();
        for (std::int64_t b = 0; b < job.n_blocks; ++b) {
            const Block& block = job.blocks[b];
            __m512i dot[M][2];
            for (int m = 0; m < M; ++m)
                dot[m][0] = dot[m][1] = _mm512_set1_epi32(job.starts[b * M + m]);
            gemv_block<M, BITS>(base + block.codes,
                                static_cast<const std::int8_t*>(job.values) + block.k_padded * M,
                                block.padded, block.steps, dot);
            const Header header = load_header<OFFSETS>(job, base, block);
            for (int m = 0; m < M; ++m) {
                const __m512 scale = _mm512_set1_ps(job.scales[b * M + m]);
                for (int h = 0; h < 2; ++h) {
                    y[m][h] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot[m][h]),
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

// Rows of a tile: two registers of pairs and two of sums each.
constexpr int kHeight = 4;

struct Scratch {
    alignas(64) std::uint8_t unpacked[kBlockLength / 4 * kStepBytes];  // 4 KB, steps of 4 k
    const std::uint8_t* codes;  // there, or 8 bits as they lie in the panel
    alignas(64) float y[kTileRows][kPanelRows];
};

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

// M rows times 32 columns for up to 2 * kSteps16 steps of 4 k.
template <int M, int BITS>
ALWAYS_INLINE inline void tile_steps(const std::uint8_t* codes, const std::int8_t* x, int stride,
                                     int steps, __m512i (&dot)[M][2]) {
    if (BITS == 8) {
        for (int j = 0; j < steps; ++j, codes += kStepBytes) {
            const Signed w[2] = {load_signed_codes(codes), load_signed_codes(codes + 64)};
            for (int m = 0; m < M; ++m) {
                const __m512i four = broadcast4(x + m * stride + 4 * j);
                for (int h = 0; h < 2; ++h)
                    dot[m][h] = _mm512_add_epi32(dot[m][h], dot_signed(w[h], four));
            }
        }
        return;
    }
    __m512i pairs[M][2];
    for (auto& row : pairs) row[0] = row[1] = _mm512_setzero_si512();
#pragma GCC unroll 8
    for (int j = 0; j < steps; ++j) {
        __m512i w[2];
        load_codes(codes + kStepBytes * j, w);
        for (int m = 0; m < M; ++m) {
            const __m512i four = broadcast4(x + m * stride + 4 * j);
            for (int h = 0; h < 2; ++h) {
                pairs[m][h] = _mm512_add_epi16(pairs[m][h], _mm512_maddubs_epi16(w[h], four));
                KEEP(pairs[m][h]);
            }
        }
    }
    for (int m = 0; m < M; ++m)
        for (int h = 0; h < 2; ++h) dot[m][h] = _mm512_add_epi32(dot[m][h], widen(pairs[m][h]));
}

template <int M, int BITS, bool OFFSETS>
void tile(const Job& job, Scratch& scratch, const Header& header, std::int64_t b, std::int64_t row,
          int m0) {
    const Block& block = job.blocks[b];
    const int stride = block.padded;
    const std::int64_t at = b * job.rows + row;
    const std::int8_t* x =
        static_cast<const std::int8_t*>(job.values) + block.k_padded * job.rows + row * stride;
    const std::uint8_t* codes = scratch.codes;
    __m512i dot[M][2];
    for (int m = 0; m < M; ++m) dot[m][0] = dot[m][1] = _mm512_set1_epi32(job.starts[at + m]);
    constexpr int kSteps = BITS == 8 ? 8 : 2 * kSteps16<BITS>;
    int steps = BITS == 8 ? block.steps : 2 * block.steps;
    for (; steps >= kSteps; steps -= kSteps, codes += kSteps * kStepBytes, x += 4 * kSteps)
        tile_steps<M, BITS>(codes, x, stride, kSteps, dot);
    if (steps > 0) tile_steps<M, BITS>(codes, x, stride, steps, dot);
    for (int m = 0; m < M; ++m) {
        const __m512 scale = _mm512_set1_ps(job.scales[at + m]);
        for (int h = 0; h < 2; ++h) {
            float* const to = scratch.y[m0 + m] + 16 * h;
            __m512 sum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot[m][h]),
                                         _mm512_mul_ps(header.scale[h], scale), _mm512_load_ps(to));
            if (OFFSETS)
                sum = _mm512_fmadd_ps(header.offset[h], _mm512_set1_ps(job.sums[at + m]), sum);
            _mm512_store_ps(to, sum);
        }
    }
}

template <int BITS, bool OFFSETS>
void gemm_kernel(const Job& job, std::int64_t panel, std::int64_t row_begin, std::int64_t row_end) {
    Scratch scratch;
    const std::uint8_t* const base = job.panels + panel * job.panel_bytes;
    const auto rows = static_cast<int>(row_end - row_begin);
    __builtin_memset(scratch.y, 0, sizeof scratch.y[0] * static_cast<std::size_t>(rows));
    for (std::int64_t b = 0; b < job.n_blocks; ++b) {
        const Block& block = job.blocks[b];
        scratch.codes = BITS == 8 ? base + block.codes : scratch.unpacked;
        if constexpr (BITS != 8) unpack<BITS>(base + block.codes, block.steps, scratch.unpacked);
        const Header header = load_header<OFFSETS>(job, base, block);
        int m = 0;
        for (; m + kHeight <= rows; m += kHeight)
            tile<kHeight, BITS, OFFSETS>(job, scratch, header, b, row_begin + m, m);
        for (; m < rows; m += 2) tile<2, BITS, OFFSETS>(job, scratch, header, b, row_begin + m, m);
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

extern const Kernels kernels_int8_avx512;
const Kernels kernels_int8_avx512 = {prepare, gemv, gemm};

}  // namespace sllmbench
