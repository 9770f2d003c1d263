// y = x wᵀ on a GPU: what a product is, and what every kernel family says of itself.
#pragma once

#include <cstdint>

#include "cuda/device.h"
#include "cuda/layouts.h"

namespace sllmbench::cuda {

// A weight [n, k] in device memory (layouts.h).
struct Weight {
    int bits;                  // 4 or 8
    std::int64_t n, k, group;  // group: k that share a scale: 32, 64, 128, or all k of a row
    const uint4* tiles;
    const __half* scales;
    const std::uint8_t* zeros;  // null: symmetric
    const std::int32_t* order;  // [k] or null: place j of the weight takes x[order[j]] (act-order)
};

enum class Activations { fp16, int8 };  // what they are multiplied as; x itself is fp16

struct Product {
    Weight weight;
    Activations activations;
    std::int64_t m;
    const __half* x;  // [m, k], rows stride_x apart; any alignment that __half has
    std::int64_t stride_x;
    __half* y;        // [m, n], contiguous; written whole
    void* workspace;  // workspace_bytes of it, 256-byte aligned, contents undefined
};

// One kernel family. A refusal is one line that says why and what to do, or null.
struct Kernel {
    const char* name;
    const char* (*refusal)(const Product&, const Device&);
    std::int64_t (*workspace_bytes)(const Product&, const Device&);
    cudaError_t (*launch)(const Product&, const Device&, cudaStream_t);  // refusal was null
};

extern const Kernel kDecodeW4A16;   // decode_w4a16.cu: m <= 8
extern const Kernel kDecodeW8A16;   // decode_w8a16.cu: m <= 8
extern const Kernel kDecodeW8A8;    // decode_w8a8.cu: m <= 8, dp4a
extern const Kernel kPrefillW4A16;  // prefill_w4a16.cu: mma.m16n8k8, any m
extern const Kernel kPrefillW8A16;  // prefill_w8a16.cu: the same on 8-bit codes
extern const Kernel kPrefillW8A8;   // prefill_w8a8.cu: mma.m8n8k16, any m

// activations.cu: x [m, k] -> [m, k padded to a whole tile] with zeros behind k, in the weight's
// order. fp16 copies; int8 rounds to nearest even with one scale a row, |x|max / 127.
cudaError_t gather_fp16(const Product&, __half* padded, cudaStream_t);
cudaError_t gather_int8(const Product&, std::int8_t* padded, float* row_scales, cudaStream_t);

// partials.cu: y [count] = the sum of partials [splits][count], in their order.
cudaError_t add_partials(const float* partials, __half* y, std::int64_t count, int splits,
                         cudaStream_t);

// dequantize.cu: the whole weight as fp16 [n, k], columns in x's own order.
cudaError_t dequantize(const Weight&, __half* out, cudaStream_t);

// select.cpp, the only place that chooses: the kernel for a product, or the reason why none can.
struct Choice {
    const Kernel* kernel;  // null: see reason
    const char* reason;
};
Choice select(const Product&, const Device&);

}  // namespace sllmbench::cuda
