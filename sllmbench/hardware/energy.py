"""Which energy sensors there are, and what to do about those that cannot be read."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from sllmbench.hardware import gpu
from sllmbench.hardware.cpu import is_virtual, vendor
from sllmbench.hardware.roots import SYSTEM, Roots, read_int, read_text

if TYPE_CHECKING:
    from pathlib import Path

_PACKAGE = re.compile(r"package-(?P<package>\d+)(?:-die-\d+)?")
_CAP_SYS_ADMIN, _CAP_PERFMON = 21, 38


class SensorStatus(BaseModel):
    """An energy sensor; where it is not available, why, and what would make it so."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    available: bool
    reason: str | None = None
    remedy: str | None = None


@dataclass(frozen=True)
class RaplDomain:
    """The energy counter of a processor package in microjoules, and where it wraps."""

    name: str
    energy_file: Path
    range_file: Path


def rapl_packages(roots: Roots = SYSTEM) -> list[RaplDomain]:
    """Find the powercap domain of each processor package, once each.

    ``psys`` and the domains inside a package (core, dram) count the same energy again and are
    left out, as is the memory-mapped twin ``intel-rapl-mmio``. AMD's counter is the package's:
    where the kernel lists it for every die, it is the same counter read several times.
    """
    domains: dict[str, RaplDomain] = {}
    per_package = vendor(roots) in ("AuthenticAMD", "HygonGenuine")
    for folder in sorted((roots.sys / "class/powercap").glob("intel-rapl:*")):
        name = read_text(folder / "name") or ""
        match = _PACKAGE.fullmatch(name)
        if match is not None:
            key = match["package"] if per_package else name
            domain = RaplDomain(name, folder / "energy_uj", folder / "max_energy_range_uj")
            domains.setdefault(key, domain)
    return list(domains.values())


def powercap_status(roots: Roots = SYSTEM) -> SensorStatus:
    """Whether every package's RAPL counter can be read."""
    name = "powercap (RAPL)"
    domains = rapl_packages(roots)
    if not domains:
        if is_virtual(roots):
            reason = "a virtual machine: the host does not show it the processor's counters"
            remedy = "measure on the host"
        elif any((roots.sys / "class/powercap").glob("intel-rapl:*")):
            reason = "the container hides what /sys/class/powercap points to"
            remedy = "docker run --security-opt systempaths=unconfined, or measure on the host"
        else:
            reason = "no package domain in /sys/class/powercap"
            remedy = "sudo modprobe intel_rapl_msr (AMD's counters too)"
        return SensorStatus(name=name, available=False, reason=reason, remedy=remedy)
    failures = [error for domain in domains if (error := _failure(domain.energy_file)) is not None]
    if failures:
        denied = any(isinstance(error, PermissionError) for error in failures)
        return SensorStatus(
            name=name,
            available=False,
            reason=f"energy_uj: {failures[0].strerror}",
            remedy=permission_remedy(domains) if denied else None,
        )
    return SensorStatus(name=name, available=True)


def permission_remedy(domains: list[RaplDomain]) -> str:
    """The command that lets every user read the counters until the next boot."""
    return " ".join(["sudo chmod a+r", *(str(domain.energy_file) for domain in domains)])


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
    files = sorted((roots.sys / "class/hwmon").glob("hwmon*/energy*_input"))
    if not files:
        return SensorStatus(
            name=name,
            available=False,
            reason="no energy counter among the hardware monitors",
            remedy="measure on the host"
            if is_virtual(roots)
            else "load the driver of the board's power sensor, if it has one (sudo sensors-detect)",
        )
    failure = _failure(files[0])
    if failure is not None:
        return SensorStatus(
            name=name,
            available=False,
            reason=f"{files[0].name}: {failure.strerror}",
            remedy=f"sudo chmod a+r {files[0]}" if isinstance(failure, PermissionError) else None,
        )
    return SensorStatus(name=name, available=True)


def _nvml_status() -> SensorStatus:
    name = "NVML"
    gpus, reason = gpu.find()
    if reason is not None:
        return SensorStatus(
            name=name,
            available=False,
            reason=reason,
            remedy="install NVIDIA's driver, if there is a GPU; in a container, pass it in",
        )
    silent = [found.name for found in gpus if not found.has_energy_counter]
    if silent:
        return SensorStatus(
            name=name,
            available=False,
            reason=f"{', '.join(silent)} has no energy counter (Volta and newer have)",
        )
    return SensorStatus(name=name, available=True)
