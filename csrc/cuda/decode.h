// What the three decode families share outside their kernels: what they refuse, and how they share
// the work among blocks.
#pragma once

#include "cuda/matmul.h"

namespace sllmbench::cuda {

inline constexpr int kDecodeWarps = 8;   // of a block; each takes every eighth span
inline constexpr int kDecodeSpan = 128;  // k that a warp multiplies in one go
inline constexpr int kDecodeRows = 8;    // of x, at most

// A kernel's parameters.
struct DecodeOperands {
    const uint4* tiles;
    const __half* scales;
    const std::uint8_t* zeros;  // null: symmetric
    const void* x;              // fp16 or int8 [m, whole tiles], rows 16-byte aligned
    const float* row_scales;    // of int8 x, else null
    __half* y;
    float* partials;  // [splits][m][n], to be summed into y; null where there is one split
    std::int64_t stride_x, n;
    int m, k, tiles_along_k, groups;
    int split_spans;  // of a split; the rest of k counts as one
    int scale_step;   // from one group's scales to the next: 16, or 0 where a row has one scale
};
using DecodeEntry = void (*)(DecodeOperands);

// The group that a kernel is compiled for; a row with one scale counts as groups of 128 that have
// the same.
inline int decode_group(const Weight& weight) {
    return weight.group >= weight.k ? kDecodeSpan : static_cast<int>(weight.group);
}

const char* decode_refusal(const Product& product, const Device& device, int bits,
                           Activations activations);
std::int64_t decode_workspace_bytes(const Product& product, const Device& device);
cudaError_t launch_decode(DecodeEntry entry, const Product& product, const Device& device,
                          cudaStream_t stream);

}  // namespace sllmbench::cuda
