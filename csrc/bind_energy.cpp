// Energy counters and NVIDIA's library: check arguments, release the GIL, call.
#include <pybind11/stl.h>

#include <chrono>
#include <cmath>
#include <memory>
#include <string>

#include "bind.h"
#include "probes/nvml.h"
#include "probes/rapl.h"

namespace py = pybind11;

namespace sllmbench {
namespace {

using std::chrono::nanoseconds;
using Released = py::call_guard<py::gil_scoped_release>;

nanoseconds update_period(long long update_ns) {
    if (update_ns <= 0)
        throw py::value_error("update_ns must be more than 0, not " + std::to_string(update_ns));
    return nanoseconds(update_ns);
}

void check_positive(const char* name, double value) {
    if (!(value > 0 && std::isfinite(value)))
        throw py::value_error(std::string(name) + " must be a number above 0, not " +
                              std::to_string(value));
}

std::unique_ptr<CounterWindow> make_counters(double most_watts) {
    check_positive("most_watts", most_watts);
    return std::make_unique<CounterWindow>(most_watts);
}

void add_file(CounterWindow& window, const std::string& name, const std::string& path,
              double joules_per_unit, std::uint64_t range, long long update_ns) {
    check_positive("joules_per_unit", joules_per_unit);
    window.add_file(name, path, joules_per_unit, range, update_period(update_ns));
}

void add_perf(CounterWindow& window, const std::string& name, std::uint32_t type,
              std::uint64_t config, int cpu, double joules_per_unit, long long update_ns) {
    check_positive("joules_per_unit", joules_per_unit);
    window.add_perf(name, type, config, cpu, joules_per_unit, update_period(update_ns));
}

py::list stop_counters(CounterWindow& window) {
    std::vector<CounterReading> readings;
    {
        const py::gil_scoped_release released;
        readings = window.stop();
    }
    py::list result;
    for (const CounterReading& reading : readings) {
        const bool failed = !reading.joules;
        result.append(py::make_tuple(
            reading.name, reading.joules,
            failed ? py::object(py::str(reading.failure.message)) : py::object(py::none()),
            reading.failure.code));
    }
    return result;
}

std::optional<std::int64_t> gpu_update_period(const Nvml& nvml, unsigned gpu, double limit_s) {
    check_positive("limit_s", limit_s);
    const auto limit =
        std::chrono::duration_cast<nanoseconds>(std::chrono::duration<double>(limit_s));
    const py::gil_scoped_release released;
    const auto period = nvml.update_period(gpu, limit);
    return period ? std::optional<std::int64_t>(period->count()) : std::nullopt;
}

py::tuple gpu_state(const Nvml& nvml, unsigned gpu) {
    GpuReading state;
    {
        const py::gil_scoped_release released;
        state = nvml.state(gpu);
    }
    return py::make_tuple(state.sm_clock_hz, state.throttle_reasons, state.temperature_c,
                          state.compute_pids, state.reason);
}

std::unique_ptr<GpuEnergyWindow> make_gpu_window(std::shared_ptr<Nvml> nvml, unsigned gpu,
                                                 long long update_ns) {
    return std::make_unique<GpuEnergyWindow>(std::move(nvml), gpu, update_period(update_ns));
}

py::tuple stop_gpu_window(GpuEnergyWindow& window) {
    GpuEnergy energy;
    {
        const py::gil_scoped_release released;
        energy = window.stop();
    }
    const bool failed = !energy.joules;
    return py::make_tuple(energy.joules, energy.source,
                          failed ? py::object(py::str(energy.reason)) : py::object(py::none()),
                          energy.samples);
}

}  // namespace

void bind_energy(py::module_& module) {
    py::class_<CounterWindow>(module, "CounterWindow",
                              "A window over energy counters that only grow.")
        .def(py::init(&make_counters), py::arg("most_watts"))
        .def("add_file", &add_file, py::arg("name"), py::arg("path"), py::arg("joules_per_unit"),
             py::arg("range"), py::arg("update_ns"),
             "Count what a file holds; `range` units are a whole turn, 0: it never turns over.")
        .def("add_perf", &add_perf, py::arg("name"), py::arg("type"), py::arg("config"),
             py::arg("cpu"), py::arg("joules_per_unit"), py::arg("update_ns"),
             "Count a perf event of the whole system, read on one processor.")
        .def("start", &CounterWindow::start, Released())
        .def("stop", &stop_counters, "(name, joules or None, reason or None, errno) of each.");

    py::class_<Nvml, std::shared_ptr<Nvml>>(module, "Nvml",
                                            "NVIDIA's management library, loaded at run time.")
        .def(py::init<const std::string&>(), py::arg("library") = "libnvidia-ml.so.1")
        .def("count", &Nvml::count, Released())
        .def("name", &Nvml::name, py::arg("gpu"), Released())
        .def("has_energy_counter", &Nvml::has_energy_counter, py::arg("gpu"), Released())
        .def("memory_used_bytes", &Nvml::memory_used_bytes, py::arg("gpu"), Released())
        .def("update_period_ns", &gpu_update_period, py::arg("gpu"), py::arg("limit_s"),
             "How often the energy sensor changes, or None if it did too seldom within the limit.")
        .def("state", &gpu_state, py::arg("gpu"),
             "(SM clock in Hz, throttle reasons, °C, process ids, why something is missing).");

    py::class_<GpuEnergyWindow>(module, "GpuEnergyWindow",
                                "A window over a GPU's energy counter, or over its power.")
        .def(py::init(&make_gpu_window), py::arg("nvml"), py::arg("gpu"), py::arg("update_ns"))
        .def("start", &GpuEnergyWindow::start, Released())
        .def("stop", &stop_gpu_window, "(joules or None, source, reason or None, samples).");
}

}  // namespace sllmbench
