"""Quantised weight formats: what one stores, how it packs, and the float64 oracle.

Every format is affine in groups along k: with ``g = k_index // group_size``,

- ``symmetric``:   ``w = scale[n, g] * (code - zero)``, zero = 8 for 4 bits, 0 for 8 bits
- ``zero_point``:  ``w = scale[n, g] * (code - zero[n, g])`` (GPTQ, AWQ)
- ``minimum``:     ``w = scale[n, g] * code + minimum[n, g]`` (GGUF's Q4_1)

Weights are [n, k] = [out_features, in_features], as ``torch.nn.Linear`` keeps them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from sllmbench import _native
from sllmbench.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

Offset = Literal["symmetric", "zero_point", "minimum"]

ROW = -1
"""``group_size`` of a format whose scale covers a whole row."""


@dataclass(frozen=True)
class QuantFormat:
    """How weights are stored: bits a code, k values a group, and what is subtracted or added."""

    name: str
    bits: Literal[4, 8]
    group_size: int
    offset: Offset = "symmetric"

    def __post_init__(self) -> None:
        """Refuse what no kernel multiplies with."""
        if self.bits not in (4, 8) or (self.bits == 8 and self.offset != "symmetric"):
            raise InputError(
                f"no {self.bits}-bit {self.offset} format: 4 bits, or 8 bits symmetric"
            )
        if self.group_size != ROW and self.group_size < 1:
            raise InputError(f"group_size must be positive or {ROW} (a whole row)")

    def group_length(self, k: int) -> int:
        """Values of k that share one scale in a row of ``k``; the last group may be shorter."""
        return k if self.group_size == ROW else min(self.group_size, k)

    def groups(self, k: int) -> int:
        """Groups in a row of ``k`` values, a short last one included."""
        return -(-k // self.group_length(k))

    def bits_per_weight(self, k: int) -> float:
        """Stored bits a weight in a row of ``k``: codes, fp16 scales and offsets."""
        offset_bits = {"symmetric": 0, "zero_point": 8, "minimum": 16}[self.offset]
        return self.bits + self.groups(k) * (16 + offset_bits) / k


_NAMED = {
    "int8": QuantFormat("int8", 8, ROW),
    "q4_1": QuantFormat("q4_1", 4, 32, "minimum"),
    "q8_0": QuantFormat("q8_0", 8, 32),
}
_INT4 = re.compile(r"int4-(?:g(?P<group>32|64|128)|(?P<row>row))(?P<asym>-asym)?")
FORMAT_NAMES = (
    *_NAMED,
    *(f"int4-{group}{asym}" for group in ("g32", "g64", "g128", "row") for asym in ("", "-asym")),
)


def parse_format(name: str) -> QuantFormat:
    """Return the format called ``name``, e.g. ``int8``, ``int4-g128`` or ``int4-row-asym``.

    Raises:
        InputError: no format has this name.
    """
    if name in _NAMED:
        return _NAMED[name]
    match = _INT4.fullmatch(name)
    if match is None:
        raise InputError(f"unknown format {name!r}; the formats are {', '.join(FORMAT_NAMES)}")
    group_size = ROW if match["row"] else int(match["group"])
    return QuantFormat(name, 4, group_size, "zero_point" if match["asym"] else "symmetric")


def pack_nibbles(codes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Pack [n, k] codes of 0..15 into [n, ceil(k/2)] bytes, the lower k in the low nibble."""
    n, k = codes.shape
    if k % 2:
        codes = np.concatenate([codes, np.zeros((n, 1), np.uint8)], axis=1)
    packed: NDArray[np.uint8] = codes[:, 0::2] | (codes[:, 1::2] << np.uint8(4))
    return packed


def unpack_nibbles(packed: NDArray[np.uint8], k: int) -> NDArray[np.uint8]:
    """Unpack [n, ceil(k/2)] bytes into [n, k] codes of 0..15."""
    codes = np.empty((packed.shape[0], 2 * packed.shape[1]), np.uint8)
    codes[:, 0::2] = packed & 0x0F
    codes[:, 1::2] = packed >> 4
    return codes[:, :k]


@dataclass(frozen=True, eq=False)
class QuantTensor:
    """A quantised [n, k] weight.

    Attributes:
        format: how it is stored.
        n: rows, the layer's output features.
        k: columns, the layer's input features.
        codes: 4 bits: uint8 [n, ceil(k/2)] as :func:`pack_nibbles` makes them; 8 bits: int8 [n, k].
        scales: float16 [n, groups].
        offsets: None (symmetric), uint8 [n, groups] zero points or float16 [n, groups] minima.
    """

    format: QuantFormat
    n: int
    k: int
    codes: NDArray[np.uint8] | NDArray[np.int8] = field(repr=False)
    scales: NDArray[np.float16] = field(repr=False)
    offsets: NDArray[np.uint8] | NDArray[np.float16] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        """Check every array against the format; the kernels trust what passes here."""
        groups = self.format.groups(self.k)
        width, code_type = (
            (-(-self.k // 2), np.uint8) if self.format.bits == 4 else (self.k, np.int8)
        )
        _check_array("codes", self.codes, (self.n, width), code_type)
        _check_array("scales", self.scales, (self.n, groups), np.float16)
        if not np.isfinite(self.scales).all():
            raise InputError("scales hold NaN or infinite values")
        if self.format.offset == "symmetric":
            if self.offsets is not None:
                raise InputError(f"{self.format.name} is symmetric and takes no offsets")
            return
        if self.offsets is None:
            raise InputError(f"{self.format.name} needs offsets")
        zero_point = self.format.offset == "zero_point"
        _check_array(
            "offsets", self.offsets, (self.n, groups), np.uint8 if zero_point else np.float16
        )
        if not np.isfinite(self.offsets).all():
            raise InputError("offsets hold NaN or infinite values")

    @property
    def nbytes(self) -> int:
        """Bytes of codes, scales and offsets."""
        return (
            self.codes.nbytes
            + self.scales.nbytes
            + (0 if self.offsets is None else self.offsets.nbytes)
        )

    @cached_property
    def native(self) -> _native.PackedWeights:
        """The same weights in the layout that our kernels stream; made on first use and kept."""
        return _native.PackedWeights(
            self.codes,
            self.scales,
            self.offsets,
            n=self.n,
            k=self.k,
            bits=self.format.bits,
            group_size=self.format.group_length(self.k),
            offset=self.format.offset,
        )

    def dequantize(self) -> NDArray[np.float32]:
        """Return the float32 [n, k] weights that the codes stand for."""
        return self._values().astype(np.float32)

    def _values(self) -> NDArray[np.float64]:
        k, bits = self.k, self.format.bits
        codes = unpack_nibbles(self.codes.view(np.uint8), k) if bits == 4 else self.codes
        length = self.format.group_length(k)
        scales = np.repeat(self.scales.astype(np.float64), length, axis=1)[:, :k]
        if self.offsets is None:
            return scales * (codes.astype(np.float64) - (8 if bits == 4 else 0))
        offsets = np.repeat(self.offsets.astype(np.float64), length, axis=1)[:, :k]
        if self.format.offset == "zero_point":
            return scales * (codes.astype(np.float64) - offsets)
        return scales * codes.astype(np.float64) + offsets


def matmul_float64(x: NDArray[Any], weight: QuantTensor) -> NDArray[np.float64]:
    """Return ``x`` [m, k] times the dequantised weight's transpose, [m, n]: the float64 oracle."""
    product: NDArray[np.float64] = x.astype(np.float64) @ weight._values().T
    return product


def _check_array(what: str, array: NDArray[Any], shape: tuple[int, int], dtype: Any) -> None:
    if array.shape != shape or array.dtype != dtype:
        raise InputError(
            f"{what} must be {np.dtype(dtype).name} {list(shape)}, "
            f"not {array.dtype.name} {list(array.shape)}"
        )
