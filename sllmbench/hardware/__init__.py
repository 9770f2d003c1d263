"""What this computer is, what it can reach, and what disturbs it at the moment.

:func:`machine` says all of it and measures for a few seconds; :func:`facts` is quick and gives
only what identifies hardware and software in a record.
"""

from __future__ import annotations

import os
from importlib import metadata
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from sllmbench import _native
from sllmbench.errors import InputError
from sllmbench.hardware import cpu, energy, gpu, load, memory, roofs
from sllmbench.hardware.cpu import Cache, Cores
from sllmbench.hardware.energy import SensorStatus, energy_sensors
from sllmbench.hardware.gpu import Gpu
from sllmbench.hardware.load import ForeignProcess, Load
from sllmbench.hardware.roofs import PeakRate, ReadBandwidth
from sllmbench.hardware.roots import SYSTEM, Roots

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "Cache",
    "Cores",
    "ForeignProcess",
    "Gpu",
    "Isa",
    "Load",
    "Machine",
    "Memory",
    "PeakRate",
    "ReadBandwidth",
    "SensorStatus",
    "energy_sensors",
    "facts",
    "machine",
]

_LIBRARIES = ("sllmbench", "torch", "transformers", "numpy", "gguf")


class Memory(BaseModel):
    """Memory of the machine and what may still be taken of it, cgroup limits included."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    total_bytes: int
    available_bytes: int | None
    reason: str | None


class Isa(BaseModel):
    """An instruction set that this build has kernels for; ``active`` is the one that is used."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    supported: bool
    reason: str | None
    active: bool


class Machine(BaseModel):
    """This computer. What could not be found is None or empty, with a reason beside it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cpu_model: str
    vendor: str | None
    virtual: bool
    os: str
    cores: Cores
    caches: tuple[Cache, ...]
    caches_reason: str | None
    memory: Memory
    isas: tuple[Isa, ...]
    read_bandwidth: tuple[ReadBandwidth, ...]
    peak_rates: tuple[PeakRate, ...]
    roofs_reason: str | None
    """Why bandwidth and rates, or some of them, are missing."""
    energy_sensors: tuple[SensorStatus, ...]
    gpus: tuple[Gpu, ...]
    gpu_reason: str | None
    load: Load
    libraries: dict[str, str]
    """Versions of the installed ones among those that numbers depend on."""


def machine(measure: bool = True, *, roots: Roots = SYSTEM) -> Machine:
    """Describe this computer; with ``measure`` for 3 to 5 s, else in about a third of one.

    Foreign load is watched first, before the measurements make a load of their own.

    Args:
        measure: whether to measure read bandwidth and arithmetic rates.
        roots: the folders that stand for /proc and /sys.

    Raises:
        InputError: $SLLMBENCH_ISA names no instruction set that can run here.
    """
    isas = _isas()
    now = load.watch(roots=roots)
    cores = cpu.cores(roots)
    caches, caches_reason = cpu.caches(roots)
    total_bytes, free_bytes = memory.total_bytes(roots), memory.available_bytes(roots)
    gpus, gpu_reason = gpu.find()
    bandwidths = roofs.read_bandwidths(caches, cores.usable, free_bytes) if measure else ()
    return Machine(
        cpu_model=cpu.model_name(roots),
        vendor=cpu.vendor(roots),
        virtual=cpu.is_virtual(roots),
        os=_os(),
        cores=cores,
        caches=caches,
        caches_reason=caches_reason,
        memory=Memory(
            total_bytes=total_bytes,
            available_bytes=free_bytes,
            reason=None if free_bytes is not None else "no MemAvailable in /proc/meminfo",
        ),
        isas=isas,
        read_bandwidth=bandwidths,
        peak_rates=roofs.peak_rates(cores.usable) if measure else (),
        roofs_reason=_roofs_reason(measure, bandwidths),
        energy_sensors=tuple(energy.energy_sensors(roots)),
        gpus=gpus,
        gpu_reason=gpu_reason,
        load=now,
        libraries=libraries(),
    )


def facts(*, roots: Roots = SYSTEM) -> dict[str, Any]:
    """Return the fields of :class:`sllmbench.record.MachineFacts`, without measuring anything.

    ``cores`` are physical ones, logical where the kernel does not tell them apart.
    """
    cores = cpu.cores(roots)
    return {
        "cpu_model": cpu.model_name(roots),
        "cores": cores.physical or cores.logical,
        "memory_bytes": memory.total_bytes(roots),
        "isas": tuple(_native.supported_isas()),
        "os": _os(),
        "libraries": libraries(),
    }


def _isas() -> tuple[Isa, ...]:
    try:
        active = _native.active_isa()
    except ValueError as error:
        raise InputError(str(error)) from error
    reasons = {name: _native.isa_unsupported_reason(name) for name in _native.compiled_isas()}
    return tuple(
        Isa(name=name, supported=reason is None, reason=reason, active=name == active)
        for name, reason in reasons.items()
    )


def _roofs_reason(measure: bool, bandwidths: tuple[ReadBandwidth, ...]) -> str | None:
    if not measure:
        return "not asked for"
    missing = [
        level for level in ("L2", "L3", "DRAM") if level not in {band.level for band in bandwidths}
    ]
    if not missing:
        return None
    return (
        f"no {' and '.join(missing)} bandwidth: the caches are unknown or not apart in size, "
        "or too little memory is free"
    )


def _os() -> str:
    system = os.uname()
    return f"{system.sysname} {system.release} {system.machine}"


def libraries(names: Sequence[str] = _LIBRARIES) -> dict[str, str]:
    """Versions of the installed ones among ``names``, by default those that every number has."""
    versions = {}
    for name in names:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions
