"""Which energy sensors there are, and what to do about those that cannot be read."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from sllmbench.hardware import gpu
from sllmbench.hardware.counters import (
    Counter,
    FileCounter,
    hwmon_counters,
    perf_counters,
    powercap_counters,
)
from sllmbench.hardware.cpu import is_virtual
from sllmbench.hardware.roots import SYSTEM, Roots, read_int, read_text

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_CAP_SYS_ADMIN, _CAP_PERFMON = 21, 38


class SensorStatus(BaseModel):
    """An energy sensor; where it is not available, why, and what would make it so."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    available: bool
    reason: str | None = None
    remedy: str | None = None


@dataclass(frozen=True)
class CpuSensor:
    """The counters of one kind that cover every processor package, and the kind's name."""

    kind: str
    counters: tuple[Counter, ...]


def cpu_sensor(roots: Roots = SYSTEM) -> tuple[CpuSensor | None, str | None]:
    """Choose the kind of counters to read, or give the reason, with the remedy where one is known.

    Powercap comes first, then perf_event, then hwmon. The reason is that of the sensors which are
    here and closed; where none is here, powercap's.
    """
    closed: list[tuple[bool, str]] = []
    kinds: tuple[tuple[SensorStatus, str, Sequence[Counter]], ...] = (
        (powercap_status(roots), "RAPL", powercap_counters(roots)),
        (_perf_event_status(roots), "RAPL through perf_event", perf_counters(roots)),
        (_hwmon_status(roots), "hwmon", hwmon_counters(roots)),
    )
    for status, kind, counters in kinds:
        if status.available:
            return CpuSensor(kind, tuple(counters)), None
        if counters or not closed:
            closed.append((bool(counters), _explained(status)))
    here = [text for is_here, text in closed if is_here]
    return None, "; or ".join(here or [closed[0][1]])


def _explained(status: SensorStatus) -> str:
    return f"{status.reason}; remedy: {status.remedy}" if status.remedy else str(status.reason)


def powercap_status(roots: Roots = SYSTEM) -> SensorStatus:
    """Whether every package's RAPL counters can be read."""
    name = "powercap (RAPL)"
    counters = powercap_counters(roots)
    if not counters:
        if is_virtual(roots):
            reason = "a virtual machine: the host does not show it the processor's counters"
            remedy = "measure on the host"
        elif any((roots.sys / "class/powercap").glob("intel-rapl:*")):
            reason = "the container hides what /sys/class/powercap points to"
            remedy = "docker run --security-opt systempaths=unconfined, or measure on the host"
        else:
            reason = "no package domain in /sys/class/powercap"
            remedy = "sudo modprobe intel_rapl_msr  # AMD's counters too"
        return SensorStatus(name=name, available=False, reason=reason, remedy=remedy)
    closed, command = _unreadable(counters)
    unknown = [counter for counter in counters if counter.range_uj is None]
    if closed is None and unknown:
        closed = (
            f"{unknown[0].name}: max_energy_range_uj cannot be read, so that a counter that turned "
            "over cannot be told from one that was reset"
        )
    return SensorStatus(name=name, available=closed is None, reason=closed, remedy=command)


def _unreadable(counters: Sequence[FileCounter]) -> tuple[str | None, str | None]:
    """Why one of the files cannot be read, and the command that opens them until the next boot."""
    failures = [(c, error) for c in counters if (error := _failure(c.file)) is not None]
    if not failures:
        return None, None
    first, error = failures[0]
    denied = [c for c, error in failures if isinstance(error, PermissionError)]
    remedy = " ".join(["sudo chmod a+r", *(str(c.file) for c in denied)]) if denied else None
    return f"{first.name} {first.file.name}: {error.strerror}", remedy


def energy_sensors(roots: Roots = SYSTEM) -> list[SensorStatus]:
    """The state of every kind of energy sensor that a machine may have."""
    return [
        powercap_status(roots),
        _perf_event_status(roots),
        _hwmon_status(roots),
        _nvml_status(),
    ]


def _failure(file: Path) -> OSError | None:
    try:
        file.read_text()
    except OSError as error:
        return error
    return None


def _perf_event_status(roots: Roots) -> SensorStatus:
    name = "perf_event (power/energy-pkg)"
    if not (roots.sys / "bus/event_source/devices/power/events/energy-pkg").exists():
        virtual = is_virtual(roots)
        return SensorStatus(
            name=name,
            available=False,
            reason="the kernel offers no power/energy-pkg event"
            + (" in this virtual machine" if virtual else ""),
            remedy="measure on the host" if virtual else "sudo modprobe rapl",
        )
    if not perf_counters(roots):
        return SensorStatus(
            name=name,
            available=False,
            reason="type, cpumask, scale or unit of the event is missing in "
            "/sys/bus/event_source/devices/power",
            remedy="measure outside the container, or on a newer kernel",
        )
    paranoid = read_int(roots.proc / "sys/kernel/perf_event_paranoid")
    if paranoid is not None and paranoid > 0 and not _may_watch_the_system(roots):
        return SensorStatus(
            name=name,
            available=False,
            reason=f"kernel.perf_event_paranoid is {paranoid}",
            remedy="sudo sysctl kernel.perf_event_paranoid=0",
        )
    return SensorStatus(name=name, available=True)


def _may_watch_the_system(roots: Roots) -> bool:
    for line in (read_text(roots.proc / "self/status") or "").splitlines():
        if line.startswith("CapEff:"):
            held = int(line.split()[1], 16)
            return bool(held >> _CAP_PERFMON & 1 or held >> _CAP_SYS_ADMIN & 1)
    return os.geteuid() == 0


def _hwmon_status(roots: Roots) -> SensorStatus:
    name = "hwmon"
    counters = hwmon_counters(roots)
    if not any(counter.domain == "package" for counter in counters):
        return SensorStatus(
            name=name,
            available=False,
            reason="no energy counter of a processor's socket among the hardware monitors",
            remedy="measure on the host"
            if is_virtual(roots)
            else "load a driver that shows AMD's counters (amd_energy), where powercap is closed",
        )
    reason, remedy = _unreadable(counters)
    return SensorStatus(name=name, available=reason is None, reason=reason, remedy=remedy)


def _nvml_status() -> SensorStatus:
    name = "NVML"
    _, reason = gpu.find()
    if reason is not None:
        return SensorStatus(
            name=name,
            available=False,
            reason=reason,
            remedy="install NVIDIA's driver, if there is a GPU; in a container, pass it in",
        )
    return SensorStatus(name=name, available=True)
