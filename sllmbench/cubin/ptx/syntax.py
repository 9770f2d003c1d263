"""What a PTX module consists of: entries, their variables, instructions, operands."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sllmbench.cubin.ptx.scalars import Scalar


@dataclass(frozen=True)
class Register:
    """A virtual or a special register; of those in inner scopes the name says which scope."""

    name: str


@dataclass(frozen=True)
class Negated:
    """The opposite of a predicate register."""

    register: Register


@dataclass(frozen=True)
class Immediate:
    """A constant, as bits (two's complement, or IEEE's for a float); the type says how many."""

    bits: int


@dataclass(frozen=True)
class Symbol:
    """A variable's address, or a label."""

    name: str
    offset: int = 0


@dataclass(frozen=True)
class Address:
    """A place in memory: what the brackets hold, and bytes from there."""

    base: Register | Symbol | Immediate
    offset: int = 0


@dataclass(frozen=True)
class Vector:
    """Several operands in braces."""

    elements: tuple[Operand, ...]


@dataclass(frozen=True)
class Pair:
    """Two destinations, as in `setp.lt.s32 p|q, a, b`."""

    first: Operand
    second: Operand


Operand = Register | Negated | Immediate | Symbol | Address | Vector | Pair


@dataclass(frozen=True)
class Instruction:
    """One instruction: `@!p opcode.part.part.type operands;`."""

    number: int  # its place in the entry
    line: int  # in the text
    text: str
    opcode: str
    modifiers: tuple[str, ...]  # the parts that are no types
    types: tuple[Scalar, ...]
    operands: tuple[Operand, ...]
    predicate: Register | Negated | None


@dataclass(frozen=True)
class Variable:
    """A named stretch of a state space: `offset` and `size` in bytes."""

    name: str
    offset: int
    size: int


@dataclass(frozen=True)
class Variables:
    """One state space's variables by name, and the bytes that all of them take."""

    by_name: dict[str, Variable]
    size: int


@dataclass(frozen=True)
class Entry:
    """A kernel."""

    name: str
    parameters: Variables
    registers: dict[str, Scalar]
    shared: Variables
    local: Variables  # of one thread
    constants: Variables  # the module's .const and .global variables
    constant_data: bytes
    instructions: tuple[Instruction, ...]
    labels: dict[str, int]  # the number of the instruction behind each
    most_threads: int | None  # of a block, where the kernel says so
