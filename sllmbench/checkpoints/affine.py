"""What GPTQ, AWQ and compressed-tensors share: unsigned codes and zero points ↔ a QuantTensor.

All three mean ``scale * (code - zero)`` with codes and zeros of 0 to 2^bits - 1; a symmetric one's
zero is 2^(bits - 1). Only how they pack these differs.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from sllmbench.errors import InputError
from sllmbench.formats import QuantFormat, QuantTensor, integer_format, stored_codes

if TYPE_CHECKING:
    from numpy.typing import NDArray

BITS = (2, 3, 4, 8)
"""The widths that checkpoints have."""


def check_bits(bits: object) -> int:
    """Return ``bits`` where codes of that width can be read.

    Raises:
        InputError: they cannot.
    """
    if bits not in BITS or not isinstance(bits, int):
        raise InputError(f"codes of {bits!r} bits cannot be read: those of 2, 3, 4 and 8 can")
    return bits


def integers(bits: int, group_size: int, asymmetric: bool) -> QuantFormat:
    """:func:`integer_format` of a width that a file gave, which it checks."""
    return integer_format(cast("Any", check_bits(bits)), group_size, asymmetric)


def affine_tensor(
    layout: QuantFormat,
    codes: NDArray[np.uint8],
    scales: NDArray[np.float16],
    zeros: NDArray[np.uint8],
    order: NDArray[np.int32] | None = None,
) -> QuantTensor:
    """Make a tensor of plain arrays.

    Args:
        layout: its format, symmetric or with zero points.
        codes: uint8 [n, k], one a byte, columns in the tensor's order.
        scales: float16 [n, groups].
        zeros: uint8 [n, groups]; left out where the format is symmetric.
        order: int32 [k] or None, as :class:`QuantTensor` has it.

    Raises:
        InputError: arrays that do not fit the format.
    """
    n, k = codes.shape
    stored = stored_codes(np.ascontiguousarray(codes), layout)  # as the kernels want it
    offsets = None if layout.offset == "symmetric" else zeros
    return QuantTensor(layout, n, k, stored, scales, offsets, order=order)


def affine_parts(method: str, weight: QuantTensor) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """The codes, uint8 [n, k] in the tensor's order, and zero points, uint8 [n, groups].

    Raises:
        InputError: a format that ``method`` cannot store, or zero points beyond its bits.
    """
    fmt = weight.format
    if fmt.bits not in BITS or fmt.offset == "minimum" or fmt.two_level:
        raise InputError(
            f"{method} has no {fmt.name}: 2, 3, 4 or 8 bits, symmetric or with zero points"
        )
    codes = weight.plain_codes().view(np.uint8)
    if fmt.bits == 8 and fmt.offset == "symmetric":
        codes = codes ^ np.uint8(0x80)
    if weight.offsets is None:
        return codes, np.full(weight.scales.shape, 1 << (fmt.bits - 1), np.uint8)
    zeros = weight.offsets.astype(np.uint8)
    if (zeros >> fmt.bits).any():
        last = (1 << fmt.bits) - 1
        raise InputError(f"{method} stores zero points of 0 to {last} only at {fmt.bits} bits")
    return codes, zeros


def rows_of(weight: QuantTensor, start: int, stop: int) -> QuantTensor:
    """Rows ``start`` to ``stop`` of a tensor with one level of scales, as a tensor."""
    offsets = weight.offsets
    return replace(
        weight,
        n=stop - start,
        codes=weight.codes[start:stop],
        scales=weight.scales[start:stop],
        offsets=None if offsets is None else offsets[start:stop],
    )
