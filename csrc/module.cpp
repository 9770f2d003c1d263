#include "bind.h"

PYBIND11_MODULE(_native, module) {
    module.doc() = "The C++ extension: kernels, threads and hardware probes.";
    sllmbench::bind_kernels(module);
    sllmbench::bind_probes(module);
    sllmbench::bind_energy(module);
    sllmbench::bind_quantize(module);
    sllmbench::bind_cuda_pack(module);
    sllmbench::bind_cuda(module);
}
