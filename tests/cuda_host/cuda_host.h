// Stands for cuda_runtime.h and cuda_fp16.h where g++ compiles csrc/cuda for the CPU:
//
//   g++ -std=c++20 -O2 -mf16c -mfma -ffp-contract=off -fno-strict-aliasing -fno-gnu-unique -fPIC
//       -shared -DSLLMBENCH_CUDA_HOST -Icsrc -Itests/cuda_host
//       -x c++ csrc/cuda/*.cu tests/cuda_host/*.cpp -o libkernels.so
//
// nvcc contracts a * b + c where it likes; here nothing is: a kernel that wants one rounding says
// fmaf, and both round alike. A misuse (deadlock, barriers that diverge, lanes that disagree,
// misaligned loads) ends the process with one message that names kernel, block, file and line.
#pragma once

#include "arithmetic.h"
#include "block.h"
#include "half.h"
#include "launches.h"
#include "models.h"
#include "symbols.h"
#include "vector_types.h"
#include "warp.h"

namespace sllmbench::cuda {

// Runs the kernel before it returns, whatever the stream.
template <class... Parameters>
cudaError_t launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, cudaStream_t,
                   std::type_identity_t<Parameters>... arguments) {
    if (const cudaError_t status = cuda_host::check_launch(grid, block); status != cudaSuccess)
        return status;
    const char* name = cuda_host::symbol_of(reinterpret_cast<const void*>(kernel));
    cuda_host::launches().push_back({name, grid, block, {cuda_host::bytes_of(arguments)...}});
    cuda_host::run_grid([&] { kernel(arguments...); }, name, grid, block);
    return cudaSuccess;
}

}  // namespace sllmbench::cuda
