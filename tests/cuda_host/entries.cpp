// What the tests call through ctypes: kernels by name on plain arrays, and what they launched.

#include <array>
#include <cstring>

#include "cuda/matmul.h"

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#endif

using sllmbench::cuda::Activations;
using sllmbench::cuda::Device;
using sllmbench::cuda::Kernel;
using sllmbench::cuda::Product;

namespace {

constexpr std::array kKernels = {
    &sllmbench::cuda::kDecodeW4A16,  &sllmbench::cuda::kDecodeW8A16,
    &sllmbench::cuda::kDecodeW8A8,   &sllmbench::cuda::kPrefillW4A16,
    &sllmbench::cuda::kPrefillW8A16, &sllmbench::cuda::kPrefillW8A8,
};

const Kernel& kernel(const char* name) {
    for (const Kernel* one : kKernels)
        if (std::strcmp(one->name, name) == 0) return *one;
    cuda_host::fail("no kernel of that name", cuda_host::Where::current());
}

}  // namespace

extern "C" {

// As shim/library.py spells it.
struct HostProduct {
    std::int64_t n, k, group, m, stride_x;
    const void *tiles, *scales, *zeros, *order, *x;
    void *y, *workspace;
    std::int32_t bits, activations;
    std::int32_t sm, has_tensor_cores, multiprocessors;
};

static Product product_of(const HostProduct& p) {
    Product product{};
    product.weight = {p.bits,
                      p.n,
                      p.k,
                      p.group,
                      static_cast<const uint4*>(p.tiles),
                      static_cast<const __half*>(p.scales),
                      static_cast<const std::uint8_t*>(p.zeros),
                      static_cast<const std::int32_t*>(p.order)};
    product.activations = p.activations == 8 ? Activations::int8 : Activations::fp16;
    product.m = p.m;
    product.x = static_cast<const __half*>(p.x);
    product.stride_x = p.stride_x;
    product.y = static_cast<__half*>(p.y);
    product.workspace = p.workspace;
    return product;
}
static Device device_of(const HostProduct& p) {
    return {p.sm, p.has_tensor_cores != 0, p.multiprocessors};
}

const char* host_refusal(const char* name, const HostProduct* p) {
    return kernel(name).refusal(product_of(*p), device_of(*p));
}
std::int64_t host_workspace_bytes(const char* name, const HostProduct* p) {
    return kernel(name).workspace_bytes(product_of(*p), device_of(*p));
}
int host_multiply(const char* name, const HostProduct* p) {
    return kernel(name).launch(product_of(*p), device_of(*p), nullptr);
}
int host_gather_fp16(const HostProduct* p, void* padded) {
    return gather_fp16(product_of(*p), static_cast<__half*>(padded), nullptr);
}
int host_gather_int8(const HostProduct* p, void* padded, float* row_scales) {
    return gather_int8(product_of(*p), static_cast<std::int8_t*>(padded), row_scales, nullptr);
}

void host_set_seed(std::uint64_t seed) {
    cuda_host::set_seed(seed);
}
void host_fail_launch(int n, int status) {
    cuda_host::fail_launch(n, static_cast<cudaError_t>(status));
}

void host_clear_launches() {
    cuda_host::launches().clear();
}
std::int64_t host_launches() {
    return static_cast<std::int64_t>(cuda_host::launches().size());
}
const char* host_launch_symbol(std::int64_t i) {
    return cuda_host::launches().at(static_cast<std::size_t>(i)).symbol.c_str();
}
void host_launch_shape(std::int64_t i, unsigned (&shape)[6]) {
    const auto& launch = cuda_host::launches().at(static_cast<std::size_t>(i));
    const unsigned all[6] = {launch.grid.x,  launch.grid.y,  launch.grid.z,
                             launch.block.x, launch.block.y, launch.block.z};
    std::memcpy(shape, all, sizeof all);
}
std::int64_t host_launch_arguments(std::int64_t i) {
    return static_cast<std::int64_t>(
        cuda_host::launches().at(static_cast<std::size_t>(i)).arguments.size());
}
const void* host_launch_argument(std::int64_t i, std::int64_t j, std::int64_t* bytes) {
    const auto& argument = cuda_host::launches()
                               .at(static_cast<std::size_t>(i))
                               .arguments.at(static_cast<std::size_t>(j));
    *bytes = static_cast<std::int64_t>(argument.size());
    return argument.data();
}

// Guards around arrays: not to be touched, where AddressSanitizer watches.
void host_close(void* at, std::size_t bytes) {
#ifdef __SANITIZE_ADDRESS__
    __asan_poison_memory_region(at, bytes);
#else
    static_cast<void>(at), static_cast<void>(bytes);
#endif
}
void host_open(void* at, std::size_t bytes) {
#ifdef __SANITIZE_ADDRESS__
    __asan_unpoison_memory_region(at, bytes);
#else
    static_cast<void>(at), static_cast<void>(bytes);
#endif
}

}  // extern "C"
