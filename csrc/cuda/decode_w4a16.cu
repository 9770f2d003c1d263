#include "cuda/decode_fp16.cuh"

namespace sllmbench::cuda {
namespace {

const char* refusal(const Product& product, const Device& device) {
    return decode_refusal(product, device, 4, Activations::fp16);
}

cudaError_t launch_kernel(const Product& product, const Device& device, cudaStream_t stream) {
    const DecodeEntry entry = product.weight.zeros ? fp16_entry<4, true>(product, device)
                                                   : fp16_entry<4, false>(product, device);
    return launch_decode(entry, product, device, stream);
}

}  // namespace

const Kernel kDecodeW4A16{"decode_w4a16", refusal, decode_workspace_bytes, launch_kernel};

}  // namespace sllmbench::cuda
