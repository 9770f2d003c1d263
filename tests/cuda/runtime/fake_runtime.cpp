#include "fake_runtime.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

namespace {

int current = 0;

// The value of a key of FAKE_CUDA; it is read anew each time, so that a test can change it.
std::string value_of(const std::string& key, const std::string& otherwise) {
    const char* const set = std::getenv("FAKE_CUDA");
    const std::string all = std::string(",") + (set == nullptr ? "" : set) + ",";
    const std::size_t at = all.find("," + key + "=");
    if (at == std::string::npos) return otherwise;
    const std::size_t begin = at + key.size() + 2;
    return all.substr(begin, all.find(',', begin) - begin);
}
int number_of(const std::string& key, int otherwise) {
    return std::stoi(value_of(key, std::to_string(otherwise)));
}
cudaError_t ready() {
    if (number_of("driver", CUDART_VERSION) < CUDART_VERSION) return cudaErrorInsufficientDriver;
    if (number_of("devices", 1) == 0) return cudaErrorNoDevice;
    return static_cast<cudaError_t>(number_of("init", 0));
}
cudaError_t ready(int index) {
    if (const cudaError_t status = ready(); status != cudaSuccess) return status;
    return index >= 0 && index < number_of("devices", 1) ? cudaSuccess : cudaErrorInvalidDevice;
}

// Armed once, when the extension is loaded: kernels then count their launches themselves.
const bool armed = [] {
    const std::string launch = value_of("launch", "");
    const std::size_t colon = launch.find(':');
    if (colon == std::string::npos) return false;
    cuda_host::fail_launch(std::stoi(launch.substr(0, colon)),
                           static_cast<cudaError_t>(std::stoi(launch.substr(colon + 1))));
    return true;
}();

}  // namespace

cudaError_t cudaDriverGetVersion(int* version) {
    *version = number_of("driver", CUDART_VERSION);
    return cudaSuccess;
}
cudaError_t cudaRuntimeGetVersion(int* version) {
    *version = CUDART_VERSION;
    return cudaSuccess;
}
cudaError_t cudaGetDeviceCount(int* count) {
    *count = number_of("devices", 1);
    return ready();
}
cudaError_t cudaGetDevice(int* index) {
    *index = current;
    return ready();
}
cudaError_t cudaSetDevice(int index) {
    if (const cudaError_t status = ready(index); status != cudaSuccess) return status;
    const auto status = static_cast<cudaError_t>(number_of("set", 0));
    if (status == cudaSuccess) current = index;
    return status;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int index) {
    if (const cudaError_t status = ready(index); status != cudaSuccess) return status;
    const int sm = number_of("sm", 75);
    std::snprintf(properties->name, sizeof properties->name, "%s",
                  value_of("name", "Tesla T4").c_str());
    properties->major = sm / 10;
    properties->minor = sm % 10;
    properties->totalGlobalMem = std::size_t{15} << 30;
    return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr which, int index) {
    *value = which == cudaDevAttrMultiProcessorCount ? 40 : 4 << 20;
    return ready(index);
}
cudaError_t cudaGetLastError() {
    return cudaSuccess;  // statuses are returned at once; nothing is kept here
}
const char* cudaGetErrorName(cudaError_t status) {
    return status == cudaErrorMemoryAllocation ? "cudaErrorMemoryAllocation" : "cudaErrorFake";
}
const char* cudaGetErrorString(cudaError_t status) {
    return status == cudaErrorMemoryAllocation ? "out of memory" : "a fault of the tests";
}
