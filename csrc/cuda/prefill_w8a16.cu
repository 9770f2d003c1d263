// Prefill of 8-bit weights in fp16.
#include "cuda/prefill_f16.h"

namespace sllmbench::cuda {
namespace {

const char* refusal(const Product& product, const Device& device) {
    if (product.weight.bits != 8) return "prefill_w8a16 multiplies 8-bit weights";
    if (product.activations != Activations::fp16)
        return "prefill_w8a16 multiplies fp16 activations";
    return prefill::refusal(product, device);
}
std::int64_t workspace_bytes(const Product& product, const Device& device) {
    return prefill::plan(product, device).workspace_bytes();
}

}  // namespace

const Kernel kPrefillW8A16 = {"prefill_w8a16", refusal, workspace_bytes,
                              prefill::launch_f16<prefill::Codes8>};

}  // namespace sllmbench::cuda
