// Rotary positions and the append to the KV cache, as one kernel on a GPU.
#include <pybind11/stl.h>

#include "bind.h"
#include "cuda/facts.h"
#include "cuda/rope.h"

namespace py = pybind11;

namespace sllmbench {
namespace {

using Address = std::uintptr_t;

template <class T>
T* at(Address address) {
    return reinterpret_cast<T*>(address);
}

void rope_append(int device, Address stream, std::int64_t tokens, std::int64_t query_heads,
                 std::int64_t kv_heads, std::int64_t dim, std::int64_t value_dim, Address q,
                 Address k, Address v, std::int64_t stride_q, std::int64_t stride_k,
                 std::int64_t stride_v, Address cos, Address sin, std::int64_t table_positions,
                 std::int64_t table_pairs, Address pairs, Address positions, Address slots,
                 Address k_cache, Address v_cache, std::int64_t capacity) {
    cuda::RopeAppend step{};
    step.tokens = tokens;
    step.query_heads = query_heads;
    step.kv_heads = kv_heads;
    step.dim = dim;
    step.value_dim = value_dim;
    step.q = at<__half>(q);
    step.k = at<const __half>(k);
    step.v = at<const __half>(v);
    step.stride_q = stride_q;
    step.stride_k = stride_k;
    step.stride_v = stride_v;
    step.cos = at<const float>(cos);
    step.sin = at<const float>(sin);
    step.table_positions = table_positions;
    step.table_pairs = table_pairs;
    step.pairs = at<const std::uint8_t>(pairs);
    step.positions = at<const std::int64_t>(positions);
    step.slots = at<const std::int64_t>(slots);
    step.k_cache = at<__half>(k_cache);
    step.v_cache = at<__half>(v_cache);
    step.capacity = capacity;
    if (const char* const reason = cuda::rope_append_refusal(step)) throw py::value_error(reason);
    const py::gil_scoped_release released;
    const cuda::CurrentDevice current(device);
    cuda::check(cuda::launch_rope_append(step, at<CUstream_st>(stream)), "rope_append");
}

}  // namespace

void bind_cuda_rope(py::module_& module) {
    module.def("cuda_rope_append", &rope_append, py::kw_only(), py::arg("device"),
               py::arg("stream"), py::arg("tokens"), py::arg("query_heads"), py::arg("kv_heads"),
               py::arg("dim"), py::arg("value_dim"), py::arg("q"), py::arg("k"), py::arg("v"),
               py::arg("stride_q"), py::arg("stride_k"), py::arg("stride_v"), py::arg("cos"),
               py::arg("sin"), py::arg("table_positions"), py::arg("table_pairs"), py::arg("pairs"),
               py::arg("positions"), py::arg("slots"), py::arg("k_cache"), py::arg("v_cache"),
               py::arg("capacity"),
               "Queue the rotation of q in place, and of k and v into their caches.");
}

}  // namespace sllmbench
