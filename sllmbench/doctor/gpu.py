"""NVIDIA GPUs: settings and states that hold them back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sllmbench.doctor.finding import Finding, Subject, bad, ok, unmeasured
from sllmbench.hardware import gpu
from sllmbench.measure.sensors import gpu_state

if TYPE_CHECKING:
    from collections.abc import Iterator

_IDLE = "gpu_idle"
"""An idle GPU clocks down, which is no fault."""
_NO_GPU_TIMING = "sllmbench times no kernel on a GPU yet"


def settings(_: Subject) -> Iterator[Finding]:
    """Ask the driver about each GPU; what it does not answer is left out."""
    import pynvml

    gpus, reason = gpu.find()
    if reason is not None:
        yield ok("GPU", f"none: {reason}")
        return
    pynvml.nvmlInit()
    try:
        for index, described in enumerate(gpus):
            name = f"GPU {index} ({described.name})"
            found = [*_counter(described), *_of_one(index)]
            for finding in found:
                yield finding.model_copy(update={"title": f"{name}: {finding.title}"})
            if not found:
                yield ok(name, "nothing holds it back")
    finally:
        pynvml.nvmlShutdown()


def _of_one(index: int) -> Iterator[Finding]:
    import pynvml

    for check in (_persistence, _ecc, _power_cap, _clocks, _mode, _state):
        # Older GPUs and drivers lack some, and a GPU may be lost meanwhile; the others answer.
        try:
            yield from check(pynvml, pynvml.nvmlDeviceGetHandleByIndex(index), index)
        except (pynvml.NVMLError_NotSupported, pynvml.NVMLError_FunctionNotFound):
            continue
        except pynvml.NVMLError as error:
            yield _finding("notice", check.__name__.strip("_"), f"unknown: {error}", None)


def _counter(described: gpu.Gpu) -> Iterator[Finding]:
    if not described.has_energy_counter:
        found = "none; Volta and newer have one; joules are added up from samples of the power"
        yield _finding("notice", "energy counter", found, None)


def _persistence(pynvml: Any, handle: Any, index: int) -> Iterator[Finding]:
    if pynvml.nvmlDeviceGetPersistenceMode(handle) == pynvml.NVML_FEATURE_DISABLED:
        found = "off: the driver lets go of the GPU between processes, and starts it anew each time"
        yield _finding("problem", "persistence mode", found, f"sudo nvidia-smi -i {index} -pm 1")


def _ecc(pynvml: Any, handle: Any, _: int) -> Iterator[Finding]:
    current, pending = pynvml.nvmlDeviceGetEccMode(handle)
    if current == pynvml.NVML_FEATURE_ENABLED:
        found = "on; on GPUs without HBM it takes memory and bandwidth"
        yield _finding("notice", "ECC", found, None, "leave it on unless all that you compare is")
    if current != pending:
        yield _finding("notice", "ECC", "changes with the next reset", None)


def _power_cap(pynvml: Any, handle: Any, index: int) -> Iterator[Finding]:
    limit_mw = pynvml.nvmlDeviceGetEnforcedPowerLimit(handle)
    usual_mw = pynvml.nvmlDeviceGetPowerManagementDefaultLimit(handle)
    if limit_mw < usual_mw:
        remedy = f"sudo nvidia-smi -i {index} -pl {usual_mw // 1000}"
        found = f"{limit_mw / 1000:.0f} W, {usual_mw / 1000:.0f} W by default"
        yield _finding("problem", "power cap", found, remedy)


def _state(pynvml: Any, handle: Any, index: int) -> Iterator[Finding]:
    """Throttling and other processes, at this moment."""
    state, reason = gpu_state(index)
    if state is None:
        yield _finding("notice", "state", f"unknown: {reason}", None)
        return
    named = [name for name in state.throttle_reasons or () if name != _IDLE]
    if named:
        most_mhz = pynvml.nvmlDeviceGetMaxClockInfo(handle, pynvml.NVML_CLOCK_SM)
        now = "" if state.sm_clock_hz is None else f"; {state.sm_clock_hz / 1e6:.0f} MHz now, "
        found = f"{', '.join(named)}{now}{most_mhz} at most"
        yield _finding("problem", "throttling", found, None, "cool it, or lift what is named")
    if state.foreign_processes:
        yield _finding(
            "problem",
            "foreign processes",
            f"{state.foreign_processes} compute on it",
            None,
            "wait for them, or end them: nvidia-smi lists them",
        )


def _clocks(pynvml: Any, handle: Any, index: int) -> Iterator[Finding]:
    set_mhz = pynvml.nvmlDeviceGetApplicationsClock(handle, pynvml.NVML_CLOCK_SM)
    usual_mhz = pynvml.nvmlDeviceGetDefaultApplicationsClock(handle, pynvml.NVML_CLOCK_SM)
    if set_mhz < usual_mhz:
        found = f"{set_mhz} MHz, {usual_mhz} by default"
        yield _finding("problem", "application clock", found, f"sudo nvidia-smi -i {index} -rac")


def _mode(pynvml: Any, handle: Any, index: int) -> Iterator[Finding]:
    mode = pynvml.nvmlDeviceGetComputeMode(handle)
    remedy = f"sudo nvidia-smi -i {index} -c DEFAULT"
    if mode == pynvml.NVML_COMPUTEMODE_PROHIBITED:
        yield _finding("problem", "compute mode", "no process may compute on it", remedy)
    elif mode == pynvml.NVML_COMPUTEMODE_EXCLUSIVE_PROCESS:
        found = "one process at a time: paths that take turns cannot all hold it"
        yield _finding("notice", "compute mode", found, remedy)


def _finding(
    severity: Any, title: str, found: str, remedy: str | None, advice: str | None = None
) -> Finding:
    return bad(
        severity,
        title,
        found,
        unmeasured(_NO_GPU_TIMING),
        remedy=remedy,
        advice=advice,
        source="NVML",
    )


CHECKS = (settings,)
