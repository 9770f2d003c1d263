"""The energy sensors that a window reads: the processor's counters and NVIDIA's library."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from sllmbench import _native
from sllmbench.errors import InputError
from sllmbench.hardware.counters import UPDATE_NS, FileCounter
from sllmbench.hardware.cuda import device_index
from sllmbench.hardware.energy import cpu_sensor
from sllmbench.record import GpuState

if TYPE_CHECKING:
    from collections.abc import Callable

    from sllmbench.hardware.counters import Counter
    from sllmbench.hardware.roots import Roots

MOST_WATTS = 1000.0
"""No processor package takes more; a counter that says so was reset."""
NVML_LIBRARY = "libnvidia-ml.so.1"
NVML_REMEDY = "install NVIDIA's driver, if there is a GPU; in a container, pass it in"
_WATCH_S = 1.0
"""How long a GPU's sensor is watched to learn how often it changes, at most."""
_ASSUMED_UPDATE_NS = 100_000_000
"""Of a GPU's sensor that stood still while it was watched: what NVIDIA's usually take."""


class SensorError(Exception):
    """Why a sensor gives no number, with the remedy where one is known."""


@dataclass(frozen=True)
class Part:
    """What one sensor says of a window.

    Attributes:
        energy_j: of the domains that are added up.
        domains_j: each domain, also those that lie within another.
        uncertainty_j: how far the sensor's steps leave ``energy_j`` open, either way.
    """

    energy_j: float
    domains_j: dict[str, float]
    uncertainty_j: float
    source: str


class Sensor(Protocol):
    """Something that counts energy between :meth:`start` and :meth:`stop`."""

    update_ns: int

    def start(self) -> None:
        """Open the window."""

    def stop(self, duration_s: float) -> Part:
        """Close the window; SensorError where it has no figure."""


class CpuSensor:
    """All processor packages, and their memory where it has a counter of its own."""

    update_ns = UPDATE_NS

    def __init__(self, roots: Roots) -> None:
        """Open the counters.

        Raises:
            SensorError: none can be read.
        """
        found, reason = cpu_sensor(roots)
        if found is None:
            raise SensorError(reason)
        self._kind = found.kind
        self._counters: dict[str, Counter] = {counter.name: counter for counter in found.counters}
        self._window = _native.CounterWindow(MOST_WATTS)
        for counter in found.counters:
            if isinstance(counter, FileCounter):
                self._window.add_file(
                    counter.name, str(counter.file), 1e-6, counter.range_uj or 0, UPDATE_NS
                )
            else:
                self._window.add_perf(
                    counter.name,
                    counter.type,
                    counter.config,
                    counter.cpu,
                    counter.joules_per_unit,
                    UPDATE_NS,
                )

    def start(self) -> None:
        """Read the counters; a thread reads on where one could turn over."""
        self._window.start()

    def stop(self, duration_s: float) -> Part:
        """Read the counters again and add up packages and memory."""
        domains_j = {}
        for name, joules, reason, _ in self._window.stop():
            if joules is not None:
                domains_j[name] = joules
            elif self._counters[name].domain != "core":  # an idle core's may well stand still
                raise SensorError(reason)
        summed = [name for name, counter in self._counters.items() if counter.domain != "core"]
        energy_j = sum(domains_j[name] for name in summed)
        steps_j = sum(self._counters[name].step_j for name in summed)
        return Part(
            energy_j,
            domains_j,
            # Each end may lie anywhere within an update, and within a step of the counter.
            energy_j * self.update_ns / 1e9 / duration_s + steps_j,
            f"{self._kind} {'+'.join(summed)}, idle power included",
        )


class GpuSensor:
    """One NVIDIA GPU."""

    def __init__(self, gpu: int, library: str) -> None:
        """Find the GPU and learn how often its sensor changes, which takes up to a second once.

        Raises:
            SensorError: no driver, no such GPU, or neither counter nor power.
        """
        try:
            nvml = load_nvml(library)
            period_ns = _update_period_ns(gpu, library)
            self.update_ns = _ASSUMED_UPDATE_NS if period_ns is None else period_ns
            self._name = f"GPU {gpu} ({nvml.name(gpu)})"
            self._step_j = 1e-3 if nvml.has_energy_counter(gpu) else 0.0
            self._window = _native.GpuEnergyWindow(nvml, gpu, self.update_ns)
        except RuntimeError as error:
            raise SensorError(f"GPU {gpu}: {error}; remedy: {NVML_REMEDY}") from error
        self._domain = f"gpu-{gpu}"
        self._assumed = ", its update period assumed" if period_ns is None else ""

    def start(self) -> None:
        """Read the counter, or begin to read power in a thread."""
        self._window.start()

    def stop(self, duration_s: float) -> Part:
        """Read the counter again, or integrate power."""
        joules, source, reason, _ = self._window.stop()
        if joules is None:
            raise SensorError(f"{self._name}: {reason}")
        uncertainty_j = joules * self.update_ns / 1e9 / duration_s + self._step_j
        source = f"{source} of {self._name}{self._assumed}, idle power included"
        return Part(joules, {self._domain: joules}, uncertainty_j, source)


@cache
def load_nvml(library: str = NVML_LIBRARY) -> _native.Nvml:
    """NVIDIA's library, loaded once a process.

    Raises:
        RuntimeError: it cannot be loaded or started; with what it says.
    """
    return _native.Nvml(library)


@cache
def _update_period_ns(gpu: int, library: str) -> int | None:
    return load_nvml(library).update_period_ns(gpu, _WATCH_S)


def gpu_indices(device: str, library: str) -> list[int]:
    """The GPUs that ``cuda`` (all) or ``cuda:N`` (in the driver's order) names.

    Raises:
        InputError: neither of the two.
        SensorError: no driver or no GPU.
    """
    kind, colon, index = device.partition(":")
    if kind != "cuda" or (colon and not index.isdecimal()):
        raise InputError(f"device {device!r} has no energy sensors; take cpu, cuda or cuda:N")
    if index:
        return [int(index)]
    try:
        count = load_nvml(library).count()
    except RuntimeError as error:
        raise SensorError(f"{error}; remedy: {NVML_REMEDY}") from error
    if count == 0:
        raise SensorError(f"the NVIDIA driver sees no GPU; remedy: {NVML_REMEDY}")
    return list(range(count))


def gpu_probe(device: str) -> Callable[[], GpuState | None] | None:
    """What tells beside each sample how a device is doing: ``cpu`` needs nothing.

    Raises:
        InputError: another kind of device.
    """
    index = device_index(device)
    return None if index is None else lambda: gpu_state(index)[0]


def gpu_state(gpu: int = 0, *, library: str = NVML_LIBRARY) -> tuple[GpuState | None, str | None]:
    """Return what a GPU's driver says of it now, and why something is missing.

    A process is foreign if it is not this one. Where the driver names a process that /proc does not
    show, its numbers are of another namespace and this process cannot be told from others.
    """
    try:
        clock_hz, throttled, temperature_c, pids, reason = load_nvml(library).state(gpu)
    except RuntimeError as error:
        return None, str(error)
    foreign = None if pids is None else sum(pid != os.getpid() for pid in pids)
    hidden = [pid for pid in pids or () if not Path(f"/proc/{pid}").exists()]
    if hidden:
        foreign = None
        reason = reason or f"process {hidden[0]} on the GPU is of another namespace, or hidden"
    state = GpuState(
        sm_clock_hz=clock_hz,
        throttle_reasons=None if throttled is None else tuple(throttled),
        temperature_c=temperature_c,
        foreign_processes=foreign,
    )
    return state, reason
