"""What else runs, here and on the host."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sllmbench.doctor import effects
from sllmbench.doctor.finding import Finding, Subject, bad, ok, unknown
from sllmbench.hardware.load import NOTABLE_CPU_PERCENT, NOTABLE_STEAL_PERCENT

if TYPE_CHECKING:
    from collections.abc import Iterator

_NAMED = 5


def foreign_load(subject: Subject) -> Iterator[Finding]:
    """Other processes take processor time, caches and memory bandwidth."""
    title = "foreign load"
    seen = subject.load
    watched = f"watched {seen.window_s:.1f} s"
    if not seen.processes:
        yield ok(title, f"no busy process, {watched}", "/proc/*/stat")
        return
    busy = [f"{p.name} ({p.pid}) {p.cpu_percent:.0f}%" for p in seen.processes[:_NAMED]]
    if len(seen.processes) > _NAMED:
        busy.append(f"{len(seen.processes) - _NAMED} more")
    heavy = sum(p.cpu_percent for p in seen.processes) >= NOTABLE_CPU_PERCENT
    yield bad(
        "problem" if heavy else "notice",
        title,
        f"{', '.join(busy)} of one processor, {watched}",
        subject.gauge(effects.kept_off),
        remedy="sudo renice -n 19 -p " + " ".join(str(p.pid) for p in seen.processes),
        advice="lets them run only when nothing else does; ending them is better",
        source="/proc/*/stat",
    )


def steal(subject: Subject) -> Iterator[Finding]:
    """The host of a virtual machine gives its processors to others too."""
    title = "steal"
    file = subject.roots.proc / "stat"
    seen = subject.load
    if seen.steal_percent is None:
        yield unknown(title, seen.reason or "it is not counted", file)
        return
    found = f"the host took {seen.steal_percent:.1f}% of the processors in {seen.window_s:.1f} s"
    if seen.steal_percent < NOTABLE_STEAL_PERCENT:
        yield ok(title, found, file)
        return
    yield bad(
        "problem",
        title,
        found,
        subject.gauge(effects.kept_off),
        advice="ask for dedicated processors; compare only what takes turns in one run",
        source=file,
    )


CHECKS = (foreign_load, steal)
