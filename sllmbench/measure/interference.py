"""What disturbed a sample, and which samples a median is taken of."""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sllmbench import _native
from sllmbench.hardware.roots import SYSTEM, Roots
from sllmbench.measure.statistics import median_interval
from sllmbench.record import GpuState, Interference, undisturbed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sllmbench.record import Interval

GpuProbe = Callable[[], GpuState | None]
"""Tells how the GPU that is measured is doing, where its driver does."""

IDLE = "gpu_idle"
"""The driver's reason for a low clock that says no more than that nothing runs at the moment."""
WAIT_SHARE = 0.02
"""Of the window that threads may wait for a processor, together: work is shared out in equal parts
and waits for the slowest, so that one thread's wait can delay the whole by as much."""
FOREIGN_SHARE = 0.1
"""Of all processors' time that other processes may take: more shares caches, memory and power with
what is measured, even from a core of its own."""
STEAL_SHARE = 0.01
"""Of all processors' time that the host may take: it stops what is measured outright."""
TICKS_TO_TELL = 2.5
"""Of the kernel, per figure that it counts in them: each of the columns that are added up is
rounded down by itself, before and after."""
TICK_WINDOW_NS = 200_000_000
"""What is counted in ticks is watched for as long, beyond the sample to those before it."""
CLOCK_DROP = 0.05
"""Below the series' median clock that a core may be; its measurement strays by 1%."""


class Watch:
    """Counts what happens beside samples; one at a time, each between ``start`` and ``stop``."""

    def __init__(self, roots: Roots = SYSTEM, gpu: GpuProbe | None = None) -> None:
        """Find out what can be read; ``reasons`` says by field why something cannot."""
        self._probe = _native.InterferenceProbe(proc=str(roots.proc), sys=str(roots.sys))
        self._gpu = gpu
        self._past: deque[_native.Snapshot] = deque()
        self.reasons = self._probe.reasons

    def forget(self) -> None:
        """Look no further back than the next start: others ran since the last stop on purpose."""
        self._past.clear()

    def past_ns(self) -> int:
        """How far back what comes in ticks is watched at this moment."""
        return self._probe.take().at_ns - self._past[0].at_ns if self._past else 0

    def start(self) -> None:
        """Begin a window."""
        self._past.append(self._probe.take())

    def stop(self) -> Interference:
        """End the window that was started last, and judge it."""
        now = self._probe.take(with_core_hz=True)
        happened = self._probe.between(self._past[-1], now)
        while len(self._past) > 1 and now.at_ns - self._past[1].at_ns >= TICK_WINDOW_NS:
            self._past.popleft()
        longer = self._probe.between(self._past[0], now)
        happened["steal_ns"] = longer["steal_ns"]
        happened["foreign_cpu_ns"] = longer["foreign_cpu_ns"]
        interference = Interference(
            **happened,
            tick_window_ns=longer["window_ns"],
            gpu=None if self._gpu is None else self._gpu(),
            causes=(),
        )
        causes = find_causes(interference, self._probe.processors, self._probe.tick_ns)
        return interference.model_copy(update={"causes": causes}) if causes else interference


def find_causes(what: Interference, processors: int, tick_ns: int) -> tuple[str, ...]:
    """Say why a sample counts as disturbed, as ``kind: how much``; nothing where it does not."""
    causes = []
    if what.wait_ns is not None and what.wait_ns > WAIT_SHARE * what.window_ns:
        causes.append(
            f"waiting for a processor: {_share(what.wait_ns, what.window_ns)} of the time"
        )
    capacity_ns = processors * (what.tick_window_ns or what.window_ns)
    limit_ns = TICKS_TO_TELL * tick_ns
    foreign_ns = what.foreign_cpu_ns
    if foreign_ns is not None and foreign_ns > max(FOREIGN_SHARE * capacity_ns, limit_ns):
        causes.append(f"other processes: {_share(foreign_ns, capacity_ns)} of the processors")
    if what.steal_ns is not None and what.steal_ns > max(STEAL_SHARE * capacity_ns, tick_ns):
        causes.append(f"taken by the host: {_share(what.steal_ns, capacity_ns)} of the processors")
    if what.major_faults:
        causes.append(f"pages read from disk: {what.major_faults}")
    if what.gpu is not None:
        reasons = what.gpu.throttle_reasons or ()
        causes += [f"throttled GPU: {reason}" for reason in reasons if reason != IDLE]
        if what.gpu.foreign_processes:
            causes.append(f"other processes on the GPU: {what.gpu.foreign_processes}")
    return tuple(causes)


def compare_clocks(series: Sequence[Interference]) -> tuple[Interference, ...]:
    """Label the samples whose core was slower than in most of the series."""
    known = [what.core_hz for what in series if what.core_hz is not None]
    usual = statistics.median(known) if known else 0.0
    return tuple(
        what.model_copy(
            update={
                "causes": (
                    *what.causes,
                    f"slow core: {what.core_hz / 1e9:.2f} GHz, {usual / 1e9:.2f} in most samples",
                )
            }
        )
        if what.core_hz is not None and what.core_hz < (1 - CLOCK_DROP) * usual
        else what
        for what in series
    )


@dataclass(frozen=True)
class Kept:
    """The samples that the median is of.

    Attributes:
        indices: where they are in the series.
        n_disturbed: how many of the series are disturbed.
        disturbed: whether too few were undisturbed, so that all were taken.
    """

    indices: tuple[int, ...]
    n_disturbed: int
    disturbed: bool

    def interval(self, samples: Sequence[float]) -> Interval:
        """The median and its interval, of one figure of each sample of the series."""
        return median_interval([samples[index] for index in self.indices])


def keep(series: Sequence[Interference]) -> Kept:
    """Choose the undisturbed samples where six of them, and half of all, are undisturbed.

    The choice looks at what happened and never at the times, so it cannot favour one candidate.
    """
    flags = [bool(what.causes) for what in series]
    chosen = undisturbed(flags)
    if chosen is None:
        return Kept(tuple(range(len(series))), sum(flags), disturbed=True)
    return Kept(chosen, sum(flags), disturbed=False)


def _share(part: float, whole: float) -> str:
    return f"{100 * part / whole:.0f}%"
