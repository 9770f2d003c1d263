// The runtime's few functions, and a record of every launch, to be replayed elsewhere.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "vector_types.h"

enum cudaError_t {
    cudaSuccess = 0,
    cudaErrorInvalidValue = 1,
    cudaErrorMemoryAllocation = 2,
    cudaErrorInvalidConfiguration = 9,
    cudaErrorNotSupported = 801,
};
using cudaStream_t = struct CUstream_st*;

namespace cuda_host {

using Bytes = std::vector<std::byte>;

template <class T>
Bytes bytes_of(const T& value) {
    Bytes bytes(sizeof value);
    std::memcpy(bytes.data(), &value, sizeof value);
    return bytes;
}

// A memset is recorded as a launch of one thread, kMemset(pointer, byte, size in bytes).
inline constexpr const char* kMemset = "cudaMemsetAsync";
struct Launch {
    std::string symbol;  // the kernel's, mangled
    dim3 grid, block;
    std::vector<Bytes> arguments;
};
std::vector<Launch>& launches();  // since it was last cleared

// The n-th launch from now, from 0, is not made and returns `status`.
void fail_launch(int n, cudaError_t status);

// What launch must return without running: a status of fail_launch, or of an impossible grid.
cudaError_t check_launch(dim3 grid, dim3 block);

}  // namespace cuda_host

cudaError_t cudaMemsetAsync(void* at, int byte, std::size_t bytes, cudaStream_t stream = nullptr);
