"""What this process may use of the machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sllmbench.doctor import effects
from sllmbench.doctor.finding import Finding, Subject, bad, ok, unknown, unmeasured, write
from sllmbench.hardware import cpu, memory
from sllmbench.hardware.roots import cgroup_folders, parse_list, read_text

if TYPE_CHECKING:
    from collections.abc import Iterator

_GIB = 1024**3


def affinity(subject: Subject) -> Iterator[Finding]:
    """The mask may leave out processors that are online."""
    title = "affinity mask"
    file = subject.roots.sys / "devices/system/cpu/online"
    online = parse_list(read_text(file) or "")
    allowed = subject.allowed
    if not online:
        yield unknown(title, f"{file} cannot be read")
    elif allowed >= online:
        yield ok(title, f"all {len(online)} processors", file)
    else:
        everything = tuple(sorted(online))
        yield bad(
            "problem",
            title,
            f"{len(allowed & online)} of {len(online)} processors may be used",
            subject.gauge(effects.processors, tuple(sorted(allowed)), everything),
            remedy=f"taskset -c {read_text(file)} sllmbench run",
            advice="in a container or job: ask for more processors (docker run --cpuset-cpus)",
            source="sched_getaffinity",
        )


def quota(subject: Subject) -> Iterator[Finding]:
    """A cgroup may stop all threads for the rest of each period."""
    title = "processor quota"
    limit = cpu.quota(subject.roots)
    if limit is None:
        yield ok(title, "none")
        return
    few = len(subject.allowed)
    found = f"{limit.processors:.2f} processors"
    if limit.processors >= few:
        yield ok(title, f"{found}, no fewer than the {few} that may be used", limit.file)
        return
    version_2 = limit.file.name == "cpu.max"
    yield bad(
        "problem",
        title,
        f"{found} of the {few} that may be used",
        subject.gauge(effects.held_back, limit.file.with_name("cpu.stat")),
        remedy=write("max" if version_2 else "-1", limit.file),
        advice="from outside the container: docker update --cpus, or the pod's limits.cpu",
        source=limit.file,
    )


def held_back(subject: Subject) -> Iterator[Finding]:
    """Where there is no quota now, one may have stopped threads a while ago."""
    if cpu.quota(subject.roots) is not None:
        return
    for folder in cgroup_folders(subject.roots, "cpu"):
        file = folder / "cpu.stat"
        counted = effects.throttled(file)
        if counted is not None and counted[0]:
            yield bad(
                "notice",
                "processor quota in the past",
                f"threads were held back {counted[0]} times, {counted[1] / 1e9:.1f} s in all",
                subject.gauge(effects.held_back, file),
                advice="what was measured then was slower than the machine",
                source=file,
            )
            return


def memory_limit(subject: Subject) -> Iterator[Finding]:
    """A model beyond a cgroup's limit is killed, and near it file pages are read again."""
    title = "memory limit"
    total_bytes = memory.total_bytes(subject.roots)
    below = [
        found for found in memory.cgroup_limits(subject.roots) if found.limit_bytes < total_bytes
    ]
    if not below:
        yield ok(title, "none below the machine's memory")
        return
    least = min(below, key=lambda found: found.limit_bytes)
    version_2 = least.file.name == "memory.max"
    yield bad(
        "notice",
        title,
        f"{least.limit_bytes / _GIB:.1f} of {total_bytes / _GIB:.1f} GiB,"
        f" {least.used_bytes / _GIB:.1f} used",
        unmeasured("only a model near the limit feels it"),
        remedy=write("max" if version_2 else "-1", least.file),
        advice="from outside the container: docker update --memory",
        source=least.file,
    )


CHECKS = (affinity, quota, held_back, memory_limit)
