#include "cuda/facts.h"

#include <algorithm>
#include <iterator>

namespace sllmbench::cuda {
namespace {

constexpr int kOldestSm = 75;

int attribute(cudaDeviceAttr which, int index) {
    int value = 0;
    check(cudaDeviceGetAttribute(&value, which, index), "cudaDeviceGetAttribute");
    return value;
}

// 13000 -> 13.0
std::string version(int number) {
    return std::to_string(number / 1000) + "." + std::to_string(number % 1000 / 10);
}

// Of cudaGetDeviceCount, which is the first call of a process that needs the driver.
std::string count_failure(cudaError_t status) {
    int driver = 0, runtime = 0;
    cudaDriverGetVersion(&driver);
    cudaRuntimeGetVersion(&runtime);
    if (status == cudaErrorNoDevice) return "the CUDA driver sees no device";
    if (driver == 0) return "no CUDA driver (libcuda.so.1) is installed";
    if (status == cudaErrorInsufficientDriver)
        return "the driver is for CUDA " + version(driver) + " and sllmbench is built with " +
               version(runtime) + "; install a newer driver, or build with an older toolkit";
    return std::string("the CUDA driver does not start: ") + cudaGetErrorString(status);
}

}  // namespace

void check(cudaError_t status, const std::string& what) {
    if (status == cudaSuccess) return;
    cudaGetLastError();  // a launch's error would be told again by whoever asks next
    throw CudaError(what + ": " + cudaGetErrorString(status) + " (" + cudaGetErrorName(status) +
                    ")");
}

std::string unavailable() {
    int count = 0;
    const cudaError_t status = cudaGetDeviceCount(&count);
    if (status == cudaSuccess && count > 0) return {};
    cudaGetLastError();
    return count_failure(status == cudaSuccess ? cudaErrorNoDevice : status);
}

int device_count() {
    if (const std::string reason = unavailable(); !reason.empty()) throw CudaError(reason);
    int count = 0;
    check(cudaGetDeviceCount(&count), "cudaGetDeviceCount");
    return count;
}

DeviceFacts device_facts(int index) {
    const int count = device_count();
    if (index < 0 || index >= count)
        throw CudaError("there is no CUDA device " + std::to_string(index) + ": the driver sees " +
                        std::to_string(count));
    cudaDeviceProp properties;
    check(cudaGetDeviceProperties(&properties, index), "cudaGetDeviceProperties");
    const int sm = 10 * properties.major + properties.minor;
    const std::string name = properties.name;
    if (sm < kOldestSm)
        throw CudaError(name + " has compute capability " + std::to_string(properties.major) + "." +
                        std::to_string(properties.minor) + "; the kernels need 7.5 or later");
    return {{sm, has_tensor_cores(sm, name), attribute(cudaDevAttrMultiProcessorCount, index)},
            name,
            attribute(cudaDevAttrL2CacheSize, index),
            static_cast<std::int64_t>(properties.totalGlobalMem)};
}

bool has_tensor_cores(int sm, const std::string& name) {
    constexpr const char* kWithout[] = {"GTX 16", "MX450", "MX550", "T400",     "T500",    "T550",
                                        "T600",   "T1000", "T1200", "Quadro T", "CMP 30HX"};
    return sm != 75 ||
           std::none_of(std::begin(kWithout), std::end(kWithout),
                        [&](const char* part) { return name.find(part) != std::string::npos; });
}

CurrentDevice::CurrentDevice(int index) {
    check(cudaGetDevice(&former_), "cudaGetDevice");
    if (former_ == index) return;
    check(cudaSetDevice(index), "device " + std::to_string(index) + " cannot be used");
    changed_ = true;
}

CurrentDevice::~CurrentDevice() {
    if (changed_) cudaSetDevice(former_);
}

}  // namespace sllmbench::cuda
