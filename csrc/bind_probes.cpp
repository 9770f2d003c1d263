// Measured roofs, clocks and what disturbs them: check arguments, release the GIL, call.
#include <pybind11/stl.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <string>

#include "bind.h"
#include "cpu/isa.h"
#include "cpu/pool.h"
#include "probes/clock.h"
#include "probes/cuda_events.h"
#include "probes/evict.h"
#include "probes/interference.h"
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

constexpr double kCalibrationSeconds = 0.01;

std::unique_ptr<Clock> make_clock(const std::string& name, const std::string& sys,
                                  std::uintptr_t stream) {
    if (name == "monotonic") return monotonic_clock();
    if (name == "cuda_event") return cuda_event_clock(stream);
    if (name != "tsc")
        throw py::value_error("a clock is called monotonic, tsc or cuda_event, not '" + name + "'");
    const py::gil_scoped_release released;
    return tsc_clock(sys, kCalibrationSeconds);
}

// Calls without a Python loop in between. The tuple keeps the functions alive meanwhile.
double time_batch(Clock& clock, const py::object& calls, py::ssize_t count, py::ssize_t first) {
    const py::tuple walked =
        PyCallable_Check(calls.ptr()) ? py::make_tuple(calls) : py::tuple(calls);
    const auto size = static_cast<py::ssize_t>(walked.size());
    if (size == 0) throw py::value_error("there is nothing to call");
    if (count < 1) throw py::value_error("count must be at least 1, not " + std::to_string(count));
    if (first < 0) throw py::value_error("first must not be negative");
    py::ssize_t next = first % size;
    const std::uint64_t start = clock.read();
    for (py::ssize_t i = 0; i < count; ++i) {
        PyObject* const result = PyObject_CallNoArgs(PyTuple_GET_ITEM(walked.ptr(), next));
        if (result == nullptr) throw py::error_already_set();
        Py_DECREF(result);
        if (++next == size) next = 0;
    }
    const std::uint64_t end = clock.read();
    if (PyErr_CheckSignals() != 0) throw py::error_already_set();
    return clock.between_ns(start, end);
}

PyObject* do_nothing(PyObject*, PyObject*) {
    Py_RETURN_NONE;
}

// What the loop adds to a call: the least time of an empty function in C.
double call_cost_ns(Clock& clock) {
    static PyMethodDef nothing = {"nothing", do_nothing, METH_NOARGS, nullptr};
    const auto function = py::reinterpret_steal<py::object>(PyCFunction_New(&nothing, nullptr));
    if (!function) throw py::error_already_set();
    double least = std::numeric_limits<double>::infinity();
    for (int round = 0; round < 9; ++round)
        least = std::min(least, time_batch(clock, function, 1000, 0) / 1000);
    return least;
}

py::dict happened(const InterferenceProbe& probe, const Snapshot& before, const Snapshot& after) {
    const Happened it = probe.between(before, after);
    py::dict fields;
    fields["window_ns"] = it.window_ns;
    fields["wait_ns"] = it.wait_ns;
    fields["steal_ns"] = it.steal_ns;
    fields["foreign_cpu_ns"] = it.foreign_cpu_ns;
    fields["involuntary_switches"] = it.involuntary_switches;
    fields["migrations"] = it.migrations;
    fields["minor_faults"] = it.minor_faults;
    fields["major_faults"] = it.major_faults;
    fields["core_hz"] = after.core_hz;
    fields["temperature_c"] = after.temperature_c;
    return fields;
}

void bind_clocks(py::module_& module) {
    py::class_<Clock>(module, "Clock",
                      "CLOCK_MONOTONIC, the time stamp counter or a CUDA stream's events, with its "
                      "measured cost.")
        .def(py::init(&make_clock), py::arg("name"), py::kw_only(), py::arg("sys") = "/sys",
             py::arg("stream") = 0)
        .def_property_readonly("name", &Clock::name)
        .def_property_readonly("cost_ns", &Clock::cost_ns)
        .def_property_readonly("resolution_ns", &Clock::resolution_ns)
        .def_property_readonly("rate_uncertainty", &Clock::rate_uncertainty)
        .def("time_batch", &time_batch, py::arg("calls"), py::arg("count"), py::arg("first") = 0,
             "Nanoseconds of `count` calls in a row, of one function or of a sequence of them in "
             "turn, beginning with number `first`.")
        .def("call_cost_ns", &call_cost_ns,
             "What calling an empty function takes in `time_batch`.");
    module.def(
        "tsc_unsupported_reason",
        [](const std::string& sys) {
            const std::string reason = tsc_unsupported(sys);
            return reason.empty() ? py::object(py::none()) : py::object(py::str(reason));
        },
        py::arg("sys") = "/sys");
}

void bind_interference(py::module_& module) {
    py::class_<Snapshot>(module, "Snapshot", "Counters of the kernel at one moment.")
        .def_readonly("at_ns", &Snapshot::at_ns);
    py::class_<InterferenceProbe>(module, "InterferenceProbe",
                                  "Reads what else happens on the machine.")
        .def(py::init<std::string, std::string>(), py::kw_only(), py::arg("proc") = "/proc",
             py::arg("sys") = "/sys")
        .def("take", &InterferenceProbe::take, py::arg("with_core_hz") = false)
        .def("between", &happened, py::arg("before"), py::arg("after"))
        .def_property_readonly("reasons", &InterferenceProbe::reasons)
        .def_property_readonly("tick_ns", &InterferenceProbe::tick_ns)
        .def_property_readonly("processors", &InterferenceProbe::processors);
    module.def("evict", &evict_caches, py::arg("bytes"),
               "Walk through as many bytes on every configured thread, so that what the caches "
               "held is gone.");
}

}  // namespace

void bind_probes(py::module_& module) {
    bind_clocks(module);
    bind_interference(module);
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
