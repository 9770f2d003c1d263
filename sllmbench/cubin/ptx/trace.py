"""What a launch executed: how often each instruction, and how its addresses fall on memory."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from sllmbench.cubin.ptx.registry import Kind, kind_of

if TYPE_CHECKING:
    from sllmbench.cubin.ptx.scalars import Array
    from sllmbench.cubin.ptx.syntax import Entry, Instruction

_SECTOR_BYTES = 32
_BANKS, _BANK_BYTES = 32, 4


@dataclass
class Access:
    """One memory instruction's accesses, summed over requests: executions by one warp."""

    space: str  # global or shared
    bytes_per_lane: int
    requests: int = 0
    lanes: int = 0
    sectors: int = 0  # global: 32-byte sectors touched
    least_sectors: int = 0  # global: as many as the distinct bytes fill
    wavefronts: int = 0  # shared: passes over the banks
    least_wavefronts: int = 0  # shared: without conflicts

    @property
    def bank_conflicts(self) -> int:
        """Passes over shared memory's banks more than there need be."""
        return self.wavefronts - self.least_wavefronts

    @property
    def sectors_per_request(self) -> float:
        """32-byte sectors that one warp's access touches, on average."""
        return self.sectors / self.requests


@dataclass
class Trace:
    """Counts of one kernel's launches. Accesses are only looked at with `addresses`."""

    addresses: bool = False
    entry: Entry | None = None
    threads: Counter[int] = field(default_factory=Counter)  # executions by instruction's number
    warps: Counter[int] = field(default_factory=Counter)  # the same, a warp's counted once
    accesses: dict[int, Access] = field(default_factory=dict)  # by instruction's number

    def begin(self, entry: Entry) -> None:
        """Note whose launches these are; ValueError where it has seen another kernel's."""
        if self.entry is not None and self.entry is not entry:
            raise ValueError(f"the trace is of {self.entry.name}, not of {entry.name}")
        self.entry = entry

    def by_kind(self) -> dict[Kind, int]:
        """Instructions that warps executed, by class."""
        kinds: Counter[Kind] = Counter()
        for number, count in self.warps.items():
            kinds[kind_of(self._instruction(number))] += count
        return dict(kinds)

    def by_opcode(self) -> dict[str, int]:
        """Instructions that warps executed, by their first word with all its parts."""
        names: Counter[str] = Counter()
        for number, count in self.warps.items():
            instruction = self._instruction(number)
            text = instruction.text.split()
            names[text[1 if instruction.predicate else 0]] += count
        return dict(names)

    def accesses_of(self, text: str) -> list[Access]:
        """Those of the instructions whose lines contain the text, in the code's order."""
        numbers = sorted(n for n in self.accesses if text in self._instruction(n).text)
        return [self.accesses[number] for number in numbers]

    def observe(
        self, instruction: Instruction, space: str, width: int, lanes: Array, addresses: Array
    ) -> None:
        """Add one execution: lanes and the addresses where each reads or writes `width` bytes."""
        if not len(lanes):
            return
        access = self.accesses.setdefault(instruction.number, Access(space, width))
        access.lanes += len(lanes)
        access.requests += int(np.count_nonzero(np.diff(lanes >> 5))) + 1
        if space == "global":
            _, per_warp = _distinct(lanes >> 5, lanes & 31, addresses // _SECTOR_BYTES)
            _, pieces = _distinct(lanes >> 5, lanes & 31, addresses // width)
            access.sectors += int(per_warp.sum())
            access.least_sectors += int((-(-pieces * width // _SECTOR_BYTES)).sum())
        else:
            passes = _wavefronts(lanes, addresses, width)
            access.wavefronts += int(passes.sum())
            access.least_wavefronts += len(passes)

    def _instruction(self, number: int) -> Instruction:
        assert self.entry is not None
        return self.entry.instructions[number]


def _distinct(rows: Array, columns: Array, keys: Array) -> tuple[Array, Array]:
    """Each row's distinct keys, sorted, [rows, 32], with a mask's worth of others; and how many."""
    numbers, rows = np.unique(rows, return_inverse=True)
    nothing = np.iinfo(np.uint64).max
    table = np.full((len(numbers), 32), nothing, np.uint64)
    table[rows, columns] = keys
    table.sort(axis=1)
    table[:, 1:][table[:, 1:] == table[:, :-1]] = nothing
    return table, (table != nothing).sum(axis=1)


def _wavefronts(lanes: Array, addresses: Array, width: int) -> Array:
    """Passes over the banks of each phase: of a warp, or of as many lanes as 128 bytes serve."""
    words = max(width // _BANK_BYTES, 1)
    lanes_per_phase = 32 // words
    word = (addresses // np.uint64(_BANK_BYTES))[:, None] + np.arange(words, dtype=np.uint64)
    phase = np.broadcast_to((lanes // lanes_per_phase)[:, None], word.shape)
    column = (lanes % lanes_per_phase * words)[:, None] + np.arange(words)
    table, _ = _distinct(phase.reshape(-1), column.reshape(-1), word.reshape(-1))
    row, place = np.nonzero(table != np.iinfo(np.uint64).max)
    bank = (table[row, place] % _BANKS).astype(np.int64)
    counts = np.bincount(row * _BANKS + bank, minlength=len(table) * _BANKS)
    passes: Array = counts.reshape(-1, _BANKS).max(axis=1)
    return passes
