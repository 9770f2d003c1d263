// Measured roofs: check arguments, release the GIL, call.
#include <cmath>
#include <string>

#include "bind.h"
#include "cpu/isa.h"
#include "cpu/pool.h"
#include "probes/roof.h"

namespace py = pybind11;

namespace sllmbench {
namespace {

void check_seconds(double seconds) {
    if (!(seconds > 0 && seconds <= 60))
        throw py::value_error("seconds must be more than 0 and at most 60, not " +
                              std::to_string(seconds));
}

double bandwidth(std::int64_t bytes, long long threads, double seconds) {
    check_threads(threads);
    check_seconds(seconds);
    if (bytes < 4096 * threads)
        throw py::value_error("bytes must be at least 4096 a thread, not " + std::to_string(bytes));
    const py::gil_scoped_release released;
    return read_bandwidth_gbs(static_cast<std::size_t>(bytes), static_cast<int>(threads), seconds);
}

double peak(const std::string& kind, const std::string& isa_name, long long threads,
            double seconds) {
    if (kind != "int8" && kind != "fp32")
        throw py::value_error("kind must be int8 or fp32, not '" + kind + "'");
    check_threads(threads);
    check_seconds(seconds);
    const Isa& isa = supported_isa(isa_name);
    const py::gil_scoped_release released;
    return peak_gops(kind == "int8" ? RoofKind::int8 : RoofKind::fp32, isa,
                     static_cast<int>(threads), seconds);
}

}  // namespace

void bind_probes(py::module_& module) {
    module.def("read_bandwidth_gbs", &bandwidth, py::arg("bytes"), py::arg("threads"),
               py::arg("seconds"),
               "GB/s at which `threads` threads together read `bytes` bytes, split among them, "
               "over and over for `seconds`.");
    module.def("peak_gops", &peak, py::arg("kind"), py::arg("isa"), py::arg("threads"),
               py::arg("seconds"),
               "1e9 operations/s (a multiply-add is two) that `threads` threads together reach "
               "from registers with `isa`.");
}

}  // namespace sllmbench
