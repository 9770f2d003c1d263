// The only place that chooses a kernel.
#include "cuda/matmul.h"

namespace sllmbench::cuda {
Choice select(const Product& product, const Device& device) {
    const int bits = product.weight.bits;
    const bool int8 = product.activations == Activations::int8;
    if (bits != 4 && bits != 8) return {nullptr, "weights on a GPU have 4 or 8 bits"};
    if (bits == 4 && int8)
        return {nullptr,
                "4-bit weights are multiplied by fp16 activations on a GPU; take exact arithmetic"};
    const Kernel& decode = bits == 4 ? kDecodeW4A16 : int8 ? kDecodeW8A8 : kDecodeW8A16;
    const Kernel& prefill = bits == 4 ? kPrefillW4A16 : int8 ? kPrefillW8A8 : kPrefillW8A16;
    // A decode kernel refuses more rows than it is faster with; the reason to tell is then that of
    // the kernels for any number.
    if (decode.refusal(product, device) == nullptr) return {&decode, nullptr};
    if (const char* const reason = prefill.refusal(product, device)) return {nullptr, reason};
    return {&prefill, nullptr};
}

}  // namespace sllmbench::cuda
