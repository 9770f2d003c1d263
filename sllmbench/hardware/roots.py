"""Where the kernel tells about itself, and how its files are read.

Every probe takes a :class:`Roots`, so that a test can lay out a machine as files.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True)
class Roots:
    """The folders that stand for /proc and /sys."""

    proc: Path = Path("/proc")
    sys: Path = Path("/sys")


SYSTEM = Roots()
KIB = 1024


def read_text(path: Path) -> str | None:
    """The file's text without surrounding space, or None where it is missing or unreadable."""
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return None


def read_int(path: Path) -> int | None:
    """The file's one decimal integer, or None where it is missing, unreadable or something else."""
    text = read_text(path)
    try:
        return None if text is None else int(text)
    except ValueError:
        return None


def read_fields(path: Path) -> dict[str, str]:
    """The ``name: value`` lines of a file such as /proc/meminfo; empty where it is unreadable.

    Of a name that comes several times the first value is kept.
    """
    fields: dict[str, str] = {}
    for line in (read_text(path) or "").splitlines():
        name, colon, value = line.partition(":")
        if colon:
            fields.setdefault(name.strip(), value.strip())
    return fields


def parse_list(text: str) -> frozenset[int]:
    """The numbers of a list such as ``0-3,8``; empty where it is something else."""
    numbers: set[int] = set()
    for part in text.split(","):
        first, _, last = part.strip().partition("-")
        if not first.isdecimal() or not (last or first).isdecimal():
            return frozenset()
        numbers.update(range(int(first), int(last or first) + 1))
    return frozenset(numbers)


def cgroup_folders(roots: Roots, controller: str) -> Iterator[Path]:
    """Folders of this process's cgroups, each before its parent, for ``memory`` or ``cpu``.

    Both versions are yielded, for either may hold a limit. Inside a container the path that
    /proc names may not exist under the mount; the mount's own folder is then the container's.
    """
    for line in (read_text(roots.proc / "self/cgroup") or "").splitlines():
        hierarchy, controllers, path = line.split(":", 2)
        if hierarchy == "0":
            mounts = ["unified", "."]
        elif controller in controllers.split(","):
            mounts = [controllers, controller]
        else:
            continue
        for mount in dict.fromkeys(mounts):
            top = roots.sys / "fs/cgroup" / mount
            folder = top / path.strip("/")
            while folder != top:
                yield folder
                folder = folder.parent
            yield top
