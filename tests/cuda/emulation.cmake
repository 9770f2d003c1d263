# For tests: the same bindings and kernels without nvcc and without a GPU. The kernels run on
# tests/cuda_host, thread by thread, in the CPU's memory.
file(GLOB SLLMBENCH_SHIM CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/tests/cuda_host/*.cpp)
add_library(sllmbench_cuda OBJECT
  ${SLLMBENCH_CUDA_HOST_SOURCES} ${SLLMBENCH_CUDA_KERNELS} ${SLLMBENCH_SHIM}
  tests/cuda/runtime/fake_runtime.cpp)
set_source_files_properties(${SLLMBENCH_CUDA_KERNELS} PROPERTIES LANGUAGE CXX)
target_include_directories(sllmbench_cuda PRIVATE csrc tests/cuda/runtime tests/cuda_host)
target_compile_definitions(sllmbench_cuda PRIVATE SLLMBENCH_CUDA_HOST SLLMBENCH_CUDA_EMULATION)
target_link_libraries(sllmbench_cuda PRIVATE pybind11::module)
# Without those warnings that nvcc's dialect does not know.
target_compile_options(sllmbench_cuda PRIVATE
  -O2 -mf16c -mfma -fno-strict-aliasing -fno-gnu-unique -Wno-pedantic -Wno-shadow
  -Wno-unknown-pragmas)
set(SLLMBENCH_CUDA_SOURCES $<TARGET_OBJECTS:sllmbench_cuda>)
message(STATUS "CUDA kernels: emulated on the CPU, for tests")
