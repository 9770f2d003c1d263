"""Quantised weight formats: what one stores, how it packs, and the float64 oracle.

Every format is affine in groups along k: with ``g = k_index // group_size``,

- ``symmetric``:   ``w = scale[n, g] * (code - zero)``, zero = 2^(bits - 1), or 0 for 8 bits
- ``zero_point``:  ``w = scale[n, g] * (code - zero[n, g])`` (GPTQ, AWQ)
- ``minimum``:     ``w = scale[n, g] * code + minimum[n, g]`` (GGUF's Q4_1)

A two-level format (GGUF's K-quants) keeps a small whole number a group and a float a super-group
of 256: ``scale[n, g] = super_scale[n, s] * factor[n, g]`` and, where it has minima,
``minimum[n, g] = -super_minimum[n, s] * minimum_factor[n, g]``.

Weights are [n, k] = [out_features, in_features], as ``torch.nn.Linear`` keeps them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from sllmbench import _native
from sllmbench.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

Offset = Literal["symmetric", "zero_point", "minimum"]

ROW = -1
"""``group_size`` of a format whose scale covers a whole row."""
SUPER_LENGTH = 256
"""Values of k that share a super scale in a two-level format."""
_FACTOR_BITS = {(2, "minimum"): 4, (3, "symmetric"): 6, (6, "symmetric"): 8}
"""Stored bits of a two-level format's factors, by bits and offset; 6 where nothing stands here."""


_OFFSETS: dict[int, tuple[Offset, ...]] = {
    2: ("symmetric", "zero_point"),
    3: ("symmetric", "zero_point"),
    4: ("symmetric", "zero_point", "minimum"),
    5: ("symmetric", "zero_point", "minimum"),
    6: ("symmetric",),
    8: ("symmetric", "zero_point"),
}


@dataclass(frozen=True)
class QuantFormat:
    """How weights are stored: bits a code, k values a group, and what is subtracted or added.

    ``two_level``: a group's scale (and minimum) is a whole number times its super-group's float.
    """

    name: str
    bits: Literal[2, 3, 4, 5, 6, 8]
    group_size: int
    offset: Offset = "symmetric"
    two_level: bool = False

    def __post_init__(self) -> None:
        """Refuse what nothing here makes or reads."""
        known = self.bits in _OFFSETS and self.offset in _OFFSETS[self.bits]
        if self.two_level:
            known = known and self.offset != "zero_point"
            known = known or (self.bits, self.offset) in _FACTOR_BITS
        if not known:
            levels = "two-level " if self.two_level else ""
            raise InputError(
                f"no {levels}{self.bits}-bit {self.offset} format: "
                + "; ".join(f"{bits} bits {', '.join(kinds)}" for bits, kinds in _OFFSETS.items())
                + "; two levels not with zero points"
            )
        if self.group_size != ROW and self.group_size < 1:
            raise InputError(f"group_size must be positive or {ROW} (a whole row)")
        if self.two_level and (self.group_size == ROW or SUPER_LENGTH % self.group_size):
            raise InputError(f"a two-level group_size must divide {SUPER_LENGTH}")

    def group_length(self, k: int) -> int:
        """Values of k that share one scale in a row of ``k``; the last group may be shorter."""
        return k if self.group_size == ROW else min(self.group_size, k)

    def groups(self, k: int) -> int:
        """Groups in a row of ``k`` values, a short last one included."""
        return -(-k // self.group_length(k))

    def super_groups(self, k: int) -> int:
        """Super-groups in a row of ``k`` values, 0 where scales have one level.

        Raises:
            InputError: the last one would be short, which GGUF has not.
        """
        if self.two_level and k % SUPER_LENGTH:
            raise InputError(f"{self.name} needs k to be a multiple of {SUPER_LENGTH}, not {k}")
        return k // SUPER_LENGTH if self.two_level else 0

    def scale_bits(self, k: int) -> int:
        """Stored bits of the scales and offsets in a row of ``k``."""
        if self.two_level:
            arrays = 1 if self.offset == "symmetric" else 2
            return arrays * (self.groups(k) * self.factor_bits + self.super_groups(k) * 16)
        return self.groups(k) * (16 + {"symmetric": 0, "zero_point": 8, "minimum": 16}[self.offset])

    @property
    def factor_bits(self) -> int:
        """Bits of a two-level format's factors; those of a symmetric one are signed."""
        return _FACTOR_BITS.get((self.bits, self.offset), 8 if self.offset == "symmetric" else 6)

    @property
    def factor_max(self) -> int:
        """The largest factor of a two-level format."""
        signed = self.offset == "symmetric"
        return (1 << (self.factor_bits - signed)) - 1

    def bits_per_weight(self, k: int) -> float:
        """Stored bits a weight in a row of ``k``: codes, scales and offsets."""
        return self.bits + self.scale_bits(k) / k

    @property
    def zero(self) -> int:
        """The code that stands for 0 where no offset says otherwise."""
        return 1 << (self.bits - 1) if self.offset == "symmetric" and self.bits < 8 else 0


_NAMED = {
    fmt.name: fmt
    for fmt in (
        QuantFormat("int8", 8, ROW),
        QuantFormat("int8-g128", 8, 128),
        QuantFormat("q4_0", 4, 32),
        QuantFormat("q4_1", 4, 32, "minimum"),
        QuantFormat("q5_0", 5, 32),
        QuantFormat("q5_1", 5, 32, "minimum"),
        QuantFormat("q8_0", 8, 32),
        QuantFormat("q2_k", 2, 16, "minimum", two_level=True),
        QuantFormat("q3_k", 3, 16, two_level=True),
        QuantFormat("q4_k", 4, 32, "minimum", two_level=True),
        QuantFormat("q5_k", 5, 32, "minimum", two_level=True),
        QuantFormat("q6_k", 6, 16, two_level=True),
    )
}
_INTEGERS = re.compile(r"int(?P<bits>[2348])-(?:g(?P<group>[1-9][0-9]{0,8})|row)(?P<asym>-asym)?")
_BITS: dict[str, Literal[2, 3, 4, 8]] = {"2": 2, "3": 3, "4": 4, "8": 8}
FORMAT_NAMES = (
    *_NAMED,
    *(f"int4-{group}{asym}" for group in ("g32", "g64", "g128", "row") for asym in ("", "-asym")),
)


def parse_format(name: str) -> QuantFormat:
    """Return the format called ``name``, e.g. ``int8``, ``int4-g128`` or ``int4-row-asym``.

    Integers can have 2, 3, 4 or 8 bits and groups of any size: ``int3-g96-asym``.

    Raises:
        InputError: no format has this name.
    """
    if name in _NAMED:
        return _NAMED[name]
    match = _INTEGERS.fullmatch(name)
    if match is None:
        raise InputError(
            f"unknown format {name!r}; the formats are {', '.join(FORMAT_NAMES)}, and "
            "int{2,3,4,8}-g{any size} or -row, with or without -asym"
        )
    group_size = int(match["group"]) if match["group"] else ROW
    return integer_format(_BITS[match["bits"]], group_size, bool(match["asym"]))


def integer_format(
    bits: Literal[2, 3, 4, 8], group_size: int, asymmetric: bool = False
) -> QuantFormat:
    """The format of plain integers in groups of any size, named as :func:`parse_format` reads it.

    Raises:
        InputError: other bits, or a group size below 1 that is not :data:`ROW`.
    """
    span = "row" if group_size == ROW else f"g{group_size}"
    name = "int8" if (bits, group_size, asymmetric) == (8, ROW, False) else f"int{bits}-{span}"
    if asymmetric:
        return QuantFormat(f"{name}-asym", bits, group_size, "zero_point")
    return QuantFormat(name, bits, group_size)


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


def stored_codes(
    codes: NDArray[np.uint8], layout: QuantFormat
) -> NDArray[np.uint8] | NDArray[np.int8]:
    """Lay [n, k] codes of 0 .. 2^bits - 1, one a byte, out as :class:`QuantTensor` keeps them.

    The zero of symmetric ones is 2^(bits - 1).
    """
    if layout.bits == 4:
        return pack_nibbles(codes)
    if layout.bits == 8 and layout.offset == "symmetric":
        return (codes ^ np.uint8(0x80)).view(np.int8)
    return codes


@dataclass(frozen=True, eq=False)
class QuantTensor:
    """A quantised [n, k] weight.

    Attributes:
        format: how it is stored.
        n: rows, the layer's output features.
        k: columns, the layer's input features.
        codes: 4 bits: uint8 [n, ceil(k/2)] as :func:`pack_nibbles` makes them; 2, 3, 5 and 6 bits:
            uint8 [n, k]; 8 bits: int8 [n, k], with zero points uint8.
        scales: float16 [n, groups]; two levels: int8 [n, groups] factors of the super scales.
        offsets: None (symmetric), uint8 [n, groups] zero points or float16 [n, groups] minima; two
            levels: uint8 [n, groups] factors of the super minima.
        super_scales: two levels: float16 [n, super_groups].
        super_minima: two levels with minima: float16 [n, super_groups], to be subtracted.
        order: None, or int32 [k]: column i of the codes belongs to input channel ``order[i]``
            (GPTQ's act-order).
    """

    format: QuantFormat
    n: int
    k: int
    codes: NDArray[np.uint8] | NDArray[np.int8] = field(repr=False)
    scales: NDArray[np.float16] | NDArray[np.int8] = field(repr=False)
    offsets: NDArray[np.uint8] | NDArray[np.float16] | None = field(default=None, repr=False)
    super_scales: NDArray[np.float16] | None = field(default=None, repr=False)
    super_minima: NDArray[np.float16] | None = field(default=None, repr=False)
    order: NDArray[np.int32] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        """Check every array against the format; the kernels trust what passes here."""
        fmt, n, k = self.format, self.n, self.k
        groups, supers = (n, fmt.groups(k)), (n, fmt.super_groups(k))
        width = -(-k // 2) if fmt.bits == 4 else k
        signed = fmt.bits == 8 and fmt.offset == "symmetric"
        check_array("codes", self.codes, (n, width), np.int8 if signed else np.uint8)
        if fmt.bits in (2, 3, 5, 6) and (self.codes >> fmt.bits).any():
            raise InputError(f"codes of {fmt.bits} bits must be below {1 << fmt.bits}")
        minimum, one_level = fmt.offset == "minimum", not fmt.two_level
        check_array("scales", self.scales, groups, np.float16 if one_level else np.int8)
        offset_type = np.float16 if minimum and one_level else np.uint8
        self._check_optional("offsets", fmt.offset != "symmetric", groups, offset_type)
        self._check_optional("super_scales", fmt.two_level, supers, np.float16)
        self._check_optional("super_minima", fmt.two_level and minimum, supers, np.float16)
        for what in ("scales", "offsets", "super_scales", "super_minima"):
            array = getattr(self, what)
            if array is None:
                continue
            if not np.isfinite(array).all():
                raise InputError(f"{what} hold NaN or infinite values")
            if fmt.two_level and what in ("scales", "offsets"):
                self._check_factors(what, array)
        if self.order is not None:
            check_array("order", self.order, (k,), np.int32)
            if not np.array_equal(np.sort(self.order), np.arange(k)):
                raise InputError(f"order must hold each of 0 to {k - 1} once")

    def _check_factors(self, what: str, array: NDArray[Any]) -> None:
        most = self.format.factor_max
        least = -most - 1 if self.format.offset == "symmetric" else 0
        if array.size and not least <= int(array.min()) <= int(array.max()) <= most:
            raise InputError(f"{what} of {self.format.name} must be {least} to {most}")

    def _check_optional(self, what: str, needed: bool, shape: tuple[int, int], dtype: Any) -> None:
        array = getattr(self, what)
        if (array is not None) != needed:
            verb = "needs" if needed else f"is {self.format.offset} and takes no"
            raise InputError(f"{self.format.name} {verb} {what}")
        if array is not None:
            check_array(what, array, shape, dtype)

    @property
    def nbytes(self) -> int:
        """Bytes of codes, scales and offsets as the format stores them, and of the order."""
        row_bits = self.format.bits * self.k + self.format.scale_bits(self.k)
        return self.n * -(-row_bits // 8) + (0 if self.order is None else self.order.nbytes)

    @cached_property
    def native(self) -> _native.PackedWeights:
        """The same weights in the layout that our kernels stream; made on first use and kept.

        Raises:
            InputError: 8 bits with zero points, which no kernel multiplies.
        """
        if self.format.bits == 8 and self.format.offset != "symmetric":
            raise InputError(
                f"no kernel multiplies {self.format.name}: 8 bits with zero points; "
                "quantise symmetric, or dequantise"
            )
        codes, bits = self.codes, self.format.bits
        if bits < 4:  # the kernels' nibbles, whose zero is 8 where they are symmetric
            shift = np.uint8(8 - self.format.zero if self.format.zero else 0)
            codes, bits = pack_nibbles(codes.view(np.uint8) + shift), 4
        return _native.PackedWeights(
            codes,
            self.scales,
            self.offsets,
            n=self.n,
            k=self.k,
            bits=bits,
            group_size=self.format.group_length(self.k),
            offset=self.format.offset,
            super_scales=self.super_scales,
            super_minima=self.super_minima,
            order=self.order,
        )

    def plain_codes(self) -> NDArray[np.uint8] | NDArray[np.int8]:
        """The codes one a byte, [n, k]."""
        if self.format.bits == 4:
            return unpack_nibbles(self.codes.view(np.uint8), self.k)
        return self.codes

    def group_terms(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Scales and what is added, both [n, groups]: a weight is ``scale * code + added``."""
        scales = self._with_super(self.scales, self.super_scales)
        if self.offsets is None:
            return scales, scales * -self.format.zero
        offsets = self._with_super(self.offsets, self.super_minima)
        if self.format.offset == "zero_point":
            return scales, scales * -offsets
        return scales, -offsets if self.format.two_level else offsets

    def _with_super(self, values: NDArray[Any], supers: Any) -> NDArray[np.float64]:
        if supers is None:
            return values.astype(np.float64)
        repeated = supers.astype(np.float64).repeat(SUPER_LENGTH // self.format.group_size, axis=1)
        product: NDArray[np.float64] = repeated * values
        return product

    def dequantize(self) -> NDArray[np.float32]:
        """Return the float32 [n, k] weights that the codes stand for, columns as x has them."""
        return self._values().astype(np.float32)

    def _values(self) -> NDArray[np.float64]:
        length = self.format.group_length(self.k)
        scales, added = (
            np.repeat(part, length, axis=1)[:, : self.k] for part in self.group_terms()
        )
        values: NDArray[np.float64] = scales * self.plain_codes() + added
        if self.order is None:
            return values
        ordered = np.empty_like(values)
        ordered[:, self.order] = values
        return ordered


def stack_rows(parts: Sequence[QuantTensor]) -> QuantTensor:
    """One tensor of the rows of ``parts``, which have one format, k and order."""
    arrays: dict[str, Any] = {
        what: np.concatenate([getattr(part, what) for part in parts])
        for what in ("codes", "scales", "offsets", "super_scales", "super_minima")
        if getattr(parts[0], what) is not None
    }
    return replace(parts[0], n=sum(part.n for part in parts), **arrays)


def matmul_float64(x: NDArray[Any], weight: QuantTensor) -> NDArray[np.float64]:
    """Return ``x`` [m, k] times the dequantised weight's transpose, [m, n]: the float64 oracle."""
    product: NDArray[np.float64] = x.astype(np.float64) @ weight._values().T
    return product


def check_array(what: str, array: NDArray[Any], shape: tuple[int, ...], dtype: Any) -> None:
    """Refuse an array of another shape or type.

    Raises:
        InputError: says what it must be and what it is.
    """
    if array.shape != shape or array.dtype != dtype:
        raise InputError(
            f"{what} must be {np.dtype(dtype).name} {list(shape)}, "
            f"not {array.dtype.name} {list(array.shape)}"
        )
