"""The processor: what it is, its cores and caches, and how much of it this process may use."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict

from sllmbench.hardware.roots import (
    KIB,
    SYSTEM,
    Roots,
    cgroup_folders,
    parse_list,
    read_fields,
    read_int,
    read_text,
)

if TYPE_CHECKING:
    from pathlib import Path

CacheKind = Literal["data", "instruction", "unified"]


class Cores(BaseModel):
    """How many processors there are and how many this process may use.

    ``sockets`` and ``physical`` are None where ``reason`` says why. ``quota`` is the cgroup's
    limit in processors, None where there is none. ``usable`` is the number of threads worth
    starting: the affinity mask, no more than the quota.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    sockets: int | None
    physical: int | None
    logical: int
    affinity: int
    quota: float | None
    usable: int
    reason: str | None = None


class Cache(BaseModel):
    """The caches of one level and kind: ``instances`` of them, of ``bytes`` each."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    level: int
    kind: CacheKind
    bytes: int
    instances: int


@dataclass(frozen=True)
class Quota:
    """A cgroup's limit in processors, and the file that sets it."""

    processors: float
    file: Path


def vendor(roots: Roots = SYSTEM) -> str | None:
    """Who made the processor, as it says itself: ``GenuineIntel``, or ARM's number of the maker."""
    fields = read_fields(roots.proc / "cpuinfo")
    return fields.get("vendor_id") or fields.get("CPU implementer")


def model_name(roots: Roots = SYSTEM) -> str:
    """The processor's name; on ARM, where the kernel has none, the board's and the part numbers."""
    fields = read_fields(roots.proc / "cpuinfo")
    if "model name" in fields:
        return fields["model name"]
    board = read_text(roots.sys / "firmware/devicetree/base/model")
    named = [] if board is None else [board.rstrip("\0")]
    if "CPU part" in fields:
        named.append(f"implementer {fields.get('CPU implementer')} part {fields['CPU part']}")
    return ", ".join([*named, os.uname().machine])


def is_virtual(roots: Roots = SYSTEM) -> bool:
    """Whether the processor says that a hypervisor is beneath; x86 only."""
    return "hypervisor" in read_fields(roots.proc / "cpuinfo").get("flags", "").split()


def cores(roots: Roots = SYSTEM) -> Cores:
    """Count sockets, cores and logical processors, and those that may be used."""
    folders = _cpu_folders(roots)
    sockets = {read_int(folder / "topology/physical_package_id") for folder in folders} - {None}
    in_cores = siblings(roots)
    affinity = len(os.sched_getaffinity(0))
    limit = quota(roots)
    quota_processors = None if limit is None else limit.processors
    known = bool(sockets and in_cores)
    return Cores(
        sockets=len(sockets) if known else None,
        physical=len(in_cores) if known else None,
        logical=len(folders) if known else os.cpu_count() or affinity,
        affinity=affinity,
        quota=quota_processors,
        usable=affinity
        if quota_processors is None
        else max(1, min(affinity, int(quota_processors))),
        reason=None if known else "no topology in /sys/devices/system/cpu",
    )


def siblings(roots: Roots = SYSTEM) -> set[frozenset[int]]:
    """The processors of each core that is online; empty where the kernel does not tell."""
    return {
        parse_list(
            read_text(folder / "topology/core_cpus_list")
            or read_text(folder / "topology/thread_siblings_list")
            or ""
        )
        for folder in _cpu_folders(roots)
    } - {frozenset()}


def quota(roots: Roots = SYSTEM) -> Quota | None:
    """Find the smallest of the processor quotas in the cgroups above this process."""
    quotas = []
    for folder in cgroup_folders(roots, "cpu"):
        limit, _, period = (read_text(folder / "cpu.max") or "max").partition(" ")
        if limit.isdecimal() and period.isdecimal():
            quotas.append(Quota(int(limit) / int(period), folder / "cpu.max"))
        quota_us = read_int(folder / "cpu.cfs_quota_us")
        period_us = read_int(folder / "cpu.cfs_period_us")
        if quota_us is not None and period_us is not None and quota_us > 0:
            quotas.append(Quota(quota_us / period_us, folder / "cpu.cfs_quota_us"))
    return min(quotas, key=lambda found: found.processors, default=None)


def caches(roots: Roots = SYSTEM) -> tuple[tuple[Cache, ...], str | None]:
    """Return the caches of the whole machine by level, or none and the reason."""
    seen = {
        cache
        for folder in _cpu_folders(roots)
        for index in (folder / "cache").glob("index*")
        if (cache := _cache(index)) is not None
    }
    if not seen:
        return (), "no cache sizes in /sys/devices/system/cpu"
    instances = Counter((level, kind, size) for level, kind, size, _ in seen)
    return tuple(
        Cache(level=level, kind=kind, bytes=size, instances=count)
        for (level, kind, size), count in sorted(instances.items())
    ), None


def _cpu_folders(roots: Roots) -> list[Path]:
    """The folders of the processors that are online, which alone have a topology."""
    folders = (roots.sys / "devices/system/cpu").glob("cpu[0-9]*")
    return [folder for folder in folders if (folder / "topology").is_dir()]


def _cache(index: Path) -> tuple[int, CacheKind, int, str] | None:
    """Level, kind, bytes and the processors that share it."""
    kinds: dict[str, CacheKind] = {
        "Data": "data",
        "Instruction": "instruction",
        "Unified": "unified",
    }
    level, kind = read_int(index / "level"), kinds.get(read_text(index / "type") or "")
    size = (read_text(index / "size") or "").removesuffix("K")
    shared = read_text(index / "shared_cpu_list")
    if level is None or kind is None or not size.isdecimal() or shared is None:
        return None
    return level, kind, int(size) * KIB, shared
