// PackedWeights, matmul, instruction sets and threads: check arguments, release the GIL, call.
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "bind.h"
#include "bind_arrays.h"
#include "cpu/isa.h"
#include "cpu/matmul.h"
#include "cpu/openmp.h"
#include "cpu/packed.h"
#include "cpu/pool.h"

namespace py = pybind11;

namespace sllmbench {
namespace {

constexpr const char* kOffsetNames[] = {"symmetric", "zero_point", "minimum"};

Offset parse_offset(const std::string& name) {
    for (int i = 0; i < 3; ++i)
        if (name == kOffsetNames[i]) return static_cast<Offset>(i);
    throw py::value_error("offset must be symmetric, zero_point or minimum, not '" + name + "'");
}

Arithmetic parse_arithmetic(const std::string& name) {
    if (name == "exact") return Arithmetic::exact;
    if (name == "int8") return Arithmetic::int8;
    throw py::value_error("arithmetic must be exact or int8, not '" + name + "'");
}

// An argument that is there exactly when the weights need it.
template <class T>
void check_optional(const char* what, const char* dtype, const std::optional<py::array>& array,
                    const std::string& weights, bool needed,
                    std::initializer_list<std::int64_t> shape) {
    if (array.has_value() != needed)
        throw py::value_error(weights + " weights " + (needed ? "need " : "take no ") + what);
    if (needed) check_array<T>(what, dtype, *array, shape);
}

void check_layout(const Layout& layout, std::int64_t group_size) {
    const int bits = layout.bits;
    if (bits != 4 && bits != 5 && bits != 6 && bits != 8)
        throw py::value_error("bits must be 4, 5, 6 or 8, not " + std::to_string(bits));
    if (bits >= 6 && layout.offset != Offset::symmetric)
        throw py::value_error(std::to_string(bits) + "-bit weights must be symmetric, not " +
                              kOffsetNames[static_cast<int>(layout.offset)]);
    if (group_size < 1)
        throw py::value_error("group_size must be at least 1, not " + std::to_string(group_size));
    if (layout.two_level && layout.offset == Offset::zero_point)
        throw py::value_error("weights with super_scales must be symmetric or minimum");
    if (layout.two_level && kSuperLength % group_size != 0)
        throw py::value_error("with super_scales group_size must divide " +
                              std::to_string(kSuperLength) + ", not be " +
                              std::to_string(group_size));
}

void check_codes(const py::array& codes, int bits, std::int64_t n, std::int64_t k) {
    if (bits == 8) return check_array<std::int8_t>("codes", "int8", codes, {n, k});
    if (bits == 4) return check_array<std::uint8_t>("codes", "uint8", codes, {n, k / 2 + k % 2});
    check_array<std::uint8_t>("codes", "uint8", codes, {n, k});
    const auto* const from = static_cast<const std::uint8_t*>(codes.data());
    const bool too_large = std::any_of(from, from + codes.size(),
                                       [bits](std::uint8_t code) { return code >> bits != 0; });
    if (too_large)
        throw py::value_error("codes of " + std::to_string(bits) + " bits must be below " +
                              std::to_string(1 << bits));
}

// A copy: the array may be misaligned, and others may write to it once the GIL is released.
std::vector<std::int32_t> checked_order(const std::optional<py::array>& order, std::int64_t k) {
    if (!order) return {};
    check_array<std::int32_t>("order", "int32", *order, {k});
    std::vector<bool> seen(static_cast<std::size_t>(k));
    std::vector<std::int32_t> channels(static_cast<std::size_t>(k));
    std::memcpy(channels.data(), order->data(), channels.size() * sizeof channels[0]);
    for (const std::int32_t channel : channels) {
        if (channel < 0 || channel >= k || seen[static_cast<std::size_t>(channel)])
            throw py::value_error("order must hold each of 0.." + std::to_string(k - 1) + " once");
        seen[static_cast<std::size_t>(channel)] = true;
    }
    return channels;
}

PackedWeights pack(const py::array& codes, const py::array& scales,
                   const std::optional<py::array>& offsets, std::int64_t n, std::int64_t k,
                   int bits, std::int64_t group_size, const std::string& offset_name,
                   const std::optional<py::array>& super_scales,
                   const std::optional<py::array>& super_minima,
                   const std::optional<py::array>& order) {
    if (n < 0 || k < 1)
        throw py::value_error("a weight needs n >= 0 and k >= 1, not n = " + std::to_string(n) +
                              ", k = " + std::to_string(k));
    const Layout layout{bits, parse_offset(offset_name), super_scales.has_value()};
    check_layout(layout, group_size);
    check_codes(codes, bits, n, k);
    const std::int64_t groups = (k - 1) / group_size + 1, supers = (k - 1) / kSuperLength + 1;
    const bool minima = layout.offset == Offset::minimum;
    const bool needs_offsets = layout.offset != Offset::symmetric;
    if (layout.two_level) {
        check_array<std::int8_t>("scales", "int8", scales, {n, groups});
        check_array<Half>("super_scales", "float16", *super_scales, {n, supers});
    } else {
        check_array<Half>("scales", "float16", scales, {n, groups});
    }
    if (minima && !layout.two_level)
        check_optional<Half>("offsets", "float16", offsets, offset_name, true, {n, groups});
    else
        check_optional<std::uint8_t>("offsets", "uint8", offsets, offset_name, needs_offsets,
                                     {n, groups});
    check_optional<Half>("super_minima", "float16", super_minima,
                         layout.two_level ? offset_name : "one-level " + offset_name,
                         layout.two_level && minima, {n, supers});
    const std::vector<std::int32_t> channels = checked_order(order, k);
    const auto data = [](const std::optional<py::array>& array) {
        return array ? array->data() : nullptr;
    };
    const SourceWeights source{n,
                               k,
                               group_size,
                               layout,
                               static_cast<const std::uint8_t*>(codes.data()),
                               scales.data(),
                               data(offsets),
                               static_cast<const std::uint16_t*>(data(super_scales)),
                               static_cast<const std::uint16_t*>(data(super_minima)),
                               channels};
    const py::gil_scoped_release released;
    return PackedWeights(source);
}

py::array dequantize_rows(const PackedWeights& weights, const py::array& rows) {
    if (rows.ndim() != 1)
        throw py::value_error("rows must be a C-contiguous int64 [count], not " + describe(rows));
    const std::int64_t count = rows.shape(0);
    check_array<std::int64_t>("rows", "int64", rows, {count});
    // A copy: the array may be misaligned, and others may write to it once the GIL is released.
    std::vector<std::int64_t> row(static_cast<std::size_t>(count));
    if (count > 0) std::memcpy(row.data(), rows.data(), row.size() * sizeof row[0]);
    for (const std::int64_t r : row)
        if (r < 0 || r >= weights.n())
            throw py::value_error("row " + std::to_string(r) + " is not in 0.." +
                                  std::to_string(weights.n() - 1));
    py::array_t<float> out({count, weights.k()});
    float* const to = out.mutable_data();
    const int threads = count < 16 ? 1 : configured_threads();
    const py::gil_scoped_release released;
    pool_run(count, threads, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t i = begin; i < end; ++i)
            weights.dequantize_row(row[static_cast<std::size_t>(i)], to + i * weights.k());
    });
    return out;
}

std::pair<std::string, std::string> multiply(const py::array& x, const PackedWeights& weights,
                                             const py::array& out,
                                             const std::string& arithmetic_name,
                                             const std::optional<std::string>& isa_name,
                                             const std::optional<long long>& threads) {
    const Arithmetic arithmetic = parse_arithmetic(arithmetic_name);
    const Isa& isa = isa_name ? supported_isa(*isa_name) : active_isa();
    if (threads) check_threads(*threads);
    const int used_threads = threads ? static_cast<int>(*threads) : configured_threads();
    if (x.ndim() != 2)
        throw py::value_error("x must be a C-contiguous float32 [m, k], not " + describe(x));
    const std::int64_t m = x.shape(0);
    check_array<float>("x", "float32", x, {m, weights.k()});
    check_array<float>("out", "float32", out, {m, weights.n()});
    if (!out.writeable()) throw py::value_error("out is read-only");
    const auto* const from = static_cast<const float*>(x.data());
    // Not mutable_data(): it repeats the check above with a worse message.
    auto* const to = static_cast<float*>(const_cast<void*>(out.data()));
    const py::gil_scoped_release released;
    const Ran ran = matmul(from, m, weights, to, arithmetic, isa, used_threads);
    return {ran.kernel, ran.isa};
}

#ifdef __OPTIMIZE__
constexpr bool kOptimized = true;
#else
constexpr bool kOptimized = false;
#endif

}  // namespace

void bind_kernels(py::module_& module) {
    module.attr("optimized") = kOptimized;
    py::class_<PackedWeights>(
        module, "PackedWeights",
        "A quantised [n, k] weight in panels of 32 rows, ready for every kernel of this build.")
        .def(py::init(&pack), py::arg("codes"), py::arg("scales"), py::arg("offsets").none(true),
             py::kw_only(), py::arg("n"), py::arg("k"), py::arg("bits"), py::arg("group_size"),
             py::arg("offset"), py::arg("super_scales") = py::none(),
             py::arg("super_minima") = py::none(), py::arg("order") = py::none())
        .def_property_readonly("n", &PackedWeights::n, "Rows, the layer's output features.")
        .def_property_readonly("k", &PackedWeights::k, "Columns, the layer's input features.")
        .def_property_readonly("nbytes", &PackedWeights::nbytes, "Bytes held, padding included.")
        .def("dequantize_rows", &dequantize_rows, py::arg("rows"),
             "float32 [len(rows), k]: the given rows of the weight, rows int64 [count].");
    module.def("matmul", &multiply, py::arg("x"), py::arg("weights"), py::arg("out"), py::kw_only(),
               py::arg("arithmetic") = "int8", py::arg("isa") = py::none(),
               py::arg("threads") = py::none(),
               "out [m, n] = x [m, k] times the weight's transpose; returns the kernel that "
               "ran and whose ISA it is.");
    module.def(
        "compiled_isas",
        [] {
            std::vector<std::string> names;
            for (const Isa& isa : compiled_isas()) names.emplace_back(isa.name);
            return names;
        },
        "Instruction sets of this build, slowest first.");
    module.def(
        "supported_isas",
        [] {
            std::vector<std::string> names;
            for (const Isa& isa : compiled_isas())
                if (unsupported_reason(isa).empty()) names.emplace_back(isa.name);
            return names;
        },
        "Those that this CPU and operating system can run, slowest first.");
    module.def(
        "isa_unsupported_reason",
        [](const std::string& isa) -> std::optional<std::string> {
            const std::string& reason = unsupported_reason(compiled_isa(isa));
            if (reason.empty()) return std::nullopt;
            return reason;
        },
        py::arg("isa"), "Why `isa` cannot run here, None when it can.");
    module.def(
        "active_isa", [] { return std::string(active_isa().name); },
        "The instruction set of calls that name none: $SLLMBENCH_ISA or the best supported.");
    module.def("threads", &configured_threads,
               "Threads of calls that give no number: set_threads, $SLLMBENCH_THREADS or the CPUs "
               "in the affinity mask.");
    module.def(
        "set_threads",
        [](long long threads) {
            check_threads(threads);
            set_configured_threads(static_cast<int>(threads));
        },
        py::arg("threads"), "Set what threads() returns.");
    module.def(
        "share_openmp", &share_openmp,
        "Run from now on on the threads of the GNU OpenMP runtime that this process has loaded, "
        "torch's, so that two pools do not fight for the cores; return whether there is one. Calls "
        "for another number of threads than it has keep their own.");
}

}  // namespace sllmbench
