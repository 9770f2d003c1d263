// Which devices there are and what a launch must know of one; and errors in one line.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

#include "cuda/device.h"

namespace sllmbench::cuda {

struct CudaError : std::runtime_error {
    using std::runtime_error::runtime_error;
};

// Throws CudaError unless the status is success, and leaves no error behind for the next call.
void check(cudaError_t status, const std::string& what);

// Why no product can run on any device of this machine, empty where one can.
std::string unavailable();
int device_count();  // Throws CudaError.

struct DeviceFacts {
    Device device;
    std::string name;
    std::int64_t l2_bytes, memory_bytes;
};
// Throws CudaError, for a device that the kernels are not built for too.
DeviceFacts device_facts(int index);

// GTX 16 cards and the small chips of notebooks and workstations (TU116, TU117) run tensor
// instructions of sm_75 on their ordinary units. CUDA has no attribute that tells, so their names
// do. A name that is missing costs speed, not results.
bool has_tensor_cores(int sm, const std::string& name);

// Makes a device current for a call, and the former one again.
class CurrentDevice {
 public:
    explicit CurrentDevice(int index);
    ~CurrentDevice();
    CurrentDevice(const CurrentDevice&) = delete;
    CurrentDevice& operator=(const CurrentDevice&) = delete;

 private:
    int former_ = 0;
    bool changed_ = false;
};

}  // namespace sllmbench::cuda
