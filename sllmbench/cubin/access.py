"""Loads and stores: how wide, to which memory, and how many bytes are under way at once."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sllmbench.cubin.sass import Instruction

_STEADY_TRIPS = 8
"""Trips after which what is under way repeats: more than any pipeline here has stages."""


def is_global_load(instruction: Instruction) -> bool:
    """A load from global memory, into registers or right into shared memory."""
    return instruction.name in ("LDG", "LDGSTS", "LD")


def is_read_once(instruction: Instruction) -> bool:
    """A load that asks not to be kept in L1 (``load_once``): what our kernels read weights with."""
    return instruction.name == "LDG" and "NA" in instruction.modifiers


def width_bytes(instruction: Instruction) -> int:
    """Bytes that a lane loads or stores."""
    for modifier in instruction.modifiers:
        if modifier in ("128", "64"):
            return int(modifier) // 8
        if re.fullmatch(r"[US](8|16)", modifier):
            return int(modifier[1:]) // 8
    if instruction.name == "LDSM":  # a lane gets a word of each matrix
        return 4 * int(instruction.modifiers[-1]) if instruction.modifiers[-1].isdigit() else 4
    return 4


def widths(instructions: Iterable[Instruction]) -> dict[str, int]:
    """How many accesses there are of each width in bits, the widest first."""
    counted = Counter(8 * width_bytes(i) for i in instructions)
    return {str(bits): counted[bits] for bits in sorted(counted, reverse=True)}


def bytes_in_flight(trip: Sequence[Instruction]) -> int:
    """Bytes of global memory that a lane has asked for and not yet waited for, at the most.

    Of a loop in its steady state, its trips issued one after the other. A load is under way until
    an instruction waits for its scoreboard, cp.async until its group is waited for. A wait empties
    a scoreboard whole, as on the device, so two loads that share one end together.
    """
    held: dict[int, int] = {}
    groups: list[int] = []
    uncommitted = peak = 0
    for _ in range(_STEADY_TRIPS):
        peak = 0
        for instruction in trip:
            for scoreboard in instruction.waits_for:
                held.pop(scoreboard, None)
            if instruction.name == "LDGSTS":
                uncommitted += width_bytes(instruction)
            elif instruction.name == "LDGDEPBAR":
                groups.append(uncommitted)
                uncommitted = 0
            elif instruction.name == "DEPBAR":
                groups = groups[len(groups) - _groups_left(instruction, len(groups)) :]
            elif is_global_load(instruction) and instruction.completes is not None:
                held[instruction.completes] = held.get(instruction.completes, 0) + width_bytes(
                    instruction
                )
            peak = max(peak, sum(held.values()) + sum(groups) + uncommitted)
    return peak


def _groups_left(wait: Instruction, groups: int) -> int:
    """How many of the newest groups ``DEPBAR.LE SB0, 0x1`` lets be under way."""
    pending = wait.target
    return groups if pending is None else min(pending, groups)
