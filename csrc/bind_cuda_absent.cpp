// A build without nvcc: it says so, and has nothing else of CUDA.
#include "bind.h"

namespace sllmbench {

void bind_cuda(pybind11::module_& module) {
    module.attr("cuda_toolkit") = pybind11::none();
}

}  // namespace sllmbench
