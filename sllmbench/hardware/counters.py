"""Where the processor's energy counters are and how they are to be read.

Every kind counts whole packages, and memory apart where it has a counter of its own; ``core`` lies
within ``package``. Reading them is :class:`sllmbench._native.CounterWindow`'s task.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from sllmbench.hardware.cpu import vendor
from sllmbench.hardware.roots import SYSTEM, Roots, read_int, read_text

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

Domain = Literal["package", "core", "dram"]

UPDATE_NS = 1_000_000
"""RAPL counters step about once a millisecond, however they are read."""
_PACKAGE = re.compile(r"package-(?P<package>\d+)(?:-die-\d+)?")
_PARTS: dict[str, Domain] = {"core": "core", "dram": "dram"}
_EVENTS: dict[str, Domain] = {"energy-pkg": "package", "energy-cores": "core", "energy-ram": "dram"}
_SOCKET = re.compile(r"Esocket(\d+)")
_CORE = re.compile(r"Ecore(\d+)")
_BITS = 32
"""Of the counter behind powercap's: its range divided by this power of two is one step."""
_STEP_J = 2.0**-14
"""A step of the counter where nothing tells it: the coarsest that servers and desktops have."""


@dataclass(frozen=True)
class FileCounter:
    """A file of microjoules; ``range_uj`` is where it turns over, 0 if never, None if unknown."""

    name: str
    domain: Domain
    file: Path
    range_uj: int | None

    @property
    def step_j(self) -> float:
        """The smallest difference that it can show."""
        return self.range_uj / 1e6 / 2**_BITS if self.range_uj else _STEP_J


@dataclass(frozen=True)
class PerfCounter:
    """An event of perf's ``power`` unit, read on one processor of the package."""

    name: str
    domain: Domain
    type: int
    config: int
    cpu: int
    joules_per_unit: float
    step_j: float = _STEP_J


Counter = FileCounter | PerfCounter


def powercap_counters(roots: Roots = SYSTEM) -> list[FileCounter]:
    """Find the powercap zones of each processor package, once each, with their parts.

    ``psys`` counts the same energy again and is left out, as is the memory-mapped twin
    ``intel-rapl-mmio``. AMD's counter is the package's: where the kernel lists it for every die, it
    is the same counter read several times. Intel's dies have one each. A part whose counter stands
    at zero has never counted: the zone is there and the sensor is not.
    """
    packages: dict[str, tuple[Path, str]] = {}
    for folder in sorted((roots.sys / "class/powercap").glob("intel-rapl:*")):
        name = read_text(folder / "name") or ""
        match = _PACKAGE.fullmatch(name)
        if match is not None:
            packages.setdefault(match["package"] if _repeats_dies(roots) else name, (folder, name))
    counters = []
    for folder, name in packages.values():
        counters.append(_zone(folder, name, "package"))
        for part in sorted(folder.parent.glob(f"{folder.name}:*")):
            domain = _PARTS.get(read_text(part / "name") or "")
            if domain is not None and read_int(part / "energy_uj") != 0:
                counters.append(_zone(part, f"{name}/{domain}", domain))
    return counters


def _zone(folder: Path, name: str, domain: Domain) -> FileCounter:
    range_uj = read_int(folder / "max_energy_range_uj")
    return FileCounter(name, domain, folder / "energy_uj", range_uj if range_uj else None)


def perf_counters(roots: Roots = SYSTEM) -> list[PerfCounter]:
    """Find perf's energy events on one processor of each package (of each die, on Intel)."""
    unit = roots.sys / "bus/event_source/devices/power"
    kind = read_int(unit / "type")
    if kind is None:
        return []
    return [
        PerfCounter(f"{package}{suffix}", domain, kind, config, cpu, scale)
        for package, cpu in _counting_cpus(roots, read_text(unit / "cpumask") or "")
        for suffix, domain, config, scale in _events(unit / "events")
    ]


def _events(folder: Path) -> Iterator[tuple[str, Domain, int, float]]:
    for event, domain in _EVENTS.items():
        match = re.fullmatch(r"event=(0x[0-9a-fA-F]+|\d+)", read_text(folder / event) or "")
        scale = read_text(folder / f"{event}.scale")
        if match is None or scale is None or read_text(folder / f"{event}.unit") != "Joules":
            continue
        suffix = "" if domain == "package" else f"/{domain}"
        yield suffix, domain, int(match[1], 0), float(scale)


def _counting_cpus(roots: Roots, mask: str) -> Iterator[tuple[str, int]]:
    """The processors of a mask such as ``0,28``, with their package's name."""
    seen: set[int] = set()
    for span in filter(None, mask.split(",")):
        first, _, last = span.partition("-")
        for cpu in range(int(first), int(last or first) + 1):
            topology = roots.sys / f"devices/system/cpu/cpu{cpu}/topology"
            package = read_int(topology / "physical_package_id")
            package = cpu if package is None else package
            if package not in seen:
                yield f"package-{package}", cpu
            elif not _repeats_dies(roots):
                yield f"package-{package}-cpu-{cpu}", cpu
            seen.add(package)


def hwmon_counters(roots: Roots = SYSTEM) -> list[FileCounter]:
    """Find the sockets and cores that a driver of AMD's counters shows as hardware monitors.

    The driver adds up in 64 bits, so they never turn over.
    """
    counters = []
    for label in sorted((roots.sys / "class/hwmon").glob("hwmon*/energy*_label")):
        text = read_text(label) or ""
        file = label.with_name(label.name.replace("_label", "_input"))
        if (socket := _SOCKET.fullmatch(text)) is not None:
            counters.append(FileCounter(f"package-{socket[1]}", "package", file, 0))
        elif (core := _CORE.fullmatch(text)) is not None:
            counters.append(FileCounter(f"core-{core[1]}", "core", file, 0))
    return counters


def _repeats_dies(roots: Roots) -> bool:
    return vendor(roots) in ("AuthenticAMD", "HygonGenuine")
