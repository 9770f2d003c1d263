// The CUDA runtime's functions about devices, for a build whose kernels run on tests/cuda_host.
//
// FAKE_CUDA describes the machine, as "name=Tesla T4,sm=75,devices=1":
//   driver     the driver's CUDA version, 13000; 0 is none
//   init       what the first call that needs the driver returns
//   devices    how many there are, 1
//   name, sm   of each of them
//   launch     "N:STATUS": the N-th launch from the start, from 0, returns STATUS
//   set        what cudaSetDevice returns
#pragma once

#include <cstddef>

#include "launches.h"

#define CUDART_VERSION 13000

inline constexpr auto cudaErrorInsufficientDriver = static_cast<cudaError_t>(35);
inline constexpr auto cudaErrorNoDevice = static_cast<cudaError_t>(100);
inline constexpr auto cudaErrorInvalidDevice = static_cast<cudaError_t>(101);

struct cudaDeviceProp {
    char name[256];
    int major, minor;
    std::size_t totalGlobalMem;
};
enum cudaDeviceAttr { cudaDevAttrMultiProcessorCount, cudaDevAttrL2CacheSize };

cudaError_t cudaDriverGetVersion(int* version);
cudaError_t cudaRuntimeGetVersion(int* version);
cudaError_t cudaGetDeviceCount(int* count);
cudaError_t cudaGetDevice(int* index);
cudaError_t cudaSetDevice(int index);
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int index);
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr which, int index);
cudaError_t cudaGetLastError();
const char* cudaGetErrorName(cudaError_t status);
const char* cudaGetErrorString(cudaError_t status);
