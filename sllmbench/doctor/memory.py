"""Where memory is, and whether there is enough."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from sllmbench.doctor import effects
from sllmbench.doctor.finding import Finding, Subject, bad, ok, unknown, unmeasured, write
from sllmbench.hardware import memory
from sllmbench.hardware.roots import KIB, parse_list, read_fields, read_text

if TYPE_CHECKING:
    from collections.abc import Iterator

_GIB = 1024**3
_LITTLE_SHARE = 0.1
"""Of the machine's memory; the kernel then gives up file pages that a model is mapped from."""
_HUGE_PAGES = "kernel/mm/transparent_hugepage/enabled"


def swap(subject: Subject) -> Iterator[Finding]:
    """What lies in swap is read from disk when it is next needed."""
    title = "swap"
    file = subject.roots.proc / "meminfo"
    total, free = (_kib(subject, name) for name in ("SwapTotal", "SwapFree"))
    if total is None or free is None:
        yield unknown(title, f"{file} has no SwapTotal and SwapFree")
    elif total == free:
        yield ok(title, "none in use" if total else "none", file)
    else:
        effect = subject.gauge(effects.pages_swapped, subject.roots.proc / "vmstat")
        yield bad(
            "problem" if effect.value else "notice",
            title,
            f"{(total - free) * KIB / _GIB:.2f} of {total * KIB / _GIB:.1f} GiB in use",
            effect,
            remedy="sudo swapoff -a",
            advice="needs as much free memory; afterwards: sudo swapon -a",
            source=file,
        )


def free_memory(subject: Subject) -> Iterator[Finding]:
    """Without free memory a model's pages are read from disk over and over."""
    title = "free memory"
    file = subject.roots.proc / "meminfo"
    left = memory.available_bytes(subject.roots)
    total = memory.total_bytes(subject.roots)
    if left is None:
        yield unknown(title, f"{file} has no MemAvailable")
        return
    found = f"{left / _GIB:.1f} of {total / _GIB:.1f} GiB can be taken"
    if left >= _LITTLE_SHARE * total:
        yield ok(title, found, file)
        return
    yield bad(
        "problem",
        title,
        found,
        unmeasured("it depends on the model's size"),
        advice="end the processes that hold most: ps -eo pid,rss,comm --sort=-rss | head",
        source=file,
    )


def huge_pages(subject: Subject) -> Iterator[Finding]:
    """Weights are read from huge pages where the kernel gives them."""
    title = "transparent huge pages"
    file = subject.roots.sys / _HUGE_PAGES
    chosen = re.search(r"\[(\w+)\]", read_text(file) or "")
    if chosen is None:
        yield unknown(title, f"{file} cannot be read")
    elif chosen[1] != "never":
        yield ok(title, chosen[1], file)
    else:
        yield bad(
            "problem",
            title,
            "never given",
            subject.gauge(effects.huge_pages),
            remedy=write("madvise", f"/sys/{_HUGE_PAGES}"),
            source=file,
        )


def numa(subject: Subject) -> Iterator[Finding]:
    """Memory of another socket is farther away; which one a page gets is chance."""
    title = "NUMA"
    folders = (subject.roots.sys / "devices/system/node").glob("node[0-9]*")
    nodes = {
        int(folder.name.removeprefix("node")): mine
        for folder in folders
        if (mine := parse_list(read_text(folder / "cpulist") or "") & subject.allowed)
    }
    status = read_fields(subject.roots.proc / "self/status")
    memories = parse_list(status.get("Mems_allowed_list", ""))
    if not nodes:
        yield unknown(title, "no nodes in /sys/devices/system/node")
    elif len(nodes) == 1:
        yield ok(title, "the usable processors are of one node")
    else:
        first, second, *_ = sorted(nodes)
        yield bad(
            "notice",
            title,
            f"the usable processors are of {len(nodes)} nodes, memory of {len(memories)}, unbound",
            subject.gauge(effects.far_memory, min(nodes[first]), min(nodes[second])),
            remedy=f"numactl --cpunodebind={first} --membind={first} sllmbench run",
            advice="that uses one node; numactl --interleave=all uses all and spreads the pages",
            source="/sys/devices/system/node",
        )


CHECKS = (swap, free_memory, huge_pages, numa)


def _kib(subject: Subject, name: str) -> int | None:
    value = read_fields(subject.roots.proc / "meminfo").get(name, "").removesuffix("kB").strip()
    return int(value) if value.isdecimal() else None
