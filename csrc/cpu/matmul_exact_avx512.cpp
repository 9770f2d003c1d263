// Exact arithmetic, float32 throughout, with AVX-512.
//
// Nothing here may have external linkage but the table at the end (see check_linkage.cmake).
#include "cpu/lanes_avx512.h"
#include "cpu/matmul.h"

namespace sllmbench {
namespace {

// ------------------------------------------------------------------------------- preparing x

void prepare(const Job& job, std::int64_t row_begin, std::int64_t row_end) {
    for (std::int64_t row = row_begin; row < row_end; ++row)
        for (std::int64_t b = 0; b < job.n_blocks; ++b) {
            const Block& block = job.blocks[b];
            __m512 values[kVectors];
            const bool finite = load_block(job, row, block, values) < kInfinityBits;
            float* const to =
                static_cast<float*>(job.values) + block.k_padded * job.rows + row * block.padded;
            __m512 sum = _mm512_setzero_ps();
            for (int i = 0; 16 * i < block.padded; ++i) {
                sum = _mm512_add_ps(sum, values[i]);
                _mm512_mask_storeu_ps(to + 16 * i, first(block.padded - 16 * i), values[i]);
            }
            if (!finite) to[0] = __builtin_nanf("");
            job.sums[b * job.rows + row] = _mm512_reduce_add_ps(sum);
        }
}

// ------------------------------------------------------------------------------ up to 4 rows

// One step of float weights in units of the scale, k by k: use(place in the step, half, 16
// weights). 4 bits: vpermps looks up code - zero and takes only the low four bits of each index, so
// a shift brings each nibble of the lane into place: shift, permute, FMA for 16 weights. Lane, low
// nibble first: k 0 4 1 5 2 6 3 7.
template <int BITS, class Use>
ALWAYS_INLINE inline void each_weight(const std::uint8_t* codes, __m512 table, Use use) {
    if (BITS == 5 || BITS == 6) {
        // Too many values for a table in one register: the bytes are widened and table[0] added.
        __m512i parts[2][2];
        unpack_step<BITS>(codes, parts[0], parts[1]);
        const __m512 minus_zero = _mm512_broadcastss_ps(_mm512_castps512_ps128(table));
#pragma GCC unroll 8
        for (int t = 0; t < 8; ++t)
            for (int h = 0; h < 2; ++h) {
                const __m512i shifted =
                    _mm512_srli_epi32(parts[t / 4][h], static_cast<unsigned>(8 * (t % 4)));
                const __m512i code = _mm512_and_si512(shifted, _mm512_set1_epi32(0xFF));
                use(t, h, _mm512_add_ps(_mm512_cvtepi32_ps(code), minus_zero));
            }
        return;
    }
    __m512i v[2];
    load_codes(codes, v);
    for (int h = 0; h < 2; ++h) {
        if (BITS == 4) {
#pragma GCC unroll 8
            for (int t = 0; t < 8; ++t)
                use(t / 2 + t % 2 * 4, h,
                    _mm512_permutexvar_ps(_mm512_srli_epi32(v[h], static_cast<unsigned>(4 * t)),
                                          table));
        } else {
            const __m512i code = _mm512_xor_si512(v[h], _mm512_set1_epi8(-128));
#pragma GCC unroll 4
            for (int t = 0; t < 4; ++t)
                use(t, h,
                    _mm512_cvtepi32_ps(_mm512_srai_epi32(
                        _mm512_slli_epi32(code, static_cast<unsigned>(24 - 8 * t)), 24)));
        }
    }
}

// How far the gemv prefetches ahead, into the next panel too. One row times 8192x2048 int4-g32 from
// memory, one thread of a Zen 5, 10th percentiles in us: 0 KB 346, 2 KB 346, 8 KB 287.
constexpr int kPrefetchBytes = 8192;

__m512 code_table(const Job& job) {
    const __m512 codes = _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    return _mm512_sub_ps(
        codes, _mm512_set1_ps(static_cast<float>(code_zero(job.layout.bits, job.layout.offset))));
}

template <int M, int BITS, bool OFFSETS>
void gemv_kernel(const Job& job, std::int64_t panel_begin, std::int64_t panel_end) {
    constexpr int kStep = step_length(BITS), kBytes = step_bytes(BITS);
    constexpr int kChains = M == 1   ? 4
                            : M == 2 ? 2
                                     : 1;  // an FMA takes 4 cycles, two start in each
    const __m512 table = code_table(job);
    for (std::int64_t p = panel_begin; p < panel_end; ++p) {
        const std::uint8_t* const base = job.panels + p * job.panel_bytes;
        __m512 y[M][2];
        for (int m = 0; m < M; ++m) y[m][0] = y[m][1] = _mm512_setzero_ps();
        for (std::int64_t b = 0; b < job.n_blocks; ++b) {
            const Block& block = job.blocks[b];
            const float* x = static_cast<const float*>(job.values) + block.k_padded * M;
            const std::uint8_t* codes = base + block.codes;
            const int stride = block.padded;
            __m512 dot[M][2][kChains];
            for (auto& row : dot)
                for (auto& half : row)
                    for (auto& chain : half) chain = _mm512_setzero_ps();
            for (int j = 0; j < block.steps; ++j, codes += kBytes, x += kStep) {
                for (int i = 0; i < kBytes; i += 64)
                    _mm_prefetch(reinterpret_cast<const char*>(codes + kPrefetchBytes + i),
                                 _MM_HINT_T0);
                each_weight<BITS>(codes, table, [&](int k, int h, __m512 w) ALWAYS_INLINE {
                    for (int m = 0; m < M; ++m)
                        dot[m][h][k % kChains] = _mm512_fmadd_ps(
                            w, _mm512_set1_ps(x[m * stride + k]), dot[m][h][k % kChains]);
                });
            }
            const Header header = load_header<OFFSETS>(job, base, block);
            const float* const sums = job.sums + b * M;
            for (int m = 0; m < M; ++m)
                for (int h = 0; h < 2; ++h) {
                    __m512 total = dot[m][h][0];
                    for (int c = 1; c < kChains; ++c) total = _mm512_add_ps(total, dot[m][h][c]);
                    y[m][h] = _mm512_fmadd_ps(total, header.scale[h], y[m][h]);
                    if (OFFSETS)
                        y[m][h] =
                            _mm512_fmadd_ps(header.offset[h], _mm512_set1_ps(sums[m]), y[m][h]);
                }
        }
        for (int m = 0; m < M; ++m) store_panel(job, p, m, y[m][0], y[m][1]);
    }
}

// --------------------------------------------------------------------------------- more rows

constexpr int kChunk = 128;

struct Scratch {
    alignas(64) float w[kChunk][kPanelRows];  // 16 KB, scale and offset applied
    alignas(64) float y[kTileRows][kPanelRows];
};

template <int BITS, bool OFFSETS>
void expand(const Job& job, const std::uint8_t* base, const Block& block, float (*to)[kPanelRows]) {
    constexpr int kStep = step_length(BITS), kBytes = step_bytes(BITS);
    const __m512 table = code_table(job);
    const Header header = load_header<OFFSETS>(job, base, block);
    for (int j = 0; j < block.steps; ++j)
        each_weight<BITS>(base + block.codes + j * kBytes, table,
                          [&](int k, int h, __m512 w) ALWAYS_INLINE {
                              w = OFFSETS ? _mm512_fmadd_ps(w, header.scale[h], header.offset[h])
                                          : _mm512_mul_ps(w, header.scale[h]);
                              _mm512_store_ps(to[j * kStep + k] + 16 * h, w);
                          });
}

template <int M>
void tile(const Job& job, const float (*w)[kPanelRows], std::int64_t block_begin,
          std::int64_t block_end, std::int64_t row, float (*sums_y)[kPanelRows]) {
    __m512 y[M][2];
    for (int m = 0; m < M; ++m)
        for (int h = 0; h < 2; ++h) y[m][h] = _mm512_load_ps(sums_y[m] + 16 * h);
    for (std::int64_t b = block_begin; b < block_end; ++b) {
        const Block& block = job.blocks[b];
        const std::int64_t stride = block.padded;
        const float* x =
            static_cast<const float*>(job.values) + block.k_padded * job.rows + row * stride;
        for (int k = 0; k < block.length; ++k, ++x) {
            const __m512 low = _mm512_load_ps(w[k]), high = _mm512_load_ps(w[k] + 16);
            for (int m = 0; m < M; ++m) {
                const __m512 a = _mm512_set1_ps(x[m * stride]);
                y[m][0] = _mm512_fmadd_ps(low, a, y[m][0]);
                y[m][1] = _mm512_fmadd_ps(high, a, y[m][1]);
            }
        }
        w += block.padded;
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
            expand<BITS, OFFSETS>(job, base, job.blocks[b], scratch.w + k);
            k += job.blocks[b].padded;
        }
        int m = 0;
        const auto tiles = [&](auto tile, int height) {
            for (; m + height <= rows; m += height)
                tile(job, scratch.w, block_begin, b, row_begin + m, scratch.y + m);
        };
        tiles(tile<12>, 12);
        tiles(tile<6>, 6);
        tiles(tile<2>, 2);
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

extern const Kernels kernels_exact_avx512;
const Kernels kernels_exact_avx512 = {prepare, gemv, gemm, kTileRows, "avx512", "avx512"};

}  // namespace sllmbench
