#include "cuda/decode.h"

#include <algorithm>

namespace sllmbench::cuda {
namespace {

constexpr std::int64_t kAlignment = 256;  // of the parts of a workspace
constexpr std::int64_t kLongest = std::int64_t{1} << 28;

// 4 KiB under way a multiprocessor is what 320 GB/s at 500 ns asks of a T4, and a block's eight
// warps have 8 KiB: so blocks on half of the multiprocessors stream as fast as on all, without the
// second launch that a split costs. Below that k is split until every multiprocessor has a block,
// as long as every warp has a span.
int splits(const Product& product, const Device& device) {
    const std::int64_t blocks = row_blocks(product.weight.n);
    if (2 * blocks >= device.multiprocessors) return 1;
    const std::int64_t useful = divide_up(product.weight.k, kDecodeWarps * kDecodeSpan);
    return static_cast<int>(std::min(divide_up(device.multiprocessors, blocks), useful));
}

// Kernels read x 16 bytes at a time and whole tiles of it, in the weight's order.
bool must_gather(const Product& product) {
    if (product.activations == Activations::int8 || product.weight.order) return true;
    const bool aligned = reinterpret_cast<std::uintptr_t>(product.x) % 16 == 0 &&
                         (product.m == 1 || product.stride_x % 8 == 0);
    return !aligned || product.weight.k % tile_length(product.weight.bits) != 0;
}

// Bytes from the start of the workspace.
struct Plan {
    bool gather;
    int splits;
    std::int64_t padded_k, row_scales, partials, end;
};

Plan plan(const Product& product, const Device& device) {
    const Weight& weight = product.weight;
    const bool int8 = product.activations == Activations::int8;
    Plan p{must_gather(product), splits(product, device), 0, 0, 0, 0};
    p.padded_k = tiles_along_k(weight.bits, weight.k) * tile_length(weight.bits);
    const auto take = [&](std::int64_t bytes) {
        const std::int64_t start = p.end;
        p.end = divide_up(start + bytes, kAlignment) * kAlignment;
        return start;
    };
    if (p.gather)
        take(product.m * p.padded_k * static_cast<std::int64_t>(int8 ? 1 : sizeof(__half)));
    if (int8) p.row_scales = take(product.m * static_cast<std::int64_t>(sizeof(float)));
    if (p.splits > 1)
        p.partials =
            take(p.splits * product.m * weight.n * static_cast<std::int64_t>(sizeof(float)));
    return p;
}

}  // namespace

const char* decode_refusal(const Product& product, const Device& device, int bits,
                           Activations activations) {
    const Weight& weight = product.weight;
    if (device.sm < 75) return "decode kernels need compute capability 7.5 or above";
    if (weight.bits != bits)
        return bits == 4 ? "this decode kernel multiplies 4-bit weights only"
                         : "this decode kernel multiplies 8-bit weights only";
    if (product.activations != activations)
        return activations == Activations::fp16
                   ? "this decode kernel multiplies fp16 activations only"
                   : "this decode kernel multiplies int8 activations only";
    if (product.m < 1 || product.m > kDecodeRows)
        return "decode kernels multiply 1 to 8 rows of x; take a prefill kernel for more";
    if (bits == 8 && weight.zeros)
        return "8-bit weights with zero points: no kernel multiplies them";
    if (weight.k >= kLongest || product.stride_x >= kLongest)
        return "decode kernels index k, and rows of x, by 32 bits: both must be below 2^28";
    if (weight.group < weight.k && weight.group != 32 && weight.group != 64 && weight.group != 128)
        return "decode kernels have groups of 32, 64, 128 or a whole row; quantise with one of "
               "them";
    return nullptr;
}

std::int64_t decode_workspace_bytes(const Product& product, const Device& device) {
    return plan(product, device).end;
}

cudaError_t launch_decode(DecodeEntry entry, const Product& product, const Device& device,
                          cudaStream_t stream) {
    const Weight& weight = product.weight;
    const Plan p = plan(product, device);
    auto* const workspace = static_cast<std::byte*>(product.workspace);
    DecodeOperands operands{};
    operands.tiles = weight.tiles;
    operands.scales = weight.scales;
    operands.zeros = weight.zeros;
    operands.x = product.x;
    operands.y = product.y;
    operands.stride_x = product.stride_x;
    operands.n = weight.n;
    operands.m = static_cast<int>(product.m);
    operands.k = static_cast<int>(weight.k);
    operands.tiles_along_k = static_cast<int>(tiles_along_k(weight.bits, weight.k));
    operands.groups = static_cast<int>(divide_up(weight.k, weight.group));
    operands.split_spans = static_cast<int>(divide_up(divide_up(weight.k, kDecodeSpan), p.splits));
    operands.scale_step = operands.groups == 1 ? 0 : kTileRows;

    cudaError_t status = cudaSuccess;
    if (p.gather) {
        operands.x = workspace;
        operands.stride_x = p.padded_k;
        if (product.activations == Activations::int8) {
            auto* const row_scales = reinterpret_cast<float*>(workspace + p.row_scales);
            operands.row_scales = row_scales;
            status =
                gather_int8(product, reinterpret_cast<std::int8_t*>(workspace), row_scales, stream);
        } else {
            status = gather_fp16(product, reinterpret_cast<__half*>(workspace), stream);
        }
    }
    if (status != cudaSuccess) return status;
    if (p.splits > 1) operands.partials = reinterpret_cast<float*>(workspace + p.partials);
    const dim3 grid(static_cast<unsigned>(row_blocks(weight.n)), static_cast<unsigned>(p.splits));
    status = launch(entry, grid, dim3(32 * kDecodeWarps), stream, operands);
    if (status != cudaSuccess || p.splits == 1) return status;
    return add_partials(operands.partials, product.y, product.m * weight.n, p.splits, stream);
}

}  // namespace sllmbench::cuda
