"""Which function decodes which instruction. What no function knows to the last part is an error."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from sllmbench.cubin.ptx.faults import UnknownInstructionError

if TYPE_CHECKING:
    from sllmbench.cubin.ptx.state import State, Step
    from sllmbench.cubin.ptx.syntax import Instruction


class Kind(StrEnum):
    """The classes that executed instructions are counted in."""

    INTEGER = "integer"
    FLOAT = "float"
    COMPARE = "compare"
    CONVERT = "convert"
    MOVE = "move"
    MEMORY = "memory"
    WARP = "warp"
    MMA = "mma"
    CONTROL = "control"


Decoder = Callable[["State", "Instruction"], "Step"]


@dataclass(frozen=True)
class _Known:
    decoder: Decoder
    kind: Kind
    modifiers: frozenset[str]


_KNOWN: dict[str, _Known] = {}


def decodes(*opcodes: str, kind: Kind, modifiers: str = "") -> Callable[[Decoder], Decoder]:
    """Register a decoder for opcodes with the modifiers that it understands, and no others.

    `add.f` stands for add with a type of floats.
    """

    def register(decoder: Decoder) -> Decoder:
        for opcode in opcodes:
            _KNOWN[opcode] = _Known(decoder, kind, frozenset(modifiers.split()))
        return decoder

    return register


def decode(state: State, instruction: Instruction) -> Step:
    """The step that executes an instruction; UnknownInstructionError names one that nothing can."""
    known = _known(instruction)
    strange = set(instruction.modifiers) - known.modifiers
    if strange:
        raise unknown(instruction, f"not with .{', .'.join(sorted(strange))}")
    try:
        return known.decoder(state, instruction)
    except UnknownInstructionError as error:
        raise unknown(instruction, str(error)) from error
    except (IndexError, KeyError) as error:
        raise unknown(instruction, "not with these types or operands") from error


def kind_of(instruction: Instruction) -> Kind:
    """The class an instruction is counted in."""
    return _known(instruction).kind


def unknown(instruction: Instruction, why: str) -> UnknownInstructionError:
    """The error that names an instruction."""
    return UnknownInstructionError(f"line {instruction.line}: {instruction.text}: {why}")


def _known(instruction: Instruction) -> _Known:
    floats = bool(instruction.types) and instruction.types[-1].kind == "f"
    known = _KNOWN.get(f"{instruction.opcode}.f") if floats else None
    known = known or _KNOWN.get(instruction.opcode)
    if known is None:
        raise unknown(instruction, "no such instruction is known")
    return known
