"""Energy of a span of time: what the sensors counted, and how far that can be believed."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from sllmbench.errors import InputError
from sllmbench.hardware import load
from sllmbench.hardware.roots import SYSTEM, Roots
from sllmbench.measure.sensors import (
    NVML_LIBRARY,
    CpuSensor,
    GpuSensor,
    SensorError,
    gpu_indices,
)
from sllmbench.record import Energy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from types import TracebackType

    from sllmbench.measure.sensors import Part, Sensor

T = TypeVar("T")

LEAST_UPDATES = 20
"""Below 20 updates of a sensor, not knowing where in one the window began and ended is over 5%."""
IDLE_S = 0.5
"""How long idle power is measured, or as long as the slowest sensor needs."""

_idle_w: dict[tuple[str, Roots, str], float | None] = {}


@dataclass
class EnergyWindow:
    """The energy between entering and leaving an :class:`EnergyProbe`; unknown figures are None.

    Attributes:
        energy_j: gross: idle power and everything else that ran is in it.
        above_idle_j: less what the machine takes in the same time while this process sleeps.
        uncertainty_j: how far the sensors' steps leave ``energy_j`` open, either way. The sensors'
            own error, several percent of a GPU's power, is not in it.
        source: which sensors were added up.
        reason: why there is no figure, with the remedy where one is known.
        update_period_ns: how often the slowest sensor changes.
        window_ns: the window's length.
        domains_j: each counter's part apart; cores lie within their package, and one whose counter
            stood still is left out.
        idle_w: the idle power that was taken off, measured once a process.
        estimate_j: nominal power × utilisation × time, only where a nominal power was given.
        estimate_basis: what the estimate is made of, or why there is none.
        calls: how often :func:`measure_energy` called within the window.
    """

    energy_j: float | None = None
    above_idle_j: float | None = None
    uncertainty_j: float | None = None
    source: str | None = None
    reason: str | None = "the window has not ended"
    update_period_ns: int | None = None
    window_ns: int | None = None
    domains_j: dict[str, float] = field(default_factory=dict)
    idle_w: float | None = None
    estimate_j: float | None = None
    estimate_basis: str | None = None
    calls: int = 1


class EnergyProbe:
    """Measures energy between entering and leaving; the window it yields is filled at the end.

    ``cpu`` is all processor packages, and memory where it has a counter of its own. ``cuda`` adds
    all GPUs and ``cuda:N`` one of them; there the processor is added where it can be read, and the
    source says where not. A probe can be entered again and again, but not within itself.
    """

    def __init__(
        self,
        device: str = "cpu",
        *,
        idle_s: float = IDLE_S,
        estimate_tdp_w: float | None = None,
        roots: Roots = SYSTEM,
        nvml_library: str = NVML_LIBRARY,
    ) -> None:
        """Open the sensors.

        Args:
            device: ``cpu``, ``cuda`` or ``cuda:N``.
            idle_s: the first probe of a process that has sensors sleeps this long, longer where
                they are slow, to measure idle power before it is first entered; 0 does not, and
                takes what was measured before.
            estimate_tdp_w: the processor's nominal power, for an estimate beside the measurement.
            roots: the folders that stand for /proc and /sys.
            nvml_library: NVIDIA's library.

        Raises:
            InputError: a device of another kind, or a power that is not above 0.
        """
        if estimate_tdp_w is not None and not estimate_tdp_w > 0:
            raise InputError(f"a nominal power of {estimate_tdp_w} W; it must be above 0")
        if estimate_tdp_w is not None and device != "cpu":
            raise InputError("energy is estimated from a nominal power for device cpu only")
        self.reason: str | None = None
        self._sensors: list[Sensor] = []
        self._without_cpu = ""
        self._idle_s, self._idle_key = idle_s, (device, roots, nvml_library)
        self._tdp_w, self._roots, self._device = estimate_tdp_w, roots, device
        try:
            self._sensors = self._open(device, roots, nvml_library)
        except SensorError as error:
            self.reason = str(error)
        self._started_ns = 0
        self._ticks: list[int] | None = None
        self._window = EnergyWindow()

    def _open(self, device: str, roots: Roots, library: str) -> list[Sensor]:
        if device == "cpu":
            return [CpuSensor(roots)]
        gpus = [GpuSensor(gpu, library) for gpu in gpu_indices(device, library)]
        try:
            return [CpuSensor(roots), *gpus]
        except SensorError as error:
            self._without_cpu = f"; without the processor ({error})"
            return list(gpus)

    @property
    def shortest_ns(self) -> int:
        """The shortest window that is not refused; 0 where there is no sensor."""
        return max((LEAST_UPDATES * sensor.update_ns for sensor in self._sensors), default=0)

    def long_enough(self) -> bool:
        """Whether the window that is open would not be refused for its length now."""
        return time.perf_counter_ns() - self._started_ns >= self.shortest_ns

    def measure_idle(self) -> None:
        """Sleep and measure idle power, unless this process has measured it before."""
        if not self._sensors or self._idle_s <= 0 or self._idle_key in _idle_w:
            return
        start_ns = self._start()
        try:
            time.sleep(max(self._idle_s, 1.05 * self.shortest_ns / 1e9))
        finally:  # an interrupt must not leave the window open
            duration_ns, parts, _ = self._stop(start_ns)
        # None: it was tried and gave no figure; another try would only sleep again.
        _idle_w[self._idle_key] = (
            sum(part.energy_j for part in parts) * 1e9 / duration_ns if parts else None
        )

    def __enter__(self) -> EnergyWindow:
        """Open the window."""
        self._window = EnergyWindow()
        self.measure_idle()
        self._ticks = None if self._tdp_w is None else load.processor_ticks(self._roots)
        self._started_ns = self._start()
        return self._window

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the window and fill it."""
        window = self._window
        window.window_ns, parts, window.reason = self._stop(self._started_ns)
        if parts:
            self._fill(window.window_ns / 1e9, parts)
        if self._tdp_w is not None:
            window.estimate_j, window.estimate_basis = self._estimate(
                self._tdp_w, window.window_ns / 1e9
            )

    def _start(self) -> int:
        _synchronise(self._device)
        for sensor in self._sensors:
            sensor.start()
        return time.perf_counter_ns()

    def _stop(self, start_ns: int) -> tuple[int, list[Part], str | None]:
        """Stop every sensor; the window's length, and each one's part or the reason for none."""
        _synchronise(self._device)
        duration_ns = time.perf_counter_ns() - start_ns
        parts, failures = [], []
        for sensor in self._sensors:
            try:
                parts.append(sensor.stop(duration_ns / 1e9))
            except SensorError as error:
                failures.append(str(error))
        if duration_ns < self.shortest_ns:
            failures = [
                f"the window of {duration_ns / 1e6:.3g} ms is too short for a sensor that changes "
                f"every {self.shortest_ns / LEAST_UPDATES / 1e6:.3g} ms; at least "
                f"{self.shortest_ns / 1e6:.3g} ms are needed: sllmbench.measure_energy repeats a "
                "call until they are over"
            ]
        if failures or not self._sensors:
            return duration_ns, [], "; ".join(failures) or self.reason
        return duration_ns, parts, None

    def _fill(self, duration_s: float, parts: list[Part]) -> None:
        window = self._window
        window.energy_j = sum(part.energy_j for part in parts)
        window.uncertainty_j = sum(part.uncertainty_j for part in parts)
        window.source = " and ".join(part.source for part in parts) + self._without_cpu
        window.domains_j = {name: j for part in parts for name, j in part.domains_j.items()}
        window.update_period_ns = max(sensor.update_ns for sensor in self._sensors)
        window.idle_w = _idle_w.get(self._idle_key)
        if window.idle_w is not None:
            window.above_idle_j = window.energy_j - window.idle_w * duration_s

    def _estimate(self, tdp_w: float, duration_s: float) -> tuple[float | None, str]:
        found = load.shares(self._ticks, load.processor_ticks(self._roots))
        if found is None:
            return None, "no estimate: /proc/stat counted no processor time within the window"
        busy = found[0] / 100
        return (
            tdp_w * busy * duration_s,
            f"{tdp_w:g} W × {busy:.1%} of all processors' time × {duration_s:.3g} s",
        )


def measure_energy(call: Callable[[], T], probe: EnergyProbe) -> tuple[EnergyWindow, list[T]]:
    """Call until the probe's window is long enough for its sensors, and at least once.

    Returns:
        The window, with the number of calls in it, and what the calls returned.
    """
    results: list[T] = []
    with probe as window:
        while not results or not probe.long_enough():
            results.append(call())
    window.calls = len(results)
    return window, results


def add_up(windows: Sequence[EnergyWindow], tokens_per_call: int | None = None) -> Energy:
    """Add up the windows of a phase; one without a figure leaves the sum without one.

    Where a call makes no tokens, ``j_per_token`` is None.
    """
    missing = next((window.reason for window in windows if window.energy_j is None), None)
    if missing is not None or not windows:
        return Energy(
            energy_j=None,
            above_idle_j=None,
            uncertainty_j=None,
            j_per_token=None,
            source=None,
            update_period_ns=None,
            window_ns=None,
            reason=missing or "not measured",
        )
    energy_j = _total(window.energy_j for window in windows)
    names = dict.fromkeys(name for window in windows for name in window.domains_j)
    return Energy(
        energy_j=energy_j,
        above_idle_j=_total(window.above_idle_j for window in windows),
        uncertainty_j=_total(window.uncertainty_j for window in windows),
        j_per_token=None
        if energy_j is None or tokens_per_call is None
        else energy_j / (tokens_per_call * sum(window.calls for window in windows)),
        source=windows[-1].source,
        update_period_ns=windows[-1].update_period_ns,
        window_ns=sum(window.window_ns or 0 for window in windows),
        windows_j=tuple(window.energy_j or 0.0 for window in windows),
        domains_j={n: sum(w.domains_j.get(n, 0.0) for w in windows) for n in names},
        idle_w=windows[-1].idle_w,
        reason=None,
    )


def _total(values: Iterable[float | None]) -> float | None:
    known = list(values)
    return None if None in known else sum(value or 0.0 for value in known)


def _synchronise(device: str) -> None:
    """Wait until the GPU has done what was asked of it, if torch asked anything of one."""
    torch = sys.modules.get("torch")
    if device != "cpu" and torch is not None and torch.cuda.is_initialized():
        torch.cuda.synchronize()
