// Devices and products on them. Memory is the caller's, torch's as a rule: addresses come as
// numbers, nothing is allocated and nothing waited for, so that CUDA graphs can hold the calls.
#include <pybind11/stl.h>

#include <optional>
#include <string>
#include <utility>

#include "bind.h"
#include "cuda/facts.h"
#include "cuda/matmul.h"

namespace py = pybind11;

namespace sllmbench {
namespace {

using cuda::Activations;
using cuda::Product;

using Address = std::uintptr_t;

template <class T>
T* at(Address address) {
    return reinterpret_cast<T*>(address);
}

struct DeviceHandle {
    explicit DeviceHandle(int number) : index(number), facts(cuda::device_facts(number)) {}
    int index;
    cuda::DeviceFacts facts;
};

cuda::Weight make_weight(int bits, std::int64_t n, std::int64_t k, std::int64_t group,
                         Address tiles, Address scales, Address zeros, Address order) {
    if (n < 1 || k < 1 || group < 1) throw py::value_error("n, k and group must be at least 1");
    if (tiles % 16 != 0) throw py::value_error("tiles must lie at a multiple of 16 bytes");
    if (tiles == 0 || scales == 0) throw py::value_error("a weight needs tiles and scales");
    return {bits,
            n,
            k,
            group,
            at<const uint4>(tiles),
            at<const __half>(scales),
            at<const std::uint8_t>(zeros),
            at<const std::int32_t>(order)};
}

Activations parse_activations(const std::string& arithmetic) {
    if (arithmetic == "exact") return Activations::fp16;
    if (arithmetic == "int8") return Activations::int8;
    throw py::value_error("arithmetic must be exact or int8, not '" + arithmetic + "'");
}

const cuda::Kernel& chosen(const Product& product, const cuda::Device& device) {
    const cuda::Choice choice = cuda::select(product, device);
    if (choice.kernel == nullptr) throw py::value_error(choice.reason);
    return *choice.kernel;
}

// What a product of m rows will take: the kernel's name and bytes of workspace. Where x lies
// counts: rows that are not aligned are copied.
std::pair<std::string, std::int64_t> plan(const cuda::Weight& weight, const DeviceHandle& device,
                                          std::int64_t m, Address x, std::int64_t stride_x,
                                          const std::string& arithmetic) {
    if (m < 1) throw py::value_error("m must be at least 1, not " + std::to_string(m));
    const Product product{
        weight, parse_activations(arithmetic), m, at<const __half>(x), stride_x, nullptr, nullptr};
    const cuda::Kernel& kernel = chosen(product, device.facts.device);
    return {kernel.name, kernel.workspace_bytes(product, device.facts.device)};
}

std::string multiply(const cuda::Weight& weight, const DeviceHandle& device, std::int64_t m,
                     Address x, std::int64_t stride_x, Address y, Address workspace, Address stream,
                     const std::string& arithmetic) {
    if (m < 1 || stride_x < 0) throw py::value_error("m must be at least 1 and stride_x positive");
    if (x == 0 || y == 0 || x % 2 != 0 || y % 2 != 0)
        throw py::value_error("x and y must be addresses of fp16 values");
    if (workspace % 256 != 0) throw py::value_error("workspace must lie at a multiple of 256");
    const Product product{weight,
                          parse_activations(arithmetic),
                          m,
                          at<const __half>(x),
                          stride_x,
                          at<__half>(y),
                          at<void>(workspace)};
    const cuda::Kernel& kernel = chosen(product, device.facts.device);
    if (workspace == 0 && kernel.workspace_bytes(product, device.facts.device) > 0)
        throw py::value_error(std::string(kernel.name) + " needs a workspace");
    const py::gil_scoped_release released;
    const cuda::CurrentDevice current(device.index);
    cuda::check(kernel.launch(product, device.facts.device, at<CUstream_st>(stream)), kernel.name);
    return kernel.name;
}

void dequantize(const cuda::Weight& weight, const DeviceHandle& device, Address out,
                Address stream) {
    if (out == 0 || out % 16 != 0)
        throw py::value_error("out must be an address at a multiple of 16 bytes");
    const py::gil_scoped_release released;
    const cuda::CurrentDevice current(device.index);
    cuda::check(cuda::dequantize(weight, at<__half>(out), at<CUstream_st>(stream)), "dequantize");
}

std::optional<std::string> unavailable() {
    std::string reason = cuda::unavailable();
    if (reason.empty()) return std::nullopt;
    return reason;
}

}  // namespace

void bind_cuda(py::module_& module) {
    py::register_exception<cuda::CudaError>(module, "CudaError", PyExc_RuntimeError);
#ifdef SLLMBENCH_CUDA_EMULATION
    module.attr("cuda_toolkit") = "emulated";
#else
    module.attr("cuda_toolkit") =
        std::to_string(CUDART_VERSION / 1000) + "." + std::to_string(CUDART_VERSION % 1000 / 10);
#endif
    module.def("cuda_unavailable", &unavailable,
               "Why no device of this machine can be used; None where one can.");
    module.def("cuda_device_count", &cuda::device_count, "Devices that the driver sees.");

    py::class_<DeviceHandle>(module, "CudaDevice", "What launches must know of a device.")
        .def(py::init<int>(), py::arg("index"))
        .def_readonly("index", &DeviceHandle::index)
        .def_property_readonly("name", [](const DeviceHandle& d) { return d.facts.name; })
        .def_property_readonly("sm", [](const DeviceHandle& d) { return d.facts.device.sm; })
        .def_property_readonly(
            "has_tensor_cores",
            [](const DeviceHandle& d) { return d.facts.device.has_tensor_cores; })
        .def_property_readonly("multiprocessors",
                               [](const DeviceHandle& d) { return d.facts.device.multiprocessors; })
        .def_property_readonly("l2_bytes", [](const DeviceHandle& d) { return d.facts.l2_bytes; })
        .def_property_readonly("memory_bytes",
                               [](const DeviceHandle& d) { return d.facts.memory_bytes; });

    py::class_<cuda::Weight>(module, "CudaWeight",
                             "Where a weight from pack_cuda lies in a device's memory; 0: absent.")
        .def(py::init(&make_weight), py::kw_only(), py::arg("bits"), py::arg("n"), py::arg("k"),
             py::arg("group"), py::arg("tiles"), py::arg("scales"), py::arg("zeros") = 0,
             py::arg("order") = 0);
    module.def("cuda_plan", &plan, py::arg("weight"), py::arg("device"), py::kw_only(),
               py::arg("m"), py::arg("x"), py::arg("stride_x"), py::arg("arithmetic"),
               "The kernel that will multiply m rows, and the bytes of workspace that it wants.");
    module.def("cuda_matmul", &multiply, py::arg("weight"), py::arg("device"), py::kw_only(),
               py::arg("m"), py::arg("x"), py::arg("stride_x"), py::arg("y"), py::arg("workspace"),
               py::arg("stream"), py::arg("arithmetic"),
               "Queue fp16 y [m, n] = x [m, k] wᵀ; return the kernel's name.");
    module.def("cuda_dequantize", &dequantize, py::arg("weight"), py::arg("device"), py::kw_only(),
               py::arg("out"), py::arg("stream"),
               "Queue fp16 out [n, k] = w, its columns in x's order.");
    bind_cuda_rope(module);
}

}  // namespace sllmbench
