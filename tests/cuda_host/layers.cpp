// What the tests call through ctypes besides products: whole weights as fp16, rotation and append.
#include "cuda/matmul.h"
#include "cuda/rope.h"

extern "C" {

int host_dequantize(int bits, std::int64_t n, std::int64_t k, std::int64_t group, const void* tiles,
                    const void* scales, const void* zeros, const void* order, void* out) {
    return sllmbench::cuda::dequantize(
        {bits, n, k, group, static_cast<const uint4*>(tiles), static_cast<const __half*>(scales),
         static_cast<const std::uint8_t*>(zeros), static_cast<const std::int32_t*>(order)},
        static_cast<__half*>(out), nullptr);
}

const char* host_rope_append_refusal(const sllmbench::cuda::RopeAppend* p) {
    return rope_append_refusal(*p);
}
int host_rope_append(const sllmbench::cuda::RopeAppend* p) {
    return launch_rope_append(*p, nullptr);
}

}  // extern "C"
