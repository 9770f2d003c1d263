// Weights in the order that GPUs read; host code, in every build.
#include <pybind11/stl.h>

#include <optional>
#include <string>
#include <tuple>
#include <utility>

#include "bind.h"
#include "bind_arrays.h"
#include "cuda/pack.h"

namespace py = pybind11;

namespace sllmbench {
namespace {

using Bytes = py::array_t<std::uint8_t>;

std::tuple<py::array, py::array, std::optional<py::array>> pack(
    const py::array& codes, const py::array& scales, const std::optional<py::array>& zeros,
    std::int64_t n, std::int64_t k, int bits, std::int64_t group) {
    if (bits != 4 && bits != 8)
        throw py::value_error("bits must be 4 or 8, not " + std::to_string(bits));
    if (n < 1 || k < 1 || group < 1) throw py::value_error("n, k and group must be at least 1");
    if (bits == 8) {
        if (zeros) throw py::value_error("8-bit weights on a GPU are symmetric");
        check_array<std::int8_t>("codes", "int8", codes, {n, k});
    } else {
        check_array<std::uint8_t>("codes", "uint8", codes, {n, k / 2 + k % 2});
    }
    const cuda::PackedSizes sizes = cuda::packed_sizes(bits, n, k, group);
    check_array<Half>("scales", "float16", scales, {n, sizes.groups});
    if (zeros) check_array<std::uint8_t>("zeros", "uint8", *zeros, {n, sizes.groups});

    const py::array::ShapeContainer shape{sizes.row_blocks, sizes.groups, std::int64_t{16}};
    Bytes tiles(sizes.tile_bytes);
    py::array_t<Half> packed_scales(shape);
    std::optional<Bytes> packed_zeros;
    if (zeros) packed_zeros.emplace(shape);
    const cuda::HostWeight weight{
        bits,
        n,
        k,
        group,
        static_cast<const std::uint8_t*>(codes.data()),
        static_cast<const std::uint16_t*>(scales.data()),
        zeros ? static_cast<const std::uint8_t*>(zeros->data()) : nullptr};
    std::uint8_t* const to_tiles = tiles.mutable_data();
    auto* const to_scales = reinterpret_cast<std::uint16_t*>(packed_scales.mutable_data());
    std::uint8_t* const to_zeros = zeros ? packed_zeros->mutable_data() : nullptr;
    {
        const py::gil_scoped_release released;
        cuda::pack(weight, to_tiles, to_scales, to_zeros);
    }
    std::optional<py::array> told_zeros;
    if (packed_zeros) told_zeros = std::move(*packed_zeros);
    return {std::move(tiles), std::move(packed_scales), std::move(told_zeros)};
}

}  // namespace

void bind_cuda_pack(py::module_& module) {
    module.def("pack_cuda", &pack, py::arg("codes"), py::arg("scales"), py::arg("zeros").none(true),
               py::kw_only(), py::arg("n"), py::arg("k"), py::arg("bits"), py::arg("group"),
               "Tiles uint8 [bytes], scales float16 and zero points uint8 or None, both "
               "[row blocks, groups, 16]: what a GPU is given of a weight.");
}

}  // namespace sllmbench
