// What every kernel file starts from: CUDA's own headers, or the host shim of the tests.
//
// The same source is compiled by nvcc for GPUs and, with SLLMBENCH_CUDA_HOST, by g++ against
// tests/cuda_host, which runs it thread by thread on the CPU. Kernels keep to what both have:
// static __shared__ arrays, launches by `launch` alone, instructions by instructions.h.
#pragma once

#ifdef SLLMBENCH_CUDA_HOST
#include "cuda_host.h"
#else
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#endif

#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace sllmbench::cuda {

#ifndef SLLMBENCH_CUDA_HOST
// Queue a kernel; the status is that of the launch itself, a fault while it runs comes later.
template <class... Parameters>
cudaError_t launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, cudaStream_t stream,
                   std::type_identity_t<Parameters>... arguments) {
    void* pointers[] = {&arguments...};
    return cudaLaunchKernel(reinterpret_cast<const void*>(kernel), grid, block, pointers, 0,
                            stream);
}
#endif

// The device that a launch is for.
struct Device {
    int sm;                 // 75 for compute capability 7.5
    bool has_tensor_cores;  // not to be inferred from sm: GTX 16 cards are sm_75 and have none
    int multiprocessors;
};

}  // namespace sllmbench::cuda
