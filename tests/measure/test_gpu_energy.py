"""Energy and state of GPUs that a library of our own stands for."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from importlib import util
from typing import TYPE_CHECKING, Any

import pytest

from sllmbench import _native
from sllmbench.measure.energy import LEAST_UPDATES, EnergyProbe, EnergyWindow
from sllmbench.measure.sensors import gpu_state

if TYPE_CHECKING:
    from collections.abc import Callable

    from sllmbench.hardware.roots import Roots

POWER_W = 42.0


def measure(
    nvml: Any,
    roots: Roots,
    change: Callable[[], object] = lambda: None,
    *,
    seconds: float = 0.25,
    device: str = "cuda",
) -> EnergyWindow:
    """A window as long as asked; roots are empty, so that the GPU is all there is."""
    with EnergyProbe(device, idle_s=0, roots=roots, nvml_library=nvml.library) as window:
        change()
        time.sleep(seconds)
    return window


def assert_refused(window: EnergyWindow, *parts: str) -> None:
    assert window.energy_j is window.source is window.uncertainty_j is None
    assert window.reason is not None
    for part in parts:
        assert part in window.reason


def test_the_counter_is_read_to_the_millijoule(nvml: Any, roots: Roots) -> None:
    probe = EnergyProbe("cuda", idle_s=0, roots=roots, nvml_library=nvml.library)
    nvml.set(energy_mj=5_000_000_123)
    with probe as window:
        nvml.set(energy_mj=5_000_012_468)
        time.sleep(probe.shortest_ns / 1e9)
    assert window.energy_j == pytest.approx(12.345, rel=1e-12)
    assert window.domains_j == {"gpu-0": window.energy_j}
    assert window.reason is None
    assert window.source is not None
    assert window.source.startswith(
        "NVML energy counter of GPU 0 (Tesla T4), idle power included; without the processor (no "
    )
    assert window.window_ns is not None
    assert window.update_period_ns is not None
    assert window.uncertainty_j == pytest.approx(
        12.345 * window.update_period_ns / window.window_ns + 1e-3
    )


def test_a_period_is_measured_not_assumed(nvml: Any, roots: Roots) -> None:
    nvml.set(period_ms=20)
    probe = EnergyProbe("cuda:0", idle_s=0, roots=roots, nvml_library=nvml.library)
    assert probe.shortest_ns / LEAST_UPDATES == pytest.approx(20e6, rel=0.25)
    with probe as window:
        time.sleep(0.05)
    assert_refused(window, "too short", "measure_energy repeats")
    with probe as window:
        time.sleep(probe.shortest_ns / 1e9)
    assert window.window_ns is not None
    assert window.energy_j == pytest.approx(
        POWER_W * window.window_ns / 1e9, abs=window.uncertainty_j
    )


def test_a_sensor_that_never_changes_has_its_period_assumed(nvml: Any, roots: Roots) -> None:
    nvml.set(counter=0)
    window = measure(nvml, roots, seconds=2.1)
    assert window.update_period_ns == 100_000_000
    assert window.source is not None
    assert "update period assumed" in window.source


@pytest.mark.parametrize("sample_ms", [0, 10])
def test_constant_power_is_no_zero(nvml: Any, sample_ms: int) -> None:
    nvml.set(counter=0, sample_ms=sample_ms)
    window = _native.GpuEnergyWindow(_native.Nvml(nvml.library), 0, 10_000_000)
    window.start()
    start_s = time.monotonic()
    time.sleep(0.3)
    inner_s = time.monotonic() - start_s
    joules, source, reason, samples = window.stop()
    outer_s = time.monotonic() - start_s
    assert reason is None
    assert joules is not None
    assert 0.999 * POWER_W * inner_s <= joules <= 1.001 * POWER_W * (outer_s + 0.005)
    assert ("of the driver" in source) == (sample_ms > 0)
    assert samples >= 10


# So few readings that rectangles in the place of trapezoids would be far off.
@pytest.mark.parametrize(("sample_ms", "update_ms"), [(0, 400), (10, 10)])
def test_rising_power_is_integrated(nvml: Any, sample_ms: int, update_ms: int) -> None:
    t0_ns = time.monotonic_ns()
    nvml.set(counter=0, sample_ms=sample_ms, power_mw=20_000, ramp_mw_per_s=50_000, t0_ns=t0_ns)
    window = _native.GpuEnergyWindow(_native.Nvml(nvml.library), 0, update_ms * 1_000_000)
    window.start()
    first_s = (time.monotonic_ns() - t0_ns) / 1e9
    time.sleep(1.0)
    last_s = (time.monotonic_ns() - t0_ns) / 1e9
    joules, _, reason, _ = window.stop()
    assert reason is None
    expected = 20 * (last_s - first_s) + 25 * (last_s**2 - first_s**2)
    assert joules == pytest.approx(expected, rel=0.02)
    assert joules != pytest.approx(20 * (last_s - first_s), rel=0.5)


@pytest.mark.parametrize("counter", [0, 1])
@pytest.mark.parametrize("code", [15, 4, 999])
def test_a_gpu_that_vanishes_within_the_window_gives_a_reason(
    nvml: Any, roots: Roots, counter: int, code: int
) -> None:
    nvml.set(counter=counter, sample_ms=0 if counter else 5)
    failing = "TotalEnergyConsumption" if counter else "PowerUsage"
    change = {"lost": 1} if code == 15 else {f"fail__nvmlDeviceGet{failing}": code}
    window = measure(nvml, roots, lambda: nvml.set(**change))
    says = {15: "GPU is lost", 4: "Insufficient Permissions", 999: "Unknown Error"}[code]
    assert_refused(window, "GPU 0 (Tesla", f"nvmlDeviceGet{failing}: {says}")


def test_a_gpu_that_comes_back_leaves_no_hole_in_the_integral(nvml: Any, roots: Roots) -> None:
    nvml.set(counter=0, sample_ms=5)

    def flicker() -> None:
        nvml.set(lost=1)
        time.sleep(0.1)
        nvml.set(lost=0)

    assert_refused(measure(nvml, roots, flicker), "GPU is lost")


@pytest.mark.parametrize(("after", "says"), [(1000, "reset"), (500_000, "did not move")])
def test_a_counter_that_went_wrong_is_refused(
    nvml: Any, roots: Roots, after: int, says: str
) -> None:
    probe = EnergyProbe("cuda", idle_s=0, roots=roots, nvml_library=nvml.library)
    nvml.set(energy_mj=500_000)
    with probe as window:
        nvml.set(energy_mj=after)
        time.sleep(probe.shortest_ns / 1e9)
    assert_refused(window, says)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"init": 9}, "Driver Not Loaded"),
        ({"gpus": 0}, "sees no GPU"),
        ({"lost": 1}, "GPU is lost"),
        ({"counter": 0, "fail__nvmlDeviceGetPowerUsage": 3}, "Not Supported"),
    ],
)
def test_a_driver_without_a_sensor_gives_a_reason(
    nvml: Any, roots: Roots, values: dict[str, int], says: str
) -> None:
    nvml.set(**values)
    assert_refused(measure(nvml, roots), says, "remedy: ")


def test_without_a_library_there_is_a_reason(roots: Roots) -> None:
    with EnergyProbe("cuda", roots=roots, nvml_library="/nowhere/libnvidia-ml.so.1") as window:
        pass
    assert_refused(window, "no NVIDIA driver: ", "/nowhere", "remedy: install")


def test_gpus_are_told_apart_and_added_to_the_processor(
    nvml: Any, roots: Roots, write: Callable[..., Any]
) -> None:
    zone = roots.sys / "class/powercap/intel-rapl:0"
    write(zone / "name", "package-0")
    write(zone / "max_energy_range_uj", "262143328850")
    write(zone / "energy_uj", "5")
    nvml.set(gpus=2)
    probe = EnergyProbe("cuda", idle_s=0, roots=roots, nvml_library=nvml.library)
    nvml.set(energy_mj=1000, energy_mj__1=77_000)
    with probe as window:
        nvml.set(energy_mj=3000, energy_mj__1=80_500)
        write(zone / "energy_uj", "250005")
        time.sleep(max(0.05, probe.shortest_ns / 1e9))
    assert window.domains_j == pytest.approx({"package-0": 0.25, "gpu-0": 2, "gpu-1": 3.5})
    assert window.energy_j == pytest.approx(5.75)
    assert window.source is not None
    assert "without" not in window.source
    second = measure(nvml, roots, lambda: nvml.set(energy_mj__1=80_600), device="cuda:1")
    assert "package-0's counter did not move" in str(second.reason)
    assert_refused(measure(nvml, roots, device="cuda:7"), "GPU 7", "Invalid Argument")


def test_the_state_of_a_gpu(nvml: Any) -> None:
    nvml.set(clock_mhz=585, reasons=0x24, temperature_c=83, pids=1, first_pid=os.getpid())
    state, reason = gpu_state(library=nvml.library)
    assert reason is None
    assert state is not None
    assert state.sm_clock_hz == 585e6
    assert state.throttle_reasons == ("sw_power_cap", "sw_thermal_slowdown")
    assert state.temperature_c == 83
    assert state.foreign_processes == 0
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        nvml.set(first_pid=other.pid)
        state, _ = gpu_state(library=nvml.library)
        assert state is not None
        assert state.foreign_processes == 1
        other.communicate(b"\n")


def test_processes_of_another_namespace_cannot_be_told_from_this_one(nvml: Any) -> None:
    nvml.set(pids=3, first_pid=4_194_304 + 10)  # beyond what the kernel gives
    state, reason = gpu_state(library=nvml.library)
    assert state is not None
    assert state.foreign_processes is None
    assert reason is not None
    assert "namespace" in reason


def test_what_a_driver_does_not_tell_is_none(nvml: Any) -> None:
    for name in ("ClockInfo", "CurrentClocksEventReasons", "Temperature"):
        nvml.set(**{f"fail__nvmlDeviceGet{name}": 3})
    nvml.set(fail__nvmlDeviceGetComputeRunningProcesses_v3=4)
    state, reason = gpu_state(library=nvml.library)
    assert state is not None
    assert set(state.model_dump().values()) == {None}
    assert reason == "nvmlDeviceGetClockInfo: Not Supported"
    nvml.set(lost=1)
    assert gpu_state(5, library=nvml.library)[0] is None


def test_the_probe_says_what_nvidias_own_bindings_say(nvml: Any) -> None:
    nvml.set(clock_mhz=1110, reasons=0x8C, temperature_c=55, used_mib=1234, energy_mj=987_654_321)
    code = """
import json, pynvml
from sllmbench import _native
pynvml.nvmlInit()
gpu = pynvml.nvmlDeviceGetHandleByIndex(0)
ours = _native.Nvml()
clock_hz, reasons, temperature_c, pids, _ = ours.state(0)
bits = pynvml.nvmlDeviceGetCurrentClocksEventReasons(gpu)
names = {"SwPowerCap": "sw_power_cap", "HwSlowdown": "hw_slowdown",
         "HwPowerBrakeSlowdown": "hw_power_brake_slowdown", "GpuIdle": "gpu_idle",
         "SwThermalSlowdown": "sw_thermal_slowdown", "HwThermalSlowdown": "hw_thermal_slowdown",
         "SyncBoost": "sync_boost", "ApplicationsClocksSetting": "applications_clocks_setting",
         "DisplayClockSetting": "display_clock_setting"}
window = _native.GpuEnergyWindow(ours, 0, 1_000_000)
window.start()
print(json.dumps([
    [ours.count(), ours.name(0), clock_hz, temperature_c, sorted(reasons),
     ours.memory_used_bytes(0), pids],
    [pynvml.nvmlDeviceGetCount(), pynvml.nvmlDeviceGetName(gpu),
     1e6 * pynvml.nvmlDeviceGetClockInfo(gpu, pynvml.NVML_CLOCK_SM),
     pynvml.nvmlDeviceGetTemperature(gpu, pynvml.NVML_TEMPERATURE_GPU),
     sorted(name for key, name in names.items()
            if bits & getattr(pynvml, "nvmlClocksEventReason" + key)),
     pynvml.nvmlDeviceGetMemoryInfo(gpu).used,
     [p.pid for p in pynvml.nvmlDeviceGetComputeRunningProcesses(gpu)]],
]))
"""
    ours, theirs = json.loads(nvml.run(code))
    assert ours == theirs
    assert ours[4] == ["hw_power_brake_slowdown", "hw_slowdown", "sw_power_cap"]


@pytest.mark.parametrize("counter", [1, pytest.param(0, marks=pytest.mark.slow)])
def test_zeus_reads_the_same_joules(nvml: Any, counter: int) -> None:
    if util.find_spec("zeus") is None:
        pytest.skip("zeus is not installed: pip install -c constraints.txt '.[peers]'")
    nvml.set(counter=counter, power_mw=75_000)
    if not counter:  # zeus drops equal readings, and makes 0 J of constant power
        nvml.set(ramp_mw_per_s=300, t0_ns=time.monotonic_ns())
    code = """
import json, time, warnings
warnings.simplefilter("ignore")
from zeus.monitor import ZeusMonitor
from sllmbench.measure.energy import EnergyProbe
if __name__ == "__main__":
    for attempt in range(3):  # its poller has ten seconds to start, too few on a busy machine
        try:
            zeus = ZeusMonitor(gpu_indices=[0], cpu_indices=[])
            break
        except RuntimeError as error:
            if "failed to start" not in str(error) or attempt == 2:
                raise
    probe = EnergyProbe("cuda:0", idle_s=0)
    time.sleep(0.5)
    zeus.begin_window("window", sync_execution=False)
    with probe as window:
        time.sleep(3)
    theirs = zeus.end_window("window", sync_execution=False)
    print(json.dumps([window.domains_j["gpu-0"], theirs.gpu_energy[0], theirs.time]))
"""
    told = []
    for _ in range(3):  # zeus polls power in a process that a busy machine may hold up
        ours_j, theirs_j, zeus_s = json.loads(nvml.run(code).splitlines()[-1])
        assert ours_j > 0.97 * 75 * zeus_s
        told.append((ours_j, theirs_j))
        if math.isclose(ours_j, theirs_j, rel_tol=0.01):
            return
    pytest.fail(f"our joules and zeus': {told}")
