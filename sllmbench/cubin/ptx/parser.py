"""PTX text → a module's entries.

It reads what nvcc emits: one entry or several, variables of the module with their initial values,
scopes in braces (inline assembly makes them), parameters of any type and alignment.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from sllmbench.cubin.ptx.faults import ParseError
from sllmbench.cubin.ptx.operands import Names, parse_instruction
from sllmbench.cubin.ptx.scalars import SCALARS, Scalar
from sllmbench.cubin.ptx.syntax import Entry, Variable, Variables

if TYPE_CHECKING:
    from collections.abc import Iterator

# Bytes kept free between variables of shared memory, so that running over one is seen. A multiple
# of what the 32 banks hold, so that no bank conflict comes or goes.
SHARED_GAP_BYTES = 128

_ENTRY = re.compile(r"\.entry\s+([\w$]+)\s*\(([^)]*)\)([^{;]*)\{")
_VARIABLE = re.compile(
    r"(?:\.align\s+(?P<align>\d+)\s+)?\.(?P<type>\w+)\s+(?:\.ptr\s+(?:\.\w+\s+)*(?:\.align\s+\d+\s+)?)?"
    r"(?P<name>[\w$]+)(?P<lengths>(?:\[\d*\])*)\s*(?:=\s*(?P<values>.*))?$",
    re.DOTALL,
)
_MODULE_VARIABLE = re.compile(
    r"(?:\.visible\s+|\.weak\s+|\.extern\s+)*\.(global|const|shared)\s+(.*)"
)


class Module:
    """A file of PTX. Its kernels are read when they are asked for: there may be many, and long."""

    def __init__(self, bodies: list[_Body], constants: _Space, shared: _Space) -> None:
        """What `parse` has found."""
        self._bodies = {_with_one_name_for_anonymous(body.name): body for body in bodies}
        self._constants, self._shared = constants, shared
        self._entries: dict[str, Entry] = {}

    @classmethod
    def parse(cls, text: str) -> Module:
        """Read a module; ParseError where it is not PTX or declares what is not supported here."""
        text = _without_comments(text)
        outside, bodies = _split_off_entries(text)
        constants, shared = _Space(), _Space(gap=SHARED_GAP_BYTES)
        for statement in outside.split(";"):
            if found := _MODULE_VARIABLE.search(" ".join(statement.split())):
                (shared if found[1] == "shared" else constants).declare(found[2])
        return cls(bodies, constants, shared)

    @property
    def names(self) -> list[str]:
        """The kernels' mangled names, in the text's order."""
        return [body.name for body in self._bodies.values()]

    def entry(self, name: str) -> Entry:
        """The kernel of that mangled name, by whatever compiler; KeyError names those there are."""
        name = _with_one_name_for_anonymous(name)
        if name not in self._bodies:
            raise KeyError(f"no kernel {name}; the module has {', '.join(self.names)}")
        if name not in self._entries:
            self._entries[name] = _parse_entry(
                self._bodies[name], self._constants, self._shared.copy()
            )
        return self._entries[name]


def _with_one_name_for_anonymous(name: str) -> str:
    """A mangled name, its unnamed namespaces called as g++ does: nvcc adds the file to theirs."""
    result, position = "", 0
    for found in re.finditer(r"(\d+)(?=_GLOBAL__N_)", name):
        result += name[position : found.start()] + "12_GLOBAL__N_1"
        position = found.end() + int(found[1])
    return result + name[position:]


class _Space:
    """Variables that are laid out one behind another, each as aligned as it asks."""

    def __init__(self, gap: int = 0) -> None:
        self.by_name: dict[str, Variable] = {}
        self.size = 0
        self.data = bytearray()
        self._gap = gap

    def copy(self) -> _Space:
        other = _Space(self._gap)
        other.by_name, other.size = dict(self.by_name), self.size
        return other

    def declare(self, text: str) -> None:
        found = _VARIABLE.match(text.strip())
        if not found or found["type"] not in SCALARS:
            raise ParseError(f"not a variable: {text}")
        scalar = SCALARS[found["type"]]
        lengths = re.findall(r"\[(\d*)\]", found["lengths"])
        if "" in lengths:
            raise ParseError(f"a length only known at launch is not supported: {text}")
        size = scalar.bytes * prod(int(length) for length in lengths)
        align = int(found["align"] or scalar.bytes)
        if self.by_name:
            self.size += self._gap
        self.size += -self.size % align
        self.by_name[found["name"]] = Variable(found["name"], self.size, size)
        self.data.extend(bytes(self.size - len(self.data)))
        self.data.extend(_initial(found["values"], scalar).ljust(size, b"\0"))
        self.size += size

    def variables(self) -> Variables:
        return Variables(self.by_name, self.size)


def _initial(values: str | None, scalar: Scalar) -> bytes:
    if values is None:
        return b""
    mask = (1 << scalar.bits) - 1
    numbers = [word for word in re.split(r"[{},\s]+", values) if word]
    return b"".join((_number(word) & mask).to_bytes(scalar.bytes, "little") for word in numbers)


def _number(word: str) -> int:
    if word[:2] in ("0f", "0F", "0d", "0D"):
        return int(word[2:], 16)
    try:
        return int(word.rstrip("U"), 0)
    except ValueError:
        raise ParseError(f"an initial value that is not a number: {word}") from None


@dataclass(frozen=True)
class _Body:
    name: str
    parameters: str
    directives: str
    text: str
    line: int


def _without_comments(text: str) -> str:
    """Also without lines about the source; all other lines keep their numbers."""
    text = re.sub(r"/\*.*?\*/", lambda found: "\n" * found[0].count("\n"), text, flags=re.DOTALL)
    text = re.sub(r"//[^\n]*", "", text)
    return re.sub(r"^[ \t]*\.(loc|file|version|target|address_size)\b[^\n]*", "", text, flags=re.M)


def _split_off_entries(text: str) -> tuple[str, list[_Body]]:
    outside, bodies, position = [], [], 0
    while found := _ENTRY.search(text, position):
        outside.append(text[position : found.start()])
        end = _closing_brace(text, found.end())
        line = text.count("\n", 0, found.end()) + 1
        bodies.append(_Body(found[1], found[2], found[3], text[found.end() : end], line))
        position = end + 1
    if not bodies:
        raise ParseError("no kernel (.entry) in the text")
    # What stands between two bodies belongs to no statement.
    return ";".join([*outside, text[position:]]), bodies


def _closing_brace(text: str, start: int) -> int:
    depth = 1
    for found in re.finditer(r"[{}]", text[start:]):
        depth += 1 if found[0] == "{" else -1
        if depth == 0:
            return start + found.start()
    raise ParseError("a kernel without its closing brace")


def _parse_entry(body: _Body, constants: _Space, shared: _Space) -> Entry:
    parameters = _Space()
    for parameter in filter(str.strip, body.parameters.split(",")):
        parameters.declare(" ".join(parameter.split()).removeprefix(".param "))
    local, names = _Space(), Names()
    statements = list(_in_scopes(body, names))
    code: list[tuple[int, int, str]] = []  # scope, line, text
    labels: dict[str, int] = {}
    for scope, line, text in statements:
        if text.endswith(":"):
            labels[names.declare(scope, text[:-1])] = len(code)
        elif text.startswith(".reg"):
            names.declare_registers(scope, text)
        elif space := re.match(r"\.(shared|local)\s+(.*)", text):
            (shared if space[1] == "shared" else local).declare(space[2])
        elif text.startswith(".pragma"):
            pass
        elif text.startswith("."):
            raise ParseError(f"line {line}: unknown directive: {text}")
        else:
            code.append((scope, line, text))
    return Entry(
        body.name,
        parameters.variables(),
        names.registers,
        shared.variables(),
        local.variables(),
        constants.variables(),
        bytes(constants.data),
        tuple(
            parse_instruction(number, line, text, scope, names)
            for number, (scope, line, text) in enumerate(code)
        ),
        labels,
        _most_threads(body.directives),
    )


def _in_scopes(body: _Body, names: Names) -> Iterator[tuple[int, int, str]]:
    """Each statement without its semicolon, each label with its colon: (scope, line, text)."""
    scopes, line, current = [0], body.line, ""
    for character in body.text:
        blank = not current.strip()
        if character in "{}" and blank:
            if character == "{":
                scopes.append(names.open_scope(scopes[-1]))
            else:
                scopes.pop()
        elif character == ";":
            if not blank:
                yield scopes[-1], line, " ".join(current.split())
            current = ""
        elif character == ":" and re.fullmatch(r"\s*[\w$]+\s*", current):
            yield scopes[-1], line, current.strip() + ":"
            current = ""
        else:
            current += character
        line += character == "\n"
    if current.strip():
        raise ParseError(f"line {line}: a statement without its semicolon: {current.strip()}")


def _most_threads(directives: str) -> int | None:
    found = re.search(r"\.(?:maxntid|reqntid)\s+([\d,\s]+)", directives)
    return prod(int(length) for length in re.findall(r"\d+", found[1])) if found else None
