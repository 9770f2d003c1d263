// What every binding that takes NumPy arrays says of them and asks of them.
#pragma once

#include <pybind11/numpy.h>

#include <algorithm>
#include <cstdint>
#include <initializer_list>
#include <string>

namespace sllmbench {

// NumPy's float16, of which C++20 knows nothing.
struct Half {
    std::uint16_t bits;
};

}  // namespace sllmbench

template <>
struct pybind11::detail::npy_format_descriptor<sllmbench::Half> {
    static constexpr int kFloat16 = 23;  // NPY_HALF
    static pybind11::dtype dtype() { return pybind11::dtype(kFloat16); }
};

namespace sllmbench {

inline std::string describe(const pybind11::array& array) {
    std::string shape;
    for (pybind11::ssize_t i = 0; i < array.ndim(); ++i)
        shape += (i ? ", " : "") + std::to_string(array.shape(i));
    return pybind11::str(array.dtype()).cast<std::string>() + " [" + shape + "]" +
           ((array.flags() & pybind11::array::c_style) ? "" : ", not C-contiguous");
}

// Nothing is converted silently: a copy of the activations would be part of what is measured.
template <class T>
bool is_array(const pybind11::array& array, std::initializer_list<std::int64_t> shape) {
    return pybind11::isinstance<pybind11::array_t<T, pybind11::array::c_style>>(array) &&
           array.ndim() == static_cast<pybind11::ssize_t>(shape.size()) &&
           std::equal(shape.begin(), shape.end(), array.shape());
}

template <class T>
void check_array(const char* what, const char* dtype, const pybind11::array& array,
                 std::initializer_list<std::int64_t> shape) {
    if (is_array<T>(array, shape)) return;
    std::string wanted;
    for (const std::int64_t extent : shape)
        wanted += (wanted.empty() ? "" : ", ") + std::to_string(extent);
    throw pybind11::value_error(std::string(what) + " must be a C-contiguous " + dtype + " [" +
                                wanted + "], not " + describe(array));
}

}  // namespace sllmbench
