#include "cuda/decode_fp16.cuh"

namespace sllmbench::cuda {
namespace {

const char* refusal(const Product& product, const Device& device) {
    return decode_refusal(product, device, 8, Activations::fp16);
}

cudaError_t launch_kernel(const Product& product, const Device& device, cudaStream_t stream) {
    return launch_decode(fp16_entry<8, false>(product, device), product, device, stream);
}

}  // namespace

const Kernel kDecodeW8A16{"decode_w8a16", refusal, decode_workspace_bytes, launch_kernel};

}  // namespace sllmbench::cuda
