"""What a kernel takes of a multiprocessor, as ptxas noted it in the file."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sllmbench.errors import InputError

if TYPE_CHECKING:
    from sllmbench.cubin.tools import Dump

_USE = re.compile(r"^ Function (\S+):\n\s+(REG:.*)$", re.MULTILINE)
_SECTION = re.compile(r"^\.nv\.info\.(\S+)$", re.MULTILINE)
_BOUND = re.compile(
    r"Attribute:\s+EIATTR_(?P<kind>MAX_THREADS|REQNTID)\s+Format:.*\n"
    r"\s+Value:\s+(?P<x>0x[0-9a-f]+) (?P<y>0x[0-9a-f]+) (?P<z>0x[0-9a-f]+)"
)


@dataclass(frozen=True)
class Resources:
    """Of one kernel: a thread's registers and bytes of stack, a block's shared memory."""

    registers: int
    stack_bytes: int
    shared_bytes: int
    max_threads: int | None
    """Of a block, by ``__launch_bounds__``; None where the source sets no bound."""


def parse(dump: Dump) -> dict[str, Resources]:
    """Resources by mangled name.

    Raises:
        InputError: cuobjdump writes them in a way that is not known here.
    """
    bounds = _thread_bounds(dump.elf)
    found: dict[str, Resources] = {}
    for name, text in _USE.findall(dump.resources):
        figures = dict(re.findall(r"(\w+):(\d+)", text))
        try:
            found[name] = Resources(
                int(figures["REG"]),
                int(figures["STACK"]),
                int(figures["SHARED"]),
                bounds.get(name),
            )
        except KeyError as missing:
            raise InputError(f"cuobjdump -res-usage gives no {missing} for {name}") from None
    return found


def _thread_bounds(elf: str) -> dict[str, int]:
    bounds = {}
    sections = list(_SECTION.finditer(elf))
    for section in sections:
        end = elf.find("\n.", section.end())
        match = _BOUND.search(elf, section.end(), end if end >= 0 else len(elf))
        if match is not None:
            x, y, z = (int(match[axis], 16) for axis in "xyz")
            bounds[section.group(1)] = x * y * z
    return bounds
