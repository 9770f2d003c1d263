"""The text of one instruction → an Instruction: opcode, modifiers, types, operands."""

from __future__ import annotations

import re

from sllmbench.cubin.ptx.faults import ParseError
from sllmbench.cubin.ptx.scalars import SCALARS, Scalar
from sllmbench.cubin.ptx.syntax import (
    Address,
    Immediate,
    Instruction,
    Negated,
    Operand,
    Pair,
    Register,
    Symbol,
    Vector,
)

_INSTRUCTION = re.compile(r"(?:@(!?)([\w$%]+)\s+)?([a-z]\w*)((?:\.[\w:]+)*)\s*(.*)")
_INTEGER = re.compile(r"-?(?:0[xX][0-9a-fA-F]+|\d+)U?")
_FLOAT = re.compile(r"0[fFdD][0-9a-fA-F]+")
_ADDRESS = re.compile(r"\[\s*([\w$%.]+)\s*(?:([+-])\s*(-?\w+)\s*)?\]")


class Names:
    """Which scope each register and label belongs to: an inner one hides an outer one's."""

    def __init__(self) -> None:
        """The outermost scope, 0, is open."""
        self.registers: dict[str, Scalar] = {}
        self._parents = [0]
        self._declared: list[set[str]] = [set()]

    def open_scope(self, parent: int) -> int:
        """A new scope's number."""
        self._parents.append(parent)
        self._declared.append(set())
        return len(self._parents) - 1

    def declare(self, scope: int, name: str) -> str:
        """Add a name to a scope; the name that is unique in the entry."""
        self._declared[scope].add(name)
        return self._unique(scope, name)

    def declare_registers(self, scope: int, text: str) -> None:
        """`.reg .b32 %r<684>` or `.reg .u64 a, b`."""
        found = re.fullmatch(r"\.reg\s+\.(\w+)\s+(.*)", text)
        if not found or found[1] not in SCALARS:
            raise ParseError(f"not a declaration of registers: {text}")
        for name in found[2].split(","):
            many = re.fullmatch(r"([\w$%]+)<(\d+)>", name.strip())
            for one in [f"{many[1]}{i}" for i in range(int(many[2]))] if many else [name.strip()]:
                self.registers[self.declare(scope, one)] = SCALARS[found[1]]

    def resolve(self, scope: int, name: str) -> str:
        """The unique name of what `name` means in a scope; itself where nothing declares it."""
        while name not in self._declared[scope] and scope:
            scope = self._parents[scope]
        return self._unique(scope, name) if name in self._declared[scope] else name

    @staticmethod
    def _unique(scope: int, name: str) -> str:
        return f"{name}@{scope}" if scope else name


def parse_instruction(number: int, line: int, text: str, scope: int, names: Names) -> Instruction:
    """Read one instruction; ParseError shows what is none."""
    found = _INSTRUCTION.fullmatch(text)
    if not found:
        raise ParseError(f"line {line}: not an instruction: {text}")
    opposite, predicate, opcode, suffix, rest = found.groups()
    parts = suffix.split(".")[1:]
    try:
        guard = _operand(opposite + predicate, scope, names) if predicate else None
        operands = tuple(_operand(part, scope, names) for part in _split(rest))
    except ParseError as error:
        raise ParseError(f"line {line}: {error}: {text}") from None
    if guard is not None and not isinstance(guard, Register | Negated):
        raise ParseError(f"line {line}: not a predicate: {text}")
    return Instruction(
        number,
        line,
        text,
        opcode,
        tuple(part for part in parts if part not in SCALARS),
        tuple(SCALARS[part] for part in parts if part in SCALARS),
        operands,
        guard,
    )


def _split(text: str) -> list[str]:
    """At the commas that are in no brackets."""
    parts, depth, current = [], 0, ""
    for character in text:
        depth += (character in "{[") - (character in "}]")
        if character == "," and depth == 0:
            parts.append(current.strip())
            current = ""
        else:
            current += character
    return [*parts, current.strip()] if current.strip() else parts


def _operand(text: str, scope: int, names: Names) -> Operand:
    if text.startswith("{"):
        return Vector(tuple(_operand(part, scope, names) for part in _split(text[1:-1])))
    if text.startswith("!"):
        return Negated(Register(names.resolve(scope, text[1:].strip())))
    if "|" in text:
        first, second = text.split("|")
        return Pair(_operand(first.strip(), scope, names), _operand(second.strip(), scope, names))
    if text.startswith("["):
        return _address(text, scope, names)
    if _FLOAT.fullmatch(text):
        return Immediate(int(text[2:], 16))
    if _INTEGER.fullmatch(text):
        return Immediate(int(text.rstrip("U"), 0))
    if text == "WARP_SZ":
        return Immediate(32)
    return _name(text, scope, names)


def _name(text: str, scope: int, names: Names) -> Register | Symbol:
    found = re.fullmatch(r"([\w$%]+(?:\.[xyz])?)(?:\+(\d+))?", text)
    if not found:
        raise ParseError(f"not an operand: {text}")
    name = names.resolve(scope, found[1])
    if name in names.registers or name.startswith("%") or name == "_":
        return Register(name)
    return Symbol(name, int(found[2] or 0))


def _address(text: str, scope: int, names: Names) -> Address:
    found = _ADDRESS.fullmatch(text)
    if not found:
        raise ParseError(f"not an address: {text}")
    base = _operand(found[1], scope, names)
    if not isinstance(base, Register | Symbol | Immediate):
        raise ParseError(f"not an address: {text}")
    offset = int(found[3] or "0", 0)
    return Address(base, -offset if found[2] == "-" else offset)
