// One launch where rotating q, rotating k, and storing k and v would be four.
//
// A thread rotates kPairs neighbouring pairs of a head, both of their halves, so q can be rotated
// in place; or it copies kPairs components of v. With 8 a thread its loads are of 128 bits.
#include "cuda/instructions.h"
#include "cuda/layouts.h"
#include "cuda/rope.h"

namespace sllmbench::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kWide = 8;  // pairs, where shapes and addresses allow 128-bit loads

template <int kCount>
struct alignas(kCount * sizeof(__half)) Halves {
    __half of[kCount];
};
template <int kCount>
__device__ __forceinline__ Halves<kCount> load(const __half* from) {
    return *reinterpret_cast<const Halves<kCount>*>(from);
}
template <int kCount>
__device__ __forceinline__ void store(__half* to, const Halves<kCount>& values) {
    *reinterpret_cast<Halves<kCount>*>(to) = values;
}

// Pairs c .. of one head: `from` and `to` are the head's first component.
template <int kPairs>
__device__ __forceinline__ void rotate(const RopeAppend& p, std::int64_t position,
                                       std::int64_t kv_head, std::int64_t c, const __half* from,
                                       __half* to) {
    const std::int64_t half = p.dim / 2;
    auto low = load<kPairs>(from + c), high = load<kPairs>(from + half + c);
#pragma unroll
    for (int i = 0; i < kPairs; ++i) {
        const std::int64_t pair = p.pairs ? p.pairs[kv_head * half + c + i] : c + i;
        const float cosine = p.cos[position * p.table_pairs + pair];
        const float sine = p.sin[position * p.table_pairs + pair];
        const float x = __half2float(low.of[i]), y = __half2float(high.of[i]);
        low.of[i] = __float2half_rn(fmaf(x, cosine, -(y * sine)));
        high.of[i] = __float2half_rn(fmaf(y, cosine, x * sine));
    }
    store(to + c, low);
    store(to + half + c, high);
}

// A block is of one token; its heads' pieces are counted through: q, then k, then v.
template <int kPairs>
__global__ void __launch_bounds__(kThreads) rope_append(const RopeAppend p) {
    const std::int64_t token = blockIdx.x;
    const std::int64_t position = p.positions[token], slot = p.slots[token];
    if (position < 0 || position >= p.table_positions || slot < 0 || slot >= p.capacity) fault();

    const std::int64_t pieces = p.dim / 2 / kPairs, value_pieces = p.value_dim / kPairs;
    std::int64_t piece = static_cast<std::int64_t>(blockIdx.y) * kThreads + threadIdx.x;
    if (piece < p.query_heads * pieces) {
        const std::int64_t head = piece / pieces;
        __half* const q = p.q + token * p.stride_q + head * p.dim;
        rotate<kPairs>(p, position, head / (p.query_heads / p.kv_heads), piece % pieces * kPairs, q,
                       q);
        return;
    }
    piece -= p.query_heads * pieces;
    if (piece < p.kv_heads * pieces) {
        const std::int64_t head = piece / pieces;
        rotate<kPairs>(p, position, head, piece % pieces * kPairs,
                       p.k + token * p.stride_k + head * p.dim,
                       p.k_cache + (head * p.capacity + slot) * p.dim);
        return;
    }
    piece -= p.kv_heads * pieces;
    if (piece < p.kv_heads * value_pieces) {
        const std::int64_t head = piece / value_pieces, c = piece % value_pieces * kPairs;
        store(p.v_cache + (head * p.capacity + slot) * p.value_dim + c,
              load<kPairs>(p.v + token * p.stride_v + head * p.value_dim + c));
    }
}

// Of the halves that `count` pieces of q, k and v begin at, all are where 128-bit loads may be.
bool wide(const RopeAppend& p) {
    for (const void* at : {static_cast<const void*>(p.q), static_cast<const void*>(p.k),
                           static_cast<const void*>(p.v), static_cast<const void*>(p.k_cache),
                           static_cast<const void*>(p.v_cache)})
        if (reinterpret_cast<std::uintptr_t>(at) % (kWide * sizeof(__half)) != 0) return false;
    for (const std::int64_t length : {p.dim / 2, p.value_dim, p.stride_q, p.stride_k, p.stride_v})
        if (length % kWide != 0) return false;
    return true;
}

template <int kPairs>
cudaError_t launch_with(const RopeAppend& p, cudaStream_t stream) {
    const std::int64_t pieces =
        ((p.query_heads + p.kv_heads) * (p.dim / 2) + p.kv_heads * p.value_dim) / kPairs;
    const dim3 grid(static_cast<unsigned>(p.tokens),
                    static_cast<unsigned>(divide_up(pieces, kThreads)));
    return launch(&rope_append<kPairs>, grid, dim3(kThreads), stream, p);
}

}  // namespace

const char* rope_append_refusal(const RopeAppend& p) {
    if (p.tokens < 1 || p.query_heads < 1 || p.kv_heads < 1 || p.dim < 2 || p.value_dim < 1)
        return "rope_append needs tokens, heads and components above 0";
    if (p.dim % 2 != 0) return "rope_append pairs components: an odd head dimension has none";
    if (p.query_heads % p.kv_heads != 0)
        return "rope_append needs the heads of q to be a multiple of those of k";
    if (p.pairs == nullptr && p.table_pairs != p.dim / 2)
        return "rope_append needs a column of the tables for each pair, or `pairs` to name them";
    if (p.pairs != nullptr && (p.table_pairs > 256 || p.table_pairs < p.dim / 2))
        return "rope_append names pairs in a byte: the tables may have up to 256 columns";
    return nullptr;
}

cudaError_t launch_rope_append(const RopeAppend& p, cudaStream_t stream) {
    return wide(p) ? launch_with<kWide>(p, stream) : launch_with<1>(p, stream);
}

}  // namespace sllmbench::cuda
