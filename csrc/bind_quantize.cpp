// The searches of quantisers: check arguments, release the GIL, call.
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <cstdint>
#include <optional>
#include <string>

#include "bind.h"
#include "cpu/pool.h"
#include "quantize/blocks.h"
#include "quantize/gptq.h"

namespace py = pybind11;

namespace sllmbench {
namespace {

template <class T>
using Array = py::array_t<T, py::array::c_style>;

template <class T>
T* checked(const char* what, Array<T>& array, std::int64_t rows, std::int64_t columns) {
    if (array.ndim() != 2 || array.shape(0) != rows || array.shape(1) != columns)
        throw py::value_error(std::string(what) + " must be [" + std::to_string(rows) + ", " +
                              std::to_string(columns) + "]");
    return array.mutable_data();
}

template <class T>
T* checked(const char* what, std::optional<Array<T>>& array, bool needed, std::int64_t rows,
           std::int64_t columns) {
    if (array.has_value() != needed)
        throw py::value_error(std::string("this format ") + (needed ? "needs " : "takes no ") +
                              what);
    return needed ? checked(what, *array, rows, columns) : nullptr;
}

void search(const Array<float>& values, const Array<float>& importance, Array<std::uint8_t> codes,
            Array<std::uint16_t> scales, std::optional<Array<std::uint16_t>> minima,
            std::optional<Array<std::int8_t>> factors,
            std::optional<Array<std::uint8_t>> minimum_factors, int bits, int group_size,
            int factor_max) {
    if (values.ndim() != 2) throw py::value_error("values must be [n, k]");
    const std::int64_t n = values.shape(0), k = values.shape(1);
    const BlockFormat format{bits, group_size, minima.has_value(), factor_max};
    const bool two_level = factor_max > 0;
    if (bits < 2 || bits > 8 || (group_size != 16 && group_size != 32) || factor_max < 0 ||
        factor_max > 127)
        throw py::value_error("bits must be 2 to 8, group_size 16 or 32, factor_max 0 to 127");
    if (k % (two_level ? kSuperValues : group_size) != 0)
        throw py::value_error("k must be in whole blocks, not " + std::to_string(k));
    if (importance.ndim() != 1 || importance.shape(0) != k)
        throw py::value_error("importance must be [" + std::to_string(k) + "]");
    const std::int64_t groups = k / group_size, floats = two_level ? k / kSuperValues : groups;
    const BlockArrays out{
        checked("codes", codes, n, k), checked("scales", scales, n, floats),
        checked("minima", minima, format.minima, n, floats),
        checked("factors", factors, two_level, n, groups),
        checked("minimum_factors", minimum_factors, two_level && format.minima, n, groups)};
    const float* const from = values.data();
    const float* const weights = importance.data();
    const int threads = configured_threads();
    const py::gil_scoped_release released;
    search_blocks(from, weights, n, k, format, out, threads);
}

template <class T>
T* checked(const char* what, Array<T>& array, std::int64_t length) {
    if (array.ndim() != 1 || array.shape(0) != length)
        throw py::value_error(std::string(what) + " must be [" + std::to_string(length) + "]");
    return array.mutable_data();
}

void solve_columns(Array<float> weights, Array<float> targets, Array<float> factor,
                   Array<float> pivots, Array<float> scales, Array<float> zeros,
                   Array<std::int32_t> groups_of, Array<std::uint8_t> codes, Array<float> errors,
                   Array<double> losses, std::int64_t first, int top) {
    if (weights.ndim() != 2 || targets.ndim() != 2 || scales.ndim() != 2)
        throw py::value_error("weights, targets and scales must be matrices");
    const std::int64_t n = weights.shape(0), k = weights.shape(1), count = targets.shape(1);
    const std::int64_t groups = scales.shape(1);
    if (first < 0 || count < 1 || count > kMostGptqColumns || first + count > k)
        throw py::value_error(
            "first and the targets' columns must lie within the weights, at most " +
            std::to_string(kMostGptqColumns) + " at a time");
    if (top < 1 || top > 255) throw py::value_error("top must be 1 to 255");
    const GptqColumns job{n,
                          k,
                          first,
                          count,
                          groups,
                          weights.data(),
                          checked("targets", targets, n, count),
                          checked("factor", factor, k, k),
                          checked("pivots", pivots, k),
                          scales.data(),
                          checked("zeros", zeros, n, groups),
                          checked("groups_of", groups_of, count),
                          static_cast<float>(top),
                          checked("codes", codes, n, k),
                          checked("errors", errors, n, k),
                          checked("losses", losses, n)};
    if (std::any_of(job.groups_of, job.groups_of + count,
                    [&](std::int32_t group) { return group < 0 || group >= groups; }))
        throw py::value_error("groups_of must lie within the scales' groups");
    const int threads = configured_threads();
    const py::gil_scoped_release released;
    gptq_columns(job, threads);
}

}  // namespace

void bind_quantize(py::module_& module) {
    module.def(
        "search_blocks", &search, py::arg("values").noconvert(), py::arg("importance").noconvert(),
        py::arg("codes").noconvert(), py::arg("scales").noconvert(), py::kw_only(),
        py::arg("minima").noconvert() = py::none(), py::arg("factors").noconvert() = py::none(),
        py::arg("minimum_factors").noconvert() = py::none(), py::arg("bits"), py::arg("group_size"),
        py::arg("factor_max") = 0,
        "Fills the arrays of GGUF blocks with codes, scales and minima for values [n, k] "
        "that have a small squared error, each square times its column's importance.");
    module.def("gptq_columns", &solve_columns, py::arg("weights").noconvert(),
               py::arg("targets").noconvert(), py::arg("factor").noconvert(),
               py::arg("pivots").noconvert(), py::arg("scales").noconvert(),
               py::arg("zeros").noconvert(), py::arg("groups_of").noconvert(),
               py::arg("codes").noconvert(), py::arg("errors").noconvert(),
               py::arg("losses").noconvert(), py::kw_only(), py::arg("first"), py::arg("top"),
               "Rounds columns of weights [n, k] in turn, from `first` on as many as targets [n, "
               "count] has, each to make up for the errors of those before it; fills codes and "
               "errors [n, k] and adds to losses [n].");
}

}  // namespace sllmbench
