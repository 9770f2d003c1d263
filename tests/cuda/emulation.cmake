# For tests: the same bindings and kernels without nvcc and without a GPU. The kernels run on
# tests/cuda_host, thread by thread, in the CPU's memory.
#
# A library of its own: the shim takes every static variable of a function in its own file for an
# array in __shared__ memory, and fills it with garbage between two blocks.
file(GLOB SLLMBENCH_SHIM CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/tests/cuda_host/*.cpp)
add_library(sllmbench_cuda SHARED
  ${SLLMBENCH_CUDA_LAUNCHERS} ${SLLMBENCH_CUDA_KERNELS} ${SLLMBENCH_SHIM}
  tests/cuda/runtime/fake_runtime.cpp)
set_source_files_properties(${SLLMBENCH_CUDA_KERNELS} PROPERTIES LANGUAGE CXX)
set_target_properties(sllmbench_cuda PROPERTIES CXX_VISIBILITY_PRESET default)
target_include_directories(sllmbench_cuda PUBLIC csrc tests/cuda/runtime tests/cuda_host)
target_compile_definitions(sllmbench_cuda PUBLIC SLLMBENCH_CUDA_HOST SLLMBENCH_CUDA_EMULATION)
target_link_libraries(sllmbench_cuda PRIVATE ${CMAKE_DL_LIBS})
install(TARGETS sllmbench_cuda LIBRARY DESTINATION sllmbench)
set(CMAKE_INSTALL_RPATH "$ORIGIN")

# Without those warnings that nvcc's dialect does not know.
set(SLLMBENCH_SHIM_OPTIONS -mf16c -mfma -fno-strict-aliasing -fno-gnu-unique -Wno-pedantic
  -Wno-shadow -Wno-unknown-pragmas)
target_compile_options(sllmbench_cuda PRIVATE -O2 ${SLLMBENCH_SHIM_OPTIONS})
set(SLLMBENCH_CUDA_SOURCES csrc/bind_cuda.cpp csrc/bind_cuda_rope.cpp csrc/cuda/facts.cpp)
set_source_files_properties(${SLLMBENCH_CUDA_SOURCES} PROPERTIES
  COMPILE_OPTIONS "${SLLMBENCH_SHIM_OPTIONS}")
set(SLLMBENCH_CUDA_LIBRARIES sllmbench_cuda)
message(STATUS "CUDA kernels: emulated on the CPU, for tests")
