// What all prefill kernels decide on the host.
#include "cuda/prefill.h"

#include <algorithm>

namespace sllmbench::cuda::prefill {
namespace {

constexpr std::int64_t kAlignment = 256;
constexpr std::int64_t kLongest = std::int64_t{1} << 30;  // kernels count with int
constexpr std::int64_t kMostOfGrid = 65535;               // along y: rows of x, blocks of n

std::int64_t aligned(std::int64_t bytes) {
    return divide_up(bytes, kAlignment) * kAlignment;
}

int x_bytes_each(const Product& product) {
    return product.activations == Activations::fp16 ? 2 : 1;
}

// Units can be read where x lies only if every row starts at a unit and ends with one.
bool must_gather(const Product& product) {
    constexpr std::int64_t kUnitLength = kUnitBytes / sizeof(__half);
    return product.activations == Activations::int8 || product.weight.order != nullptr ||
           reinterpret_cast<std::uintptr_t>(product.x) % kUnitBytes != 0 ||
           product.stride_x % kUnitLength != 0 || product.weight.k % kUnitLength != 0;
}

// Two blocks a multiprocessor, if k is long enough to give each two folds; one share if the
// multiprocessors have work anyhow, since each share costs a float of traffic a result.
std::int64_t splits(std::int64_t blocks, std::int64_t folds, const Device& device) {
    if (blocks >= device.multiprocessors) return 1;
    return std::max<std::int64_t>(std::min(2 * device.multiprocessors / blocks, folds / 2), 1);
}

}  // namespace

const char* refusal(const Product& product, const Device& device) {
    const Weight& weight = product.weight;
    if (!device.has_tensor_cores || device.sm < 75)
        return "prefill kernels need tensor cores of Turing or later: dequantize instead";
    if (product.m < 1 || weight.n < 1 || weight.k < 1) return "a product needs m, n and k above 0";
    if (product.m > kMostOfGrid || weight.k > kLongest || weight.n > kMostOfGrid * kBlockRows)
        return "prefill kernels take m up to 65535, k up to 2^30 and n up to 8388480";
    if (weight.group != 32 && weight.group != 64 && weight.group != 128 && weight.group < weight.k)
        return "prefill kernels take groups of 32, 64, 128 or a whole row";
    return nullptr;
}

Plan plan(const Product& product, const Device& device) {
    const Weight& weight = product.weight;
    const int each = x_bytes_each(product);
    Plan how{};
    how.gather = must_gather(product);
    how.token_tiles = product.m <= 16 ? 2 : product.m <= 32 ? 4 : 8;
    how.x_stride_bytes =
        (how.gather ? tiles_along_k(weight.bits, weight.k) * tile_length(weight.bits)
                    : product.stride_x) *
        each;
    if (how.gather) how.x_bytes = aligned(product.m * how.x_stride_bytes);
    if (product.activations == Activations::int8)
        how.scales_bytes = aligned(product.m * static_cast<std::int64_t>(sizeof(float)));

    const std::int64_t folds = divide_up(weight.k, kFoldLength);
    const std::int64_t blocks =
        divide_up(product.m, 8 * how.token_tiles) * divide_up(weight.n, kBlockRows);
    how.folds_per_split = divide_up(folds, splits(blocks, folds, device));
    how.splits = divide_up(folds, how.folds_per_split);  // none is empty
    if (how.splits > 1)
        how.partials_bytes =
            how.splits * product.m * weight.n * static_cast<std::int64_t>(sizeof(float));
    return how;
}

Operands operands(const Product& product, const Plan& how) {
    const Weight& weight = product.weight;
    char* const workspace = static_cast<char*>(product.workspace);
    Operands p{};
    p.tiles = weight.tiles;
    p.scales = weight.scales;
    p.zeros = weight.zeros;
    p.x = reinterpret_cast<const uint4*>(how.gather ? static_cast<const void*>(workspace)
                                                    : static_cast<const void*>(product.x));
    if (how.scales_bytes) p.x_scales = reinterpret_cast<const float*>(workspace + how.x_bytes);
    p.y = product.y;
    if (how.partials_bytes)
        p.partials = reinterpret_cast<float*>(workspace + how.x_bytes + how.scales_bytes);
    p.x_stride = how.x_stride_bytes / kUnitBytes;
    p.x_units =
        static_cast<int>(how.gather ? p.x_stride : weight.k * x_bytes_each(product) / kUnitBytes);
    p.m = static_cast<int>(product.m);
    p.n = static_cast<int>(weight.n);
    p.n_tiles = static_cast<int>(tiles_along_k(weight.bits, weight.k));
    p.groups = static_cast<int>(divide_up(weight.k, weight.group));
    p.folds_per_split = static_cast<int>(how.folds_per_split);
    p.folds = static_cast<int>(divide_up(weight.k, kFoldLength));
    return p;
}

cudaError_t add_partials(const Product& product, const Plan& how, cudaStream_t stream) {
    if (how.splits == 1) return cudaSuccess;
    return cuda::add_partials(operands(product, how).partials, product.y,
                              product.m * product.weight.n, static_cast<int>(how.splits), stream);
}

}  // namespace sllmbench::cuda::prefill
