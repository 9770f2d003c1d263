"""How much memory there is and how much may still be used."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sllmbench.hardware.roots import (
    KIB,
    SYSTEM,
    Roots,
    cgroup_folders,
    read_fields,
    read_int,
    read_text,
)

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class Limit:
    """A cgroup's limit, the file that sets it, and what counts against it now."""

    file: Path
    limit_bytes: int
    used_bytes: int
    """Without cached file pages, which are given up first."""


def total_bytes(roots: Roots = SYSTEM) -> int:
    """The machine's memory, whatever this process's cgroup may use of it."""
    return _meminfo_bytes(roots, "MemTotal") or os.sysconf("SC_PHYS_PAGES") * os.sysconf(
        "SC_PAGE_SIZE"
    )


def available_bytes(roots: Roots = SYSTEM) -> int | None:
    """Memory that can still be taken without swapping or passing a cgroup's limit.

    The least of the kernel's MemAvailable and what is left in every cgroup above this process,
    version 1 or 2; cached file pages count as free there. None where the kernel tells neither.
    """
    left = [_meminfo_bytes(roots, "MemAvailable")]
    left += [limit.limit_bytes - limit.used_bytes for limit in cgroup_limits(roots)]
    known = [bytes_left for bytes_left in left if bytes_left is not None]
    return max(0, min(known)) if known else None


def cgroup_limits(roots: Roots = SYSTEM) -> list[Limit]:
    """Find what every cgroup above this process, version 1 or 2, may use at most."""
    limits = []
    for folder in cgroup_folders(roots, "memory"):
        for name, usage, inactive in (
            ("memory.max", "memory.current", "inactive_file"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ):
            limit_bytes = read_int(folder / name)
            used_bytes = read_int(folder / usage)
            if limit_bytes is not None and used_bytes is not None:
                cached_bytes = _stat_bytes(read_text(folder / "memory.stat"), inactive)
                limits.append(Limit(folder / name, limit_bytes, max(0, used_bytes - cached_bytes)))
    return limits


def _meminfo_bytes(roots: Roots, field: str) -> int | None:
    value = read_fields(roots.proc / "meminfo").get(field, "").removesuffix("kB").strip()
    return int(value) * KIB if value.isdecimal() else None


def _stat_bytes(stat: str | None, field: str) -> int:
    for line in (stat or "").splitlines():
        name, _, value = line.partition(" ")
        if name == field and value.isdecimal():
            return int(value)
    return 0
