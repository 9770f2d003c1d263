"""cuobjdump's text → functions of instructions.

An instruction is two lines: its text with the low half of its code, then the high half, whose
upper bits say what the scheduler is to wait for. NVIDIA does not document those; their places are
from Jia et al., "Dissecting the NVIDIA Volta GPU Architecture via Microbenchmarking" (2018), and
hold from sm_70 on:

    bits of the high half   57 … 52     51 … 49         48 … 46          45      44 … 41
                            wait mask   read barrier    write barrier    yield   stall cycles
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_FUNCTION = re.compile(r"^\s*Function : (\S+)$", re.MULTILINE)
_INSTRUCTION = re.compile(
    r"/\*(?P<address>[0-9a-f]{4,})\*/\s+"
    r"(?:(?P<predicate>@!?U?P\w+)\s+)?(?P<opcode>[A-Z][\w.]*)\s*(?P<operands>[^;]*?)\s*;"
    r"\s*/\* 0x[0-9a-f]{16} \*/\s*/\* 0x(?P<high>[0-9a-f]{16}) \*/"
)
_NO_BARRIER = 7


@dataclass(frozen=True)
class Instruction:
    """One instruction of a warp."""

    address: int
    """Bytes from the function's first instruction."""
    predicate: str | None
    """``@P0`` or ``@!UP1``; None where it is always executed."""
    opcode: str
    """With its modifiers: ``LDG.E.128.CONSTANT.SYS``."""
    operands: str
    waits_for: frozenset[int]
    """Scoreboards, 0 to 5, that must be empty before it is issued."""
    completes: int | None
    """The scoreboard that is held until its result is there."""

    @property
    def name(self) -> str:
        """The opcode without modifiers."""
        return self.opcode.partition(".")[0]

    @property
    def modifiers(self) -> tuple[str, ...]:
        """What follows the opcode's name."""
        return tuple(self.opcode.split(".")[1:])

    @property
    def target(self) -> int | None:
        """Where a branch goes, bytes from the function's start; None where no address is named."""
        addresses = re.findall(r"\b0x([0-9a-f]+)\b", self.operands)
        return int(addresses[-1], 16) if addresses else None


@dataclass(frozen=True)
class Function:
    """The instructions of a kernel in the order of their addresses."""

    name: str
    """Mangled."""
    instructions: tuple[Instruction, ...]


def parse(text: str) -> dict[str, Function]:
    """Read ``cuobjdump -sass``; functions by mangled name, in the text's order.

    A function that several objects of a file hold is read once: a linker keeps one of them, too.
    """
    functions: dict[str, Function] = {}
    starts = list(_FUNCTION.finditer(text))
    for i, start in enumerate(starts):
        end = starts[i + 1].start() if i + 1 < len(starts) else len(text)
        body = text[start.end() : end]
        found = tuple(_instruction(match) for match in _INSTRUCTION.finditer(body))
        functions.setdefault(start.group(1), Function(start.group(1), found))
    return functions


def _instruction(match: re.Match[str]) -> Instruction:
    high = int(match["high"], 16)
    barrier = high >> 46 & 7
    return Instruction(
        address=int(match["address"], 16),
        predicate=match["predicate"],
        opcode=match["opcode"],
        operands=match["operands"],
        waits_for=frozenset(i for i in range(6) if high >> (52 + i) & 1),
        completes=None if barrier == _NO_BARRIER else barrier,
    )
