// int8 arithmetic with AVX2.
//
// Nothing here may have external linkage but the table at the end (see check_linkage.cmake).
#include "cpu/lanes_avx2.h"
#include "cpu/matmul.h"

namespace sllmbench {
namespace {

// gcc 12 moves the 16-bit additions away from their vpmaddubsw and then spills some 60 registers
// (0.32 against 0.49 TOP/s); an empty asm after each addition keeps it in its place.
#define KEEP(acc) asm volatile("" : "+x"(acc))

// ------------------------------------------------------------------------------- preparing x

void prepare(const Job& job, std::int64_t row_begin, std::int64_t row_end) {
    const int zero =  // 8 bits: see signed_codes
        job.layout.bits == 8 ? 0 : code_zero(job.layout.bits, job.layout.offset);
    for (std::int64_t row = row_begin; row < row_end; ++row)
        for (std::int64_t b = 0; b < job.n_blocks; ++b) {
            const Block& block = job.blocks[b];
            alignas(32) float values[kBlockLength];
            const int largest_bits = load_block(job, row, block, values);
            const bool finite = largest_bits < kInfinityBits;
            const float largest = _mm_cvtss_f32(_mm_castsi128_ps(_mm_cvtsi32_si128(largest_bits)));
            const __m256 inverse =
                _mm256_set1_ps(finite && largest > kSmallest ? 127.0f / largest : 0.0f);
            char* const to =
                static_cast<char*>(job.values) + block.k_padded * job.rows + row * block.padded;
            __m256i sum = _mm256_setzero_si256();
            for (int i = 0; i < block.padded; i += 8) {
                const __m256i code =
                    _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_load_ps(values + i), inverse));
                sum = _mm256_add_epi32(sum, code);
                const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(code),
                                                      _mm256_extracti128_si256(code, 1));
                _mm_storel_epi64(reinterpret_cast<__m128i*>(to + i), _mm_packs_epi16(words, words));
            }
            __m128i half =
                _mm_add_epi32(_mm256_castsi256_si128(sum), _mm256_extracti128_si256(sum, 1));
            half = _mm_add_epi32(half, _mm_shuffle_epi32(half, 0x4E));
            half = _mm_add_epi32(half, _mm_shuffle_epi32(half, 0xB1));
            const float scale = finite ? largest / 127.0f : __builtin_nanf("");
            // A NaN's code is INT_MIN, which must not be multiplied below.
            const int total = finite ? _mm_cvtsi128_si32(half) : 0;
            job.scales[b * job.rows + row] = scale;
            job.sums[b * job.rows + row] = scale * static_cast<float>(total);
            job.starts[b * job.rows + row] = -zero * total;
        }
}

// ------------------------------------------------------------------------------ up to 4 rows

ALWAYS_INLINE inline __m256i broadcast4(const std::int8_t* x) {
    int four;
    __builtin_memcpy(&four, x, sizeof four);
    return _mm256_set1_epi32(four);
}

ALWAYS_INLINE inline __m256i widen(__m256i pairs) {
    return _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
}

// |w| * (x with w's sign) in 16-bit pairs: |w| <= 128 and |x| <= 127, so a pair is at most 32512
// and nothing saturates, as u8 times s8 would at once.
ALWAYS_INLINE inline __m256i dot_signed(__m256i w, __m256i w_abs, __m256i x) {
    return widen(_mm256_maddubs_epi16(w_abs, _mm256_sign_epi8(x, w)));
}

// Q quarters of a panel at a time, chosen so that M * Q 16-bit and 32-bit sums stay in registers.
//
// Steps whose products are summed in 16 bits before they are widened. 4 bits: a product pair is at
// most 2 * 15 * 127 = 3810, so the eight of four steps come to 30480; 5 bits: four of 7874; 6 bits:
// two of 16002.
template <int BITS>
constexpr int kSteps16 = BITS == 4   ? 4
                         : BITS == 5 ? 2
                                     : 1;

template <int M, int BITS, int Q>
ALWAYS_INLINE inline void gemv_steps(const std::uint8_t* codes, const std::int8_t* x, int stride,
                                     int steps, int q0, __m256i (&dot)[M][Q]) {
    __m256i pairs[M][Q];
    for (auto& row : pairs)
        for (auto& sum : row) sum = _mm256_setzero_si256();
#pragma GCC unroll 4
    for (int j = 0; j < steps; ++j)
        for (int q = 0; q < Q; ++q) {
            __m256i low, high;
            unpack_step<BITS>(codes + step_bytes(BITS) * j, q0 + q, low, high);
            for (int m = 0; m < M; ++m) {
                const std::int8_t* const at = x + m * stride + 8 * j;
                pairs[m][q] = _mm256_add_epi16(
                    pairs[m][q], _mm256_add_epi16(_mm256_maddubs_epi16(low, broadcast4(at)),
                                                  _mm256_maddubs_epi16(high, broadcast4(at + 4))));
                KEEP(pairs[m][q]);
            }
        }
    for (int m = 0; m < M; ++m)
        for (int q = 0; q < Q; ++q) dot[m][q] = _mm256_add_epi32(dot[m][q], widen(pairs[m][q]));
}

template <int M, int BITS, int Q>
ALWAYS_INLINE inline void gemv_block(const std::uint8_t* codes, const std::int8_t* x, int stride,
                                     int steps, int q0, __m256i (&dot)[M][Q]) {
    if constexpr (BITS != 8) {
        constexpr int kSteps = kSteps16<BITS>, kBytes = kSteps * step_bytes(BITS);
        for (; steps >= kSteps; steps -= kSteps, codes += kBytes, x += 8 * kSteps) {
            gemv_steps<M, BITS, Q>(codes, x, stride, kSteps, q0, dot);
        }
        if (steps > 0) gemv_steps<M, BITS, Q>(codes, x, stride, steps, q0, dot);
        return;
    }
    for (; steps > 0; --steps, codes += kStepBytes, x += 4) {
        for (int q = 0; q < Q; ++q) {
            const __m256i w = signed_codes(codes + 32 * (q0 + q));
            const __m256i w_abs = _mm256_abs_epi8(w);
            for (int m = 0; m < M; ++m)
                dot[m][q] =
                    _mm256_add_epi32(dot[m][q], dot_signed(w, w_abs, broadcast4(x + m * stride)));
        }
    }
}

// A block's float sums: to += scale * scale of x * dot, and the offset's share.
template <bool OFFSETS>
ALWAYS_INLINE inline void fold(__m256i dot, __m256 scale, __m256 offset, float x_scale, float x_sum,
                               float* to) {
    __m256 sum = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot),
                                 _mm256_mul_ps(scale, _mm256_set1_ps(x_scale)), _mm256_load_ps(to));
    if (OFFSETS) sum = _mm256_fmadd_ps(offset, _mm256_set1_ps(x_sum), sum);
    _mm256_store_ps(to, sum);
}

template <int M, int BITS, bool OFFSETS>
void gemv_kernel(const Job& job, std::int64_t panel_begin, std::int64_t panel_end) {
    constexpr int kQ = M == 1 ? 4 : M == 2 ? 2 : 1;
    for (std::int64_t p = panel_begin; p < panel_end; ++p) {
        const std::uint8_t* const base = job.panels + p * job.panel_bytes;
        alignas(32) float y[M][kPanelRows] = {};
        for (std::int64_t b = 0; b < job.n_blocks; ++b) {
            const Block& block = job.blocks[b];
            const std::int32_t* const starts = job.starts + b * M;
            const float* const scales = job.scales + b * M;
            const float* const sums = job.sums + b * M;
            const auto* const x = static_cast<const std::int8_t*>(job.values) + block.k_padded * M;
            for (int q0 = 0; q0 < kQuarters; q0 += kQ) {
                __m256i dot[M][kQ];
                for (int m = 0; m < M; ++m)
                    for (int q = 0; q < kQ; ++q) dot[m][q] = _mm256_set1_epi32(starts[m]);
                gemv_block<M, BITS, kQ>(base + block.codes, x, block.padded, block.steps, q0, dot);
                for (int q = 0; q < kQ; ++q) {
                    const __m256 scale = load_scale(job, base, block, q0 + q);
                    const __m256 offset =
                        OFFSETS ? load_offset(job, base, block, q0 + q, scale) : scale;
                    for (int m = 0; m < M; ++m)
                        fold<OFFSETS>(dot[m][q], scale, offset, scales[m], sums[m],
                                      y[m] + 8 * (q0 + q));
                }
            }
        }
        for (int m = 0; m < M; ++m) store_panel(job, p, m, y[m]);
    }
}

// --------------------------------------------------------------------------------- more rows

// A block is unpacked once for all rows. Unpacking in registers, six rows at a time, as the VNNI
// kernel does, was slower (q4_0 0.92, q4_k 0.82, q6_k 0.65 of this): vpmaddubsw and the additions
// beside it leave no pipe free. 16 and 32 rows a block: 0.89 and 0.95.
struct Scratch {
    alignas(32) std::uint8_t codes[kBlockLength / 4 * kStepBytes];  // 4 KB, steps of 4 k
    alignas(32) float scale[kPanelRows];
    alignas(32) float offset[kPanelRows];
    alignas(32) float y[kTileRows][kPanelRows];
};

// 4, 5 or 6 bits into steps of 4 k, a byte each; 8 bits into the same, signed.
template <int BITS>
void unpack(const std::uint8_t* from, int steps, std::uint8_t* to) {
    for (int j = 0; j < steps; ++j, from += step_bytes(BITS))
        for (int q = 0; q < kQuarters; ++q) {
            auto* const at = reinterpret_cast<__m256i*>(to + 32 * q);
            if constexpr (BITS == 8) {
                _mm256_store_si256(at + 4 * j, signed_codes(from + 32 * q));
            } else {
                __m256i low, high;
                unpack_step<BITS>(from, q, low, high);
                _mm256_store_si256(at + 8 * j, low);
                _mm256_store_si256(at + 8 * j + 4, high);
            }
        }
}

// M rows times 16 columns for up to 2 * kSteps16 steps of 4 k.
template <int M, int BITS>
ALWAYS_INLINE inline void tile_steps(const std::uint8_t* codes, const std::int8_t* x, int stride,
                                     int steps, __m256i (&dot)[M][2]) {
    if (BITS == 8) {
        for (int j = 0; j < steps; ++j) {
            const __m256i w0 = load_codes(codes + kStepBytes * j);
            const __m256i w1 = load_codes(codes + kStepBytes * j + 32);
            const __m256i a0 = _mm256_abs_epi8(w0), a1 = _mm256_abs_epi8(w1);
            for (int m = 0; m < M; ++m) {
                const __m256i four = broadcast4(x + m * stride + 4 * j);
                dot[m][0] = _mm256_add_epi32(dot[m][0], dot_signed(w0, a0, four));
                dot[m][1] = _mm256_add_epi32(dot[m][1], dot_signed(w1, a1, four));
            }
        }
        return;
    }
    __m256i pairs[M][2];
    for (auto& row : pairs) row[0] = row[1] = _mm256_setzero_si256();
#pragma GCC unroll 8
    for (int j = 0; j < steps; ++j) {
        const __m256i w0 = load_codes(codes + kStepBytes * j);
        const __m256i w1 = load_codes(codes + kStepBytes * j + 32);
        for (int m = 0; m < M; ++m) {
            const __m256i four = broadcast4(x + m * stride + 4 * j);
            pairs[m][0] = _mm256_add_epi16(pairs[m][0], _mm256_maddubs_epi16(w0, four));
            KEEP(pairs[m][0]);
            pairs[m][1] = _mm256_add_epi16(pairs[m][1], _mm256_maddubs_epi16(w1, four));
            KEEP(pairs[m][1]);
        }
    }
    for (int m = 0; m < M; ++m)
        for (int h = 0; h < 2; ++h) dot[m][h] = _mm256_add_epi32(dot[m][h], widen(pairs[m][h]));
}

template <int M, int BITS, bool OFFSETS>
void tile(const Job& job, Scratch& scratch, std::int64_t b, std::int64_t row, int m0) {
    const Block& block = job.blocks[b];
    const int stride = block.padded;
    const std::int64_t first_row = b * job.rows + row;
    const std::int32_t* const starts = job.starts + first_row;
    const float* const scales = job.scales + first_row;
    const float* const sums = job.sums + first_row;
    for (int half = 0; half < kPanelRows; half += 16) {
        const std::int8_t* x =
            static_cast<const std::int8_t*>(job.values) + block.k_padded * job.rows + row * stride;
        const std::uint8_t* codes = scratch.codes + 4 * half;
        __m256i dot[M][2];
        for (int m = 0; m < M; ++m) dot[m][0] = dot[m][1] = _mm256_set1_epi32(starts[m]);
        constexpr int kSteps = BITS == 8 ? 8 : 2 * kSteps16<BITS>;
        int steps = BITS == 8 ? block.steps : 2 * block.steps;
        for (; steps >= kSteps; steps -= kSteps, codes += kSteps * kStepBytes, x += 4 * kSteps)
            tile_steps<M, BITS>(codes, x, stride, kSteps, dot);
        if (steps > 0) tile_steps<M, BITS>(codes, x, stride, steps, dot);
        for (int m = 0; m < M; ++m)
            for (int h = 0; h < 2; ++h) {
                fold<OFFSETS>(dot[m][h], _mm256_load_ps(scratch.scale + half + 8 * h),
                              _mm256_load_ps(scratch.offset + half + 8 * h), scales[m], sums[m],
                              scratch.y[m0 + m] + half + 8 * h);
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
        unpack<BITS>(base + block.codes, block.steps, scratch.codes);
        for (int q = 0; q < kQuarters; ++q) {
            const __m256 scale = load_scale(job, base, block, q);
            _mm256_store_ps(scratch.scale + 8 * q, scale);
            if (OFFSETS)
                _mm256_store_ps(scratch.offset + 8 * q, load_offset(job, base, block, q, scale));
        }
        int m = 0;
        // 4 rows times 16 columns: eight sums. 2 by 16 was slower.
        for (; m + 4 <= rows; m += 4) tile<4, BITS, OFFSETS>(job, scratch, b, row_begin + m, m);
        for (; m < rows; m += 2) tile<2, BITS, OFFSETS>(job, scratch, b, row_begin + m, m);
    }
    for (int m = 0; m < rows && row_begin + m < job.m; ++m)
        store_panel(job, panel, row_begin + m, scratch.y[m]);
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

extern const Kernels kernels_int8_avx2;
const Kernels kernels_int8_avx2 = {prepare, gemv, gemm, kTileRows, "avx2", "avx2"};

}  // namespace sllmbench
