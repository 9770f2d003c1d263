"""PTX's scalar types, and a register's bits seen as one of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sllmbench.cubin.ptx.faults import UnknownInstructionError

Array = NDArray[Any]


@dataclass(frozen=True)
class Scalar:
    """A type of PTX. `parts` is 2 for f16x2, whose registers hold two numbers."""

    name: str
    kind: str  # u, s, b (bits: unsigned here), f, or p (a predicate)
    bits: int
    dtype: np.dtype[Any]
    parts: int = 1

    @property
    def bytes(self) -> int:
        """Bytes in memory."""
        return self.bits // 8

    def view(self, register: Array) -> Array:
        """Registers' bits, unsigned [lanes], as this type: [lanes], or [lanes, parts]; no copy.

        Of a wider register, the low bits.
        """
        if (self.kind == "p") != (register.dtype == np.bool_):
            raise UnknownInstructionError(f"no predicate for pred, or a predicate for {self.name}")
        if self.kind == "p":
            return register
        if register.itemsize < self.bytes:
            raise UnknownInstructionError(
                f"a register of {register.itemsize * 8} bits for {self.name}"
            )
        parts = register.view(self.dtype).reshape(len(register), -1)[:, : self.parts]
        return parts if self.parts > 1 else parts[:, 0]

    def extended(self, register: Array) -> Array:
        """As `view`, but where the register is wider all of it: what is stored there extends."""
        if register.itemsize * 8 <= self.bits or self.kind in "fp":
            return self.view(register)
        return register.view(SCALARS[f"{self.kind}{register.itemsize * 8}"].dtype)

    def constant(self, bits: int, lanes: int) -> Array:
        """The same bits for every lane: [lanes], or [lanes, parts]; no lane has its own memory."""
        if self.kind == "p":
            return np.broadcast_to(np.array(bool(bits)), lanes)
        raw = np.array([bits & ((1 << self.bits) - 1)], f"u{self.bytes}")
        return np.broadcast_to(self.view(raw), (lanes, self.parts) if self.parts > 1 else (lanes,))


def _table() -> dict[str, Scalar]:
    table = {"pred": Scalar("pred", "p", 1, np.dtype(np.bool_))}
    for kind, numpy_kind, widths in (
        ("u", "u", (8, 16, 32, 64)),
        ("s", "i", (8, 16, 32, 64)),
        ("b", "u", (8, 16, 32, 64)),
        ("f", "f", (16, 32, 64)),
    ):
        for bits in widths:
            name = f"{kind}{bits}"
            table[name] = Scalar(name, kind, bits, np.dtype(f"{numpy_kind}{bits // 8}"))
    table["f16x2"] = Scalar("f16x2", "f", 32, np.dtype(np.float16), parts=2)
    return table


SCALARS = _table()
