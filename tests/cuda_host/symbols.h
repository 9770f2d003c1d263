// What the object file that this is linked into says of itself (its .symtab, so not stripped).
#pragma once

#include <cstddef>
#include <span>
#include <vector>

namespace cuda_host {

const char* symbol_of(const void* function);  // mangled; aborts where there is none

// The __shared__ arrays: function-local statics without a value, outside of the shim itself.
const std::vector<std::span<std::byte>>& shared_arrays();

}  // namespace cuda_host
