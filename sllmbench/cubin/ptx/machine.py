"""Runs a kernel: all threads of some blocks at a time, each with a program counter of its own.

Those at the lowest counter go next, together, as far as the code is straight; so threads that a
branch has parted meet again where both ways lead. Blocks run in order of their numbers where they
are too many to run at once: a kernel whose blocks wait for each other is not for here.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

import numpy as np

# Each of these registers its instructions.
from sllmbench.cubin.ptx import (  # noqa: F401
    instructions_compare,
    instructions_convert,
    instructions_float,
    instructions_integer,
    instructions_memory,
    instructions_mma,
    instructions_warp,
)
from sllmbench.cubin.ptx.faults import Fault
from sllmbench.cubin.ptx.instructions_control import PARTING
from sllmbench.cubin.ptx.registry import decode
from sllmbench.cubin.ptx.state import Index, State, Step, Triple
from sllmbench.cubin.ptx.trace import Trace

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sllmbench.cubin.ptx.memory import Memory
    from sllmbench.cubin.ptx.scalars import Array
    from sllmbench.cubin.ptx.syntax import Entry, Instruction

LANES_AT_ONCE = 1 << 14
MOST_STEPS = 10_000_000  # instructions of one batch of blocks; beyond, a loop is taken for endless


def run(
    entry: Entry,
    grid: tuple[int, ...],
    block: tuple[int, ...],
    arguments: Sequence[bytes],
    memory: Memory,
    trace: Trace | None = None,
) -> Trace:
    """Launch a kernel: its parameters as the bytes of each, one to three lengths of grid and block.

    What it writes is then in `memory`. Fault where it does what it must not; ValueError where the
    launch does not fit the kernel; UnknownInstructionError where this interpreter cannot run it.
    """
    trace = Trace() if trace is None else trace
    trace.begin(entry)
    lengths, block_lengths = _triple(grid), _triple(block)
    threads = prod(block_lengths)
    if entry.most_threads is not None and threads > entry.most_threads:
        raise ValueError(f"blocks of {threads} threads; the kernel allows {entry.most_threads}")
    parameters = _packed(entry, arguments)
    at_once = max(1, LANES_AT_ONCE // threads)
    memory.seal()
    with np.errstate(all="ignore"):
        for first in range(0, prod(lengths), at_once):
            blocks = range(first, min(first + at_once, prod(lengths)))
            observe = trace.observe if trace.addresses else None
            state = State(entry, lengths, block_lengths, blocks, parameters, memory, observe)
            _Machine(state, trace).run()
    return trace


class _Machine:
    """The decoded kernel, on some blocks."""

    def __init__(self, state: State, trace: Trace) -> None:
        self._state, self._trace = state, trace
        self._code: list[tuple[Instruction, Step, Callable[[Index], Array] | None]] = [
            (i, decode(state, i), None if i.predicate is None else state.predicate(i.predicate))
            for i in state.entry.instructions
        ]
        self._ends = _ends_of_straight_code(state.entry)

    def run(self) -> None:
        flow, steps = self._state.flow, 0
        while True:
            group = flow.next()
            if group is None:
                blocks = flow.release()
                if not len(blocks):
                    return
                self._state.shared.races.pass_block_barrier(blocks)
                continue
            pc, index = group
            if pc == len(self._code):
                flow.leave(index)
                continue
            flow.go(index, self._ends[pc])
            self._run_straight(pc, self._ends[pc], index)
            steps += self._ends[pc] - pc
            if steps > MOST_STEPS:
                raise Fault(f"still running after {steps} instructions: a loop without an end?")

    def _run_straight(self, start: int, end: int, index: Index) -> None:
        together = self._count(index)
        for instruction, step, guard in self._code[start:end]:
            lanes, counts = index, together
            if guard is not None:
                lanes = _narrowed(index, guard(index))
                counts = self._count(lanes)
                if not counts[0]:
                    continue
            self._trace.threads[instruction.number] += counts[0]
            self._trace.warps[instruction.number] += counts[1]
            try:
                step(lanes)
            except Fault as fault:
                raise Fault(f"line {instruction.line}: {instruction.text}: {fault}") from fault

    def _count(self, index: Index) -> tuple[int, int]:
        """Lanes and warps."""
        if isinstance(index, slice):
            return self._state.lane_count, self._state.lane_count // 32
        return len(index), int(np.count_nonzero(np.diff(index >> 5))) + 1 if len(index) else 0


def _narrowed(index: Index, holds: Array) -> Index:
    if holds.all():
        return index
    return np.flatnonzero(holds) if isinstance(index, slice) else index[holds]


def _ends_of_straight_code(entry: Entry) -> list[int]:
    """For each instruction, up to where those who are there go on together."""
    starts = {i.number + 1 for i in entry.instructions if i.opcode in PARTING}
    starts |= {*entry.labels.values(), len(entry.instructions)}
    ends, end = [], len(entry.instructions)
    for number in reversed(range(len(entry.instructions))):
        if number + 1 in starts:
            end = number + 1
        ends.append(end)
    return ends[::-1]


def _triple(lengths: tuple[int, ...]) -> Triple:
    if not 1 <= len(lengths) <= 3 or min(lengths) < 1:
        raise ValueError(f"not the lengths of a grid or a block: {lengths}")
    x, y, z = (*lengths, 1, 1)[:3]
    return x, y, z


def _packed(entry: Entry, arguments: Sequence[bytes]) -> bytes:
    """The parameters as they lie behind each other."""
    parameters = list(entry.parameters.by_name.values())
    if [len(argument) for argument in arguments] != [p.size for p in parameters]:
        raise ValueError(
            f"{entry.name} takes parameters of {[p.size for p in parameters]} bytes, "
            f"not of {[len(argument) for argument in arguments]}"
        )
    packed = bytearray(entry.parameters.size)
    for parameter, argument in zip(parameters, arguments, strict=True):
        packed[parameter.offset : parameter.offset + parameter.size] = argument
    return bytes(packed)
