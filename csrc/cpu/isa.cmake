# The instruction sets: the only place that names them, their compiler flags and the CPU features
# they need. Features are spelt as in /proc/cpuinfo; isa.cpp checks exactly these at run time.
# Slowest first: the last one that the CPU supports is the default.
#
#    name        | compiler flags | CPU features
set(isa_table_x86_64
    "generic     |                |"
    "avx2        | -mavx2 -mfma -mf16c | avx2 fma f16c"
    "avx512_vnni | -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx512vnni -mavx2 -mfma -mf16c | avx512f avx512bw avx512dq avx512vl avx512_vnni avx2 fma f16c")
set(isa_table_other
    "generic     |                |")

if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64)$")
  set(isa_table ${isa_table_x86_64})
else()
  set(isa_table ${isa_table_other})
endif()

# Each instruction set is an object library of its own, compiled with its flags. Everything else
# keeps the compiler's baseline, so that one wheel runs on every CPU of the architecture.
set(SLLMBENCH_GENERATED_DIR ${CMAKE_CURRENT_BINARY_DIR}/generated)
set(SLLMBENCH_ISA_OBJECTS "")
set(SLLMBENCH_SPECIAL_OBJECTS "")  # those with flags of their own
set(isa_rows "")
foreach(row IN LISTS isa_table)
  string(REPLACE "|" ";" row "${row}")
  list(GET row 0 name)
  list(GET row 1 flags)
  list(GET row 2 features)
  string(STRIP "${name}" name)
  string(STRIP "${features}" features)
  separate_arguments(flags UNIX_COMMAND "${flags}")
  add_library(isa_${name} OBJECT
    csrc/cpu/matmul_exact_${name}.cpp
    csrc/cpu/matmul_int8_${name}.cpp
    csrc/probes/roof_${name}.cpp)
  target_include_directories(isa_${name} PRIVATE csrc)
  target_compile_options(isa_${name} PRIVATE ${flags})
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    # gcc's own intrinsics headers use deliberately uninitialised values (gcc bug 105593).
    target_compile_options(isa_${name} PRIVATE -Wno-uninitialized -Wno-maybe-uninitialized)
  endif()
  list(APPEND SLLMBENCH_ISA_OBJECTS $<TARGET_OBJECTS:isa_${name}>)
  if(flags)
    list(APPEND SLLMBENCH_SPECIAL_OBJECTS $<TARGET_OBJECTS:isa_${name}>)
  endif()
  string(APPEND isa_rows " \\\n  ROW(${name}, \"${features}\")")
endforeach()
file(CONFIGURE OUTPUT ${SLLMBENCH_GENERATED_DIR}/isa_table.h @ONLY CONTENT
"// Generated from csrc/cpu/isa.cmake: ROW(name, \"CPU features\") for each instruction set.
#pragma once
#define SLLMBENCH_ISA_TABLE(ROW)@isa_rows@
")
