# The instruction sets: the only place that names them, their compiler flags and the CPU features
# they need. Features are spelt as in /proc/cpuinfo; isa.cpp checks exactly these at run time.
# Slowest first: the last one that the CPU supports is the default.
# A level has int8 kernels and roofs of its own; its exact kernels, and the quantisers' loops, may be
# another's.
set(avx2_flags "-mavx2 -mfma -mf16c")
set(avx512_flags "-mavx512f -mavx512bw -mavx512dq -mavx512vl ${avx2_flags}")
set(avx2_features "avx2 fma f16c")
set(avx512_features "avx512f avx512bw avx512dq avx512vl ${avx2_features}")
#
#    name        | exact kernels of | compiler flags | CPU features
set(isa_table_x86_64
    "generic     | generic |                |"
    "avx2        | avx2    | ${avx2_flags}  | ${avx2_features}"
    "avx512      | avx512  | ${avx512_flags} | ${avx512_features}"
    "avx512_vnni | avx512  | ${avx512_flags} -mavx512vnni | ${avx512_features} avx512_vnni"
    "amx_int8    | avx512  | ${avx512_flags} -mamx-tile -mamx-int8 | ${avx512_features} avx512_vnni amx_tile amx_int8")
set(isa_table_other
    "generic     | generic |                |")

if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64)$")
  set(isa_table ${isa_table_x86_64})
  set(SLLMBENCH_PROCESSOR_SOURCES csrc/cpu/amx_probe.cpp)
  if(SLLMBENCH_AMX_EMULATION)
    list(APPEND SLLMBENCH_PROCESSOR_SOURCES
      tests/amx_emulator/emulator.cpp tests/amx_emulator/processor.cpp)
  else()
    list(APPEND SLLMBENCH_PROCESSOR_SOURCES csrc/cpu/processor.cpp)
  endif()
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
  list(GET row 1 exact_of)
  list(GET row 2 flags)
  list(GET row 3 features)
  string(STRIP "${name}" name)
  string(STRIP "${exact_of}" exact_of)
  string(STRIP "${features}" features)
  separate_arguments(flags UNIX_COMMAND "${flags}")
  set(sources csrc/cpu/matmul_int8_${name}.cpp csrc/probes/roof_${name}.cpp)
  if(exact_of STREQUAL name)
    list(APPEND sources csrc/cpu/matmul_exact_${name}.cpp csrc/quantize/gptq_rows_${name}.cpp)
  endif()
  add_library(isa_${name} OBJECT ${sources})
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
  string(APPEND isa_rows " \\\n  ROW(${name}, ${exact_of}, \"${features}\")")
endforeach()
file(CONFIGURE OUTPUT ${SLLMBENCH_GENERATED_DIR}/isa_table.h @ONLY CONTENT
"// Generated from csrc/cpu/isa.cmake: ROW(name, whose exact kernels, \"CPU features\") for each instruction set.
#pragma once
#define SLLMBENCH_ISA_TABLE(ROW)@isa_rows@
")
