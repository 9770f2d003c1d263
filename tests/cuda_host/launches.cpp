#include "launches.h"

#include <cstring>

namespace cuda_host {
namespace {
int launches_until_failure = -1;
cudaError_t failure = cudaSuccess;
}  // namespace

std::vector<Launch>& launches() {
    static auto* const made = new std::vector<Launch>;
    return *made;
}

void fail_launch(int n, cudaError_t status) {
    launches_until_failure = n;
    failure = status;
}

cudaError_t check_launch(dim3 grid, dim3 block) {
    if (launches_until_failure >= 0 && launches_until_failure-- == 0) return failure;
    const bool possible = grid.x > 0 && grid.x <= 0x7fffffff && grid.y > 0 && grid.y <= 65535 &&
                          grid.z > 0 && grid.z <= 65535 && block.x > 0 && block.y > 0 &&
                          block.z > 0 && block.z <= 64 &&
                          std::uint64_t{block.x} * block.y * block.z <= 1024;
    return possible ? cudaSuccess : cudaErrorInvalidConfiguration;
}

}  // namespace cuda_host

cudaError_t cudaMemsetAsync(void* at, int byte, std::size_t bytes, cudaStream_t) {
    using cuda_host::bytes_of;
    if (const cudaError_t status = cuda_host::check_launch(1, 1); status != cudaSuccess)
        return status;
    cuda_host::launches().push_back(
        {cuda_host::kMemset, 1, 1, {bytes_of(at), bytes_of(byte), bytes_of(bytes)}});
    std::memset(at, byte, bytes);
    return cudaSuccess;
}
