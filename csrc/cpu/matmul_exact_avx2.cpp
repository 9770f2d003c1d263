// Exact arithmetic, float32 throughout, with AVX2 and FMA.
//
// Nothing here may have external linkage but the table at the end (see check_linkage.cmake).
#include "cpu/lanes_avx2.h"
#include "cpu/matmul.h"

namespace sllmbench {
namespace {

// ------------------------------------------------------------------------------- preparing x

void prepare(const Job& job, std::int64_t row_begin, std::int64_t row_end) {
    for (std::int64_t row = row_begin; row < row_end; ++row)
        for (std::int64_t b = 0; b < job.n_blocks; ++b) {
            const Block& block = job.blocks[b];
            float* const to =
                static_cast<float*>(job.values) + block.k_padded * job.rows + row * block.padded;
            if (load_block(job, row, block, to) >= kInfinityBits) to[0] = __builtin_nanf("");
            __m256 sum = _mm256_setzero_ps();
            for (int i = 0; i < block.padded; i += 8)
                sum = _mm256_add_ps(sum, _mm256_loadu_ps(to + i));
            __m128 half = _mm_add_ps(_mm256_castps256_ps128(sum), _mm256_extractf128_ps(sum, 1));
            half = _mm_add_ps(half, _mm_movehl_ps(half, half));
            half = _mm_add_ss(half, _mm_movehdup_ps(half));
            job.sums[b * job.rows + row] = _mm_cvtss_f32(half);
        }
}

// ------------------------------------------------------------------------------ up to 4 rows

// One step of float weights in units of the scale: use(place in the step, 8 weights of a quarter).
// Lane of 4 bits, low nibble first: k 0 4 1 5 2 6 3 7. A zero of 8 is taken off by flipping each
// nibble's top bit and shifting it down signed.
template <int BITS, bool OFFSETS, class Use>
ALWAYS_INLINE inline void each_weight(const std::uint8_t* codes, int quarter, Use use) {
    if (BITS == 5 || BITS == 6) {
        __m256i parts[2];
        unpack_step<BITS>(codes, quarter, parts[0], parts[1]);
        const __m256i zero = _mm256_set1_epi32(OFFSETS ? 0 : 1 << (BITS - 1));
#pragma GCC unroll 8
        for (int t = 0; t < 8; ++t) {
            const __m256i code = _mm256_and_si256(_mm256_srli_epi32(parts[t / 4], 8 * (t % 4)),
                                                  _mm256_set1_epi32(0xFF));
            use(t, _mm256_cvtepi32_ps(_mm256_sub_epi32(code, zero)));
        }
        return;
    }
    codes += 32 * quarter;
    if (BITS == 8) {
        const __m256i v = signed_codes(codes);
#pragma GCC unroll 4
        for (int t = 0; t < 4; ++t)
            use(t, _mm256_cvtepi32_ps(_mm256_srai_epi32(_mm256_slli_epi32(v, 24 - 8 * t), 24)));
        return;
    }
    __m256i v = load_codes(codes);
    if (!OFFSETS) v = _mm256_xor_si256(v, _mm256_set1_epi8(-120));
#pragma GCC unroll 8
    for (int t = 0; t < 8; ++t) {
        const __m256i code =
            OFFSETS ? _mm256_and_si256(_mm256_srli_epi32(v, 4 * t), _mm256_set1_epi32(15))
                    : _mm256_srai_epi32(_mm256_slli_epi32(v, 28 - 4 * t), 28);
        use(t / 2 + t % 2 * 4, _mm256_cvtepi32_ps(code));
    }
}

template <int M, int BITS, bool OFFSETS>
void gemv_kernel(const Job& job, std::int64_t panel_begin, std::int64_t panel_end) {
    constexpr int kStep = step_length(BITS), kBytes = step_bytes(BITS);
    // Quarters of a panel at a time, and sums for each: 8 chains hide an FMA's latency of 4 cycles.
    // 4 chains: 25% slower with two rows, as fast with one, where the two shifts bound it.
    constexpr int kQ = M == 1 ? 4 : 2;
    constexpr int kChains = M <= 2 ? 2 : 1;
    for (std::int64_t p = panel_begin; p < panel_end; ++p) {
        const std::uint8_t* const base = job.panels + p * job.panel_bytes;
        alignas(32) float y[M][kPanelRows] = {};
        for (std::int64_t b = 0; b < job.n_blocks; ++b) {
            const Block& block = job.blocks[b];
            const int stride = block.padded;
            const float* const sums = job.sums + b * M;
            for (int q0 = 0; q0 < kQuarters; q0 += kQ) {
                const float* x = static_cast<const float*>(job.values) + block.k_padded * M;
                const std::uint8_t* codes = base + block.codes;
                __m256 dot[M][kQ][kChains];
                for (auto& row : dot)
                    for (auto& quarter : row)
                        for (auto& chain : quarter) chain = _mm256_setzero_ps();
                for (int j = 0; j < block.steps; ++j, codes += kBytes, x += kStep)
                    for (int q = 0; q < kQ; ++q)
                        each_weight<BITS, OFFSETS>(
                            codes, q0 + q, [&](int k, __m256 w) ALWAYS_INLINE {
                                for (int m = 0; m < M; ++m) {
                                    __m256& sum = dot[m][q][k % kChains];
                                    sum =
                                        _mm256_fmadd_ps(w, _mm256_set1_ps(x[m * stride + k]), sum);
                                }
                            });
                for (int q = 0; q < kQ; ++q) {
                    const __m256 scale = load_scale(job, base, block, q0 + q);
                    for (int m = 0; m < M; ++m) {
                        float* const to = y[m] + 8 * (q0 + q);
                        __m256 total = dot[m][q][0];
                        if (kChains == 2) total = _mm256_add_ps(total, dot[m][q][kChains - 1]);
                        __m256 sum = _mm256_fmadd_ps(total, scale, _mm256_load_ps(to));
                        if (OFFSETS)
                            sum = _mm256_fmadd_ps(load_offset(job, base, block, q0 + q, scale),
                                                  _mm256_set1_ps(sums[m]), sum);
                        _mm256_store_ps(to, sum);
                    }
                }
            }
        }
        for (int m = 0; m < M; ++m) store_panel(job, p, m, y[m]);
    }
}

// --------------------------------------------------------------------------------- more rows

struct Scratch {
    alignas(32) float w[kBlockLength][kPanelRows];  // 16 KB, scale and offset applied
    alignas(32) float y[kTileRows][kPanelRows];
};

template <int BITS, bool OFFSETS>
void expand(const Job& job, const std::uint8_t* base, const Block& block, float (*to)[kPanelRows]) {
    constexpr int kStep = step_length(BITS), kBytes = step_bytes(BITS);
    for (int q = 0; q < kQuarters; ++q) {
        const __m256 scale = load_scale(job, base, block, q);
        const __m256 offset = OFFSETS ? load_offset(job, base, block, q, scale) : scale;
        for (int j = 0; j < block.steps; ++j)
            each_weight<BITS, OFFSETS>(
                base + block.codes + j * kBytes, q, [&](int k, __m256 w) ALWAYS_INLINE {
                    w = OFFSETS ? _mm256_fmadd_ps(w, scale, offset) : _mm256_mul_ps(w, scale);
                    _mm256_store_ps(to[j * kStep + k] + 8 * q, w);
                });
    }
}

template <int M>
void tile(const float (*w)[kPanelRows], const float* x, std::int64_t stride, int length,
          float (*y)[kPanelRows]) {
    for (int half = 0; half < kPanelRows; half += 16) {
        __m256 sum[M][2];
        for (int m = 0; m < M; ++m)
            for (int h = 0; h < 2; ++h) sum[m][h] = _mm256_load_ps(y[m] + half + 8 * h);
        for (int k = 0; k < length; ++k) {
            const __m256 low = _mm256_load_ps(w[k] + half);
            const __m256 high = _mm256_load_ps(w[k] + half + 8);
            for (int m = 0; m < M; ++m) {
                const __m256 a = _mm256_set1_ps(x[m * stride + k]);
                sum[m][0] = _mm256_fmadd_ps(low, a, sum[m][0]);
                sum[m][1] = _mm256_fmadd_ps(high, a, sum[m][1]);
            }
        }
        for (int m = 0; m < M; ++m)
            for (int h = 0; h < 2; ++h) _mm256_store_ps(y[m] + half + 8 * h, sum[m][h]);
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
        expand<BITS, OFFSETS>(job, base, block, scratch.w);
        const std::int64_t stride = block.padded;
        const float* const x =
            static_cast<const float*>(job.values) + block.k_padded * job.rows + row_begin * stride;
        int m = 0;
        for (; m + 6 <= rows; m += 6)
            tile<6>(scratch.w, x + m * stride, stride, block.length, scratch.y + m);
        for (; m < rows; m += 2)
            tile<2>(scratch.w, x + m * stride, stride, block.length, scratch.y + m);
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

extern const Kernels kernels_exact_avx2;
const Kernels kernels_exact_avx2 = {prepare, gemv, gemm, kTileRows, "avx2", "avx2"};

}  // namespace sllmbench
