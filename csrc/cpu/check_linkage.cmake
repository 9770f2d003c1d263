# Fails when an object that is compiled for one instruction set defines a weak symbol.
#
# An inline function or template with external linkage (anything instantiated from std::) is emitted
# into every object that uses it, and the linker keeps one copy for all: if it kept the AVX-512 one,
# the module would die on a CPU without AVX-512, in code that has nothing to do with the kernels.
foreach(object IN LISTS OBJECTS)
  execute_process(COMMAND ${NM} --defined-only ${object} OUTPUT_VARIABLE symbols
                  COMMAND_ERROR_IS_FATAL ANY)
  string(REGEX MATCHALL "[^\n]* [WVuv] [^\n]*" weak "${symbols}")
  if(weak)
    message(FATAL_ERROR "${object} exports inline functions compiled for its ISA:\n${weak}")
  endif()
endforeach()
