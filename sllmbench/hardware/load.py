"""What else the machine is doing at the moment."""

from __future__ import annotations

import os
import time

import psutil
from pydantic import BaseModel, ConfigDict

from sllmbench.hardware.roots import SYSTEM, Roots, read_text

BUSY_PROCESS_PERCENT = 5.0
"""Processes below this share of one processor are not named."""
NOTABLE_CPU_PERCENT = 20.0
NOTABLE_STEAL_PERCENT = 1.0


class ForeignProcess(BaseModel):
    """A busy process that is neither this one nor below it; 100% is one processor."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    pid: int
    name: str
    cpu_percent: float


class Load(BaseModel):
    """Load over a short window in which this process slept.

    ``busy_percent`` and ``steal_percent`` are shares of all processors' time; steal is what a
    hypervisor gave to others. They are None where ``reason`` says why; ``load_average`` (1, 5 and
    15 minutes) is None where the kernel has none.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    window_s: float
    load_average: tuple[float, float, float] | None
    busy_percent: float | None
    steal_percent: float | None
    reason: str | None
    processes: tuple[ForeignProcess, ...]


def watch(window_s: float = 0.3, roots: Roots = SYSTEM) -> Load:
    """Sleep for the window and say what ran meanwhile, the busiest processes first."""
    mine = {os.getpid(), *(child.pid for child in psutil.Process().children(recursive=True))}
    others = [process for process in psutil.process_iter() if process.pid not in mine]
    for process in others:
        _cpu_percent(process)  # the first call only starts psutil's own window
    before = processor_ticks(roots)
    time.sleep(window_s)
    after = processor_ticks(roots)
    found = shares(before, after)
    busy = [
        ForeignProcess(pid=process.pid, name=name, cpu_percent=percent)
        for process in others
        if (percent := _cpu_percent(process)) >= BUSY_PROCESS_PERCENT
        and (name := _name(process)) is not None
    ]
    return Load(
        window_s=window_s,
        load_average=_load_average(roots),
        busy_percent=None if found is None else found[0],
        steal_percent=None if found is None else found[1],
        reason=None if found is not None else "/proc/stat does not count processor time here",
        processes=tuple(sorted(busy, key=lambda process: -process.cpu_percent)),
    )


def disturbances() -> tuple[str, ...]:
    """Say what takes processor time before a measurement has begun to."""
    now = watch()
    found = [
        f"{process.name} (process {process.pid}) took {process.cpu_percent:.0f}% CPU"
        for process in now.processes
        if process.cpu_percent >= NOTABLE_CPU_PERCENT
    ]
    if (now.steal_percent or 0) >= NOTABLE_STEAL_PERCENT:
        found.append(f"the host took {now.steal_percent:.0f}% of the processors")
    return tuple(found)


def _cpu_percent(process: psutil.Process) -> float:
    try:
        return float(process.cpu_percent())
    except psutil.Error:  # it has ended, or is hidden
        return 0.0


def _name(process: psutil.Process) -> str | None:
    try:
        return process.name()
    except psutil.Error:
        return None


def processor_ticks(roots: Roots) -> list[int] | None:
    """User, nice, system, idle, iowait, irq, softirq and steal ticks of all processors."""
    for line in (read_text(roots.proc / "stat") or "").splitlines():
        name, *ticks = line.split()
        if name == "cpu" and len(ticks) >= 8:
            return [int(tick) for tick in ticks[:8]]
    return None


def shares(before: list[int] | None, after: list[int] | None) -> tuple[float, float] | None:
    """Percent busy and percent stolen between two counts."""
    if before is None or after is None:
        return None
    spent = [later - earlier for earlier, later in zip(before, after, strict=True)]
    total, (idle, iowait), steal = sum(spent), spent[3:5], spent[7]
    if total <= 0:
        return None
    return 100 * (total - idle - iowait - steal) / total, 100 * steal / total


def _load_average(roots: Roots) -> tuple[float, float, float] | None:
    fields = (read_text(roots.proc / "loadavg") or "").split()
    if len(fields) < 3:
        return None
    return float(fields[0]), float(fields[1]), float(fields[2])
