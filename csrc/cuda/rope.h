// Rotary positions for q and k and the append to the KV cache, in one kernel.
#pragma once

#include "cuda/device.h"

namespace sllmbench::cuda {

// A step of one sequence: `tokens` new tokens with `query_heads` heads of q, `kv_heads` of k and v.
//
// Rotation pairs component c with c + dim / 2, as Hugging Face's rotate_half does:
//   out[c]           = in[c] cos - in[c + dim / 2] sin
//   out[c + dim / 2] = in[c + dim / 2] cos + in[c] sin
// in float32, rounded to fp16 once. A pair's angle is column c of the tables, or column
// pairs[head of k, c] where a model was pruned to some pairs of the full head dimension.
struct RopeAppend {
    std::int64_t tokens, query_heads, kv_heads;
    std::int64_t dim;        // components of a head of q and k; even
    std::int64_t value_dim;  // components of a head of v: not rotated, so free to differ

    // Rows of a token are contiguous, tokens stride_* halves apart, so that all three may be parts
    // of one fused projection's output.
    __half* q;        // [tokens, query_heads, dim], rotated in place
    const __half* k;  // [tokens, kv_heads, dim]
    const __half* v;  // [tokens, kv_heads, value_dim]
    std::int64_t stride_q, stride_k, stride_v;

    const float* cos;  // [table_positions, table_pairs]
    const float* sin;  // [table_positions, table_pairs]
    std::int64_t table_positions, table_pairs;
    const std::uint8_t* pairs;  // [kv_heads, dim / 2], below table_pairs; null: pair c is c

    // [tokens]: rows of the tables, and places below capacity, none twice. They are in the GPU's
    // memory, where a refusal cannot see them: one that is outside stops the kernel with a fault.
    const std::int64_t* positions;
    const std::int64_t* slots;

    __half* k_cache;  // [kv_heads, capacity, dim]
    __half* v_cache;  // [kv_heads, capacity, value_dim]
    std::int64_t capacity;
};

const char* rope_append_refusal(const RopeAppend&);               // one line, or null
cudaError_t launch_rope_append(const RopeAppend&, cudaStream_t);  // refusal was null

}  // namespace sllmbench::cuda
