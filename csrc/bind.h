// The groups of Python functions that module.cpp registers.
#pragma once

#include <pybind11/pybind11.h>

namespace sllmbench {

void bind_kernels(pybind11::module_& module);
void bind_probes(pybind11::module_& module);
void bind_energy(pybind11::module_& module);
void bind_quantize(pybind11::module_& module);
void bind_cuda_pack(pybind11::module_& module);
// bind_cuda.cpp, or in a build without nvcc bind_cuda_absent.cpp.
void bind_cuda(pybind11::module_& module);
void bind_cuda_rope(pybind11::module_& module);  // registered by bind_cuda

}  // namespace sllmbench
