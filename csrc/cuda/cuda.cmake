# Decides whether the extension has CUDA kernels, and which architectures they are for.
set(SLLMBENCH_CUDA "AUTO" CACHE STRING "CUDA kernels: AUTO (if nvcc is found), ON or OFF")
set_property(CACHE SLLMBENCH_CUDA PROPERTY STRINGS AUTO ON OFF)

set(SLLMBENCH_CUDA_KERNELS
  csrc/cuda/activations.cu
  csrc/cuda/decode_w4a16.cu
  csrc/cuda/decode_w8a16.cu
  csrc/cuda/decode_w8a8.cu
  csrc/cuda/dequantize.cu
  csrc/cuda/partials.cu
  csrc/cuda/prefill_w4a16.cu
  csrc/cuda/prefill_w8a16.cu
  csrc/cuda/prefill_w8a8.cu
  csrc/cuda/rope.cu)
# What chooses and launches them.
set(SLLMBENCH_CUDA_LAUNCHERS csrc/cuda/decode.cpp csrc/cuda/prefill.cpp csrc/cuda/select.cpp)
set(SLLMBENCH_CUDA_HOST_SOURCES
  csrc/bind_cuda.cpp csrc/bind_cuda_rope.cpp csrc/cuda/facts.cpp ${SLLMBENCH_CUDA_LAUNCHERS})

set(SLLMBENCH_CUDA_SOURCES csrc/bind_cuda_absent.cpp)
set(SLLMBENCH_CUDA_LIBRARIES "")
if(SLLMBENCH_CUDA_EMULATION)
  include(tests/cuda/emulation.cmake)
  return()
elseif(SLLMBENCH_CUDA STREQUAL "OFF")
  message(STATUS "CUDA kernels: off")
  return()
elseif(NOT SLLMBENCH_CUDA MATCHES "^(AUTO|ON)$")
  message(FATAL_ERROR "SLLMBENCH_CUDA is AUTO, ON or OFF, not ${SLLMBENCH_CUDA}")
endif()

include(CheckLanguage)
check_language(CUDA)
if(NOT CMAKE_CUDA_COMPILER)
  if(SLLMBENCH_CUDA STREQUAL "ON")
    message(FATAL_ERROR
      "SLLMBENCH_CUDA=ON, and no nvcc works here: install the CUDA toolkit (12.0 or later) and put "
      "its bin folder on PATH, or name nvcc with CUDACXX; AUTO builds without CUDA")
  endif()
  message(STATUS "CUDA kernels: off, because no nvcc is found")
  return()
endif()

# Turing (T4) to Hopper, each compiled for real; later devices compile the PTX when they start.
if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
  set(CMAKE_CUDA_ARCHITECTURES 75-real 80-real 86-real 89-real 90)
endif()
# A later device would compile Turing's PTX, which lacks the stages that such a device is given.
foreach(architecture IN LISTS CMAKE_CUDA_ARCHITECTURES)
  if(architecture MATCHES "^7[0-9](-virtual)?$")
    message(FATAL_ERROR "CMAKE_CUDA_ARCHITECTURES=${architecture} would keep PTX that later devices "
      "cannot use; write 75-real")
  endif()
endforeach()
enable_language(CUDA)
find_package(CUDAToolkit 12.0 REQUIRED)
set(CMAKE_CUDA_STANDARD 20)
set(CMAKE_CUDA_STANDARD_REQUIRED ON)
set(CMAKE_CUDA_EXTENSIONS OFF)
set(CMAKE_CUDA_VISIBILITY_PRESET hidden)
set(CMAKE_CUDA_FLAGS_RELEASE "-O3")

add_library(sllmbench_cuda OBJECT ${SLLMBENCH_CUDA_KERNELS})
target_include_directories(sllmbench_cuda PRIVATE csrc)
target_compile_options(sllmbench_cuda PRIVATE -Xcompiler=-Wall,-Wextra)
if(SLLMBENCH_WERROR)
  target_compile_options(sllmbench_cuda PRIVATE -Werror=all-warnings)
endif()

set(SLLMBENCH_CUDA_SOURCES ${SLLMBENCH_CUDA_HOST_SOURCES} $<TARGET_OBJECTS:sllmbench_cuda>)
# Static: the extension then loads on a machine without CUDA, and does not care which torch has.
set(SLLMBENCH_CUDA_LIBRARIES CUDA::cudart_static)
list(JOIN CMAKE_CUDA_ARCHITECTURES " " SLLMBENCH_CUDA_NAMES)
message(STATUS "CUDA kernels: nvcc ${CMAKE_CUDA_COMPILER_VERSION}, for ${SLLMBENCH_CUDA_NAMES}")
