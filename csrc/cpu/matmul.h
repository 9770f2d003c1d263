// out [m, n] = x [m, k] times a packed [n, k] weight's transpose.
#pragma once

#include <cstdint>

#include "formats.h"

namespace sllmbench {

enum class Arithmetic : std::uint8_t { exact, int8 };

// One call's work on up to kChunkRows rows of x, as the kernels see it. Plain pointers only: the
// per-ISA files must not instantiate anything from std:: (see check_linkage.cmake).
struct Job {
    // The weight.
    const std::uint8_t* panels;
    const Block* blocks;
    std::int64_t n_blocks;
    std::int64_t panel_bytes;
    std::int64_t n;
    std::int64_t k;
    Layout layout;
    // The activations, in the order of the weight's columns. May be misaligned: read through loadu
    // or memcpy only.
    const float* x;  // [m, k]
    std::int64_t m;
    // The activations prepared: blocks that match the weight's, padded with zeros.
    //   values: int8 or float; block b at k_padded * rows, inside it [rows, padded]
    //   sums:   of a block's values; in int8 mode of the quantised values, times their scale
    //   scales: int8 mode only, the activations' scale
    //   starts: int8 mode only, -code_zero * sum of the quantised values: what the int32 sums start
    //           from, so that a constant zero costs nothing
    std::int64_t rows;  // m, or for the gemm m rounded up to kRowStep; the rows past m are zeros
    void* values;
    float* sums;           // [n_blocks, rows]
    float* scales;         // [n_blocks, rows]
    std::int32_t* starts;  // [n_blocks, rows]
    // The result. May be misaligned.
    float* out;  // [m, n]
};

inline constexpr std::int64_t kGemvRows = 4;    // m up to this: the gemv
inline constexpr std::int64_t kRowStep = 2;     // the gemms' smallest tile
inline constexpr std::int64_t kTileRows = 128;  // rows that a gemm keeps sums for, 16 KB, in L1
// Rows prepared at once: bounds the workspace to 512 k floats however long the prompt is.
inline constexpr std::int64_t kChunkRows = 512;

// What each instruction set supplies for each arithmetic, under the same names in
// matmul_ARITHMETIC_NAME.cpp. A row of x with a NaN or an infinity in it must come out as NaN,
// whole: prepare poisons its scale or its first value.
struct Kernels {
    void (*prepare)(const Job&, std::int64_t row_begin, std::int64_t row_end);
    // Whole panels, for job.rows <= kGemvRows: straight from the codes, but generic, which unpacks
    // a block as its gemm does.
    void (*gemv)(const Job&, std::int64_t panel_begin, std::int64_t panel_end);
    // One panel times rows row_begin .. row_end-1 (at most tile_rows, a multiple of kRowStep).
    void (*gemm)(const Job&, std::int64_t panel, std::int64_t row_begin, std::int64_t row_end);
    // Rows that share what gemm unpacks of a panel; at most kTileRows.
    std::int64_t tile_rows;
    // Whose they are: an instruction set may lend its kernels to another.
    const char* gemv_isa;
    const char* gemm_isa;
};

// What ran.
struct Ran {
    const char* kernel;  // "fused-gemv" or "fused-gemm"; "none" for empty results
    const char* isa;
};

class PackedWeights;
struct Isa;
// Fused: at most 128 k of a panel's weights a thread are ever unpacked, in its cache.
Ran matmul(const float* x, std::int64_t m, const PackedWeights& weights, float* out,
           Arithmetic arithmetic, const Isa& isa, int threads);

}  // namespace sllmbench
