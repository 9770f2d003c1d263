"""Everything that instructions read and change: the registers and memories of many threads at once.

Threads are lanes of NumPy arrays, block after block, each block's padded to whole warps. An
instruction is decoded once into a step, which is called with the lanes that execute it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from sllmbench.cubin.ptx.faults import UnknownInstructionError
from sllmbench.cubin.ptx.flow import Flow
from sllmbench.cubin.ptx.memory import Memory
from sllmbench.cubin.ptx.scalars import SCALARS, Array, Scalar
from sllmbench.cubin.ptx.scratch import Scratch, Shared
from sllmbench.cubin.ptx.syntax import (
    Address,
    Entry,
    Immediate,
    Instruction,
    Negated,
    Operand,
    Register,
    Symbol,
    Vector,
)

Index = slice | Array  # which lanes: all of them, or their numbers in rising order
Step = Callable[[Index], None]
Triple = tuple[int, int, int]
# Is told of each access: the instruction, the space, bytes a lane, the lanes, their addresses.
Observe = Callable[[Instruction, str, int, Array, Array], None]

# Where generic addresses of a block's and a thread's own memory lie: far from any buffer's. Module
# variables lie where no buffer does either.
SHARED_WINDOW = 1 << 60
LOCAL_WINDOW = 1 << 61
WINDOW_BYTES = 1 << 32
CONSTANTS_ADDRESS = 1 << 62


class State:
    """Some consecutive blocks of a grid while they run."""

    def __init__(
        self,
        entry: Entry,
        grid: Triple,
        block: Triple,
        blocks: range,
        parameters: bytes,
        memory: Memory,
        observe: Observe | None = None,
    ) -> None:
        """These blocks' threads before their first instruction; lengths are x, y, z."""
        threads = block[0] * block[1] * block[2]
        self.threads_per_block = threads
        self.entry, self.memory = entry, memory
        self.observe = observe
        self.parameters, self.constants = Memory(), Memory()
        self.parameters.register(0, parameters, writable=False)
        self.constants.register(CONSTANTS_ADDRESS, entry.constant_data, writable=False)
        self.lanes_per_block = threads + -threads % 32
        self.lane_count = len(blocks) * self.lanes_per_block
        self.lanes: Array = np.arange(self.lane_count)
        self.flow = Flow(self.lanes % self.lanes_per_block < threads, self.lanes_per_block)
        self.shared = Shared(
            entry.shared, len(blocks), self.lanes_per_block, _smallest_access_bytes(entry)
        )
        self.local = Scratch(entry.local, self.lane_count, 1)
        self._registers = {
            name: np.zeros(self.lane_count, np.bool_ if scalar.kind == "p" else f"u{scalar.bytes}")
            for name, scalar in entry.registers.items()
        }
        self._registers |= _special_registers(grid, block, blocks, self.lanes_per_block)

    def read(self, operand: Operand, scalar: Scalar) -> Array:
        """The operand's value of every lane, seen as a type; of a register it stays up to date."""
        if isinstance(operand, Register):
            return scalar.view(self._register(operand))
        if isinstance(operand, Immediate):
            return scalar.constant(operand.bits, self.lane_count)
        if isinstance(operand, Symbol):
            return scalar.constant(self._address_of(operand), self.lane_count)
        raise UnknownInstructionError(f"an operand of an unexpected kind: {operand}")

    def target(self, operand: Operand, scalar: Scalar) -> Array:
        """Where to store an operand of a type; into a wider register it extends."""
        if not isinstance(operand, Register):
            raise UnknownInstructionError(f"a destination that is no register: {operand}")
        if operand.name == "_":
            return scalar.constant(0, self.lane_count).copy()
        return scalar.extended(self._register(operand))

    def predicate(self, operand: Operand) -> Callable[[Index], Array]:
        """Whether a predicate, or its opposite, holds in lanes."""
        if isinstance(operand, Negated):
            negated = self._register(operand.register)
            return lambda index: ~negated[index]
        values = self.read(operand, SCALARS["pred"])
        return lambda index: values[index]

    def addresses(self, operand: Operand) -> Callable[[Index], Array]:
        """The addresses that lanes access, u64."""
        if not isinstance(operand, Address):
            raise UnknownInstructionError(f"an operand that is no address: {operand}")
        offset = np.uint64(operand.offset & (1 << 64) - 1)
        narrow = isinstance(operand.base, Register) and self._register(operand.base).itemsize == 4
        base = self.read(operand.base, SCALARS["u32" if narrow else "u64"])
        return lambda index: base[index].astype(np.uint64) + offset

    def executing(self, index: Index) -> Array:
        """Which lanes execute: bool [warps, 32]."""
        executing = np.zeros(self.lane_count, np.bool_)
        executing[index] = True
        return executing.reshape(-1, 32)

    def _register(self, register: Register) -> Array:
        if register.name not in self._registers:
            raise UnknownInstructionError(f"an unknown register: {register.name}")
        return self._registers[register.name]

    def _address_of(self, symbol: Symbol) -> int:
        for variables, start in (
            (self.entry.shared, 0),
            (self.entry.local, 0),
            (self.entry.parameters, 0),
            (self.entry.constants, CONSTANTS_ADDRESS),
        ):
            if symbol.name in variables.by_name:
                return start + variables.by_name[symbol.name].offset + symbol.offset
        raise UnknownInstructionError(f"an unknown name: {symbol.name}")


def elements(operand: Operand) -> tuple[Operand, ...]:
    """The operands in braces, or the one without."""
    return operand.elements if isinstance(operand, Vector) else (operand,)


def access_bytes(instruction: Instruction) -> int:
    """How much one lane reads or writes by ld, st, atom, red or cp.async."""
    if instruction.opcode == "cp":
        size = instruction.operands[2]
        return size.bits if isinstance(size, Immediate) else 16
    data = instruction.operands[1 if instruction.opcode in ("st", "red") else 0]
    return instruction.types[-1].bytes * len(elements(data))


def _smallest_access_bytes(entry: Entry) -> int:
    """Of what may be shared memory: the grain in which races are looked for."""
    return min(
        (
            access_bytes(instruction)
            for instruction in entry.instructions
            if (instruction.opcode in ("ld", "st") or "async" in instruction.modifiers)
            and not {"param", "local", "const", "commit_group", "wait_group", "wait_all"}
            & set(instruction.modifiers)
            and ("global" not in instruction.modifiers or instruction.opcode == "cp")
        ),
        default=16,
    )


def _special_registers(
    grid: Triple, block: Triple, blocks: range, lanes_per_block: int
) -> dict[str, Array]:
    count = len(blocks) * lanes_per_block
    lane = np.arange(count)
    thread, number = lane % lanes_per_block, lane // lanes_per_block + blocks.start
    registers = {"%laneid": lane % 32, "%warpid": thread // 32}
    for prefix, linear, lengths in (("%tid", thread, block), ("%ctaid", number, grid)):
        registers[f"{prefix}.x"] = linear % lengths[0]
        registers[f"{prefix}.y"] = linear // lengths[0] % lengths[1]
        registers[f"{prefix}.z"] = linear // (lengths[0] * lengths[1])
    for prefix, lengths in (("%ntid", block), ("%nctaid", grid)):
        for axis, length in zip("xyz", lengths, strict=True):
            registers[f"{prefix}.{axis}"] = np.full(count, length)
    return {name: values.astype(np.uint32) for name, values in registers.items()}
