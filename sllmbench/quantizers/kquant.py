"""GGUF's blocks with a search for the best scales and minima, weighed by importance where given.

``quantizers.quantize`` rounds to the same formats with each group's range divided evenly. Here the
squared error is made small: least squares for scales and minima, the nearest code for each weight,
in turns from several starts (``csrc/quantize/blocks.cpp``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from sllmbench import _native
from sllmbench.errors import InputError
from sllmbench.formats import SUPER_LENGTH, QuantFormat, QuantTensor, parse_format, stored_codes

if TYPE_CHECKING:
    from numpy.typing import NDArray

BLOCK_FORMATS = (
    *("q4_0", "q4_1", "q5_0", "q5_1", "q8_0"),
    *("q2_k", "q3_k", "q4_k", "q5_k", "q6_k"),
)
_F16_MAX = 65504.0


def quantize_blocks(
    weight: NDArray[np.float32],
    format: str,
    importance: NDArray[np.float32] | None = None,
) -> QuantTensor:
    """Quantise a weight to GGUF blocks with a small Σ importance[column] · error².

    Args:
        weight: float32 [n, k], k in whole blocks of 32, or of 256 of a K-quant.
        format: one of :data:`BLOCK_FORMATS`.
        importance: float32 [k], none negative: the mean square of each input, for instance. By
            default all columns count alike.

    Raises:
        InputError: no such format, a weight or an importance of another shape or with NaN, infinite
            or negative values, or a weight too large for float16 scales.
    """
    if format not in BLOCK_FORMATS:
        raise InputError(f"{format} is no block format; they are {', '.join(BLOCK_FORMATS)}")
    layout = parse_format(format)
    _check(weight, layout)
    n, k = weight.shape
    weights = np.ones(k, np.float32) if importance is None else _as_importance(importance, k)
    groups, minima = layout.groups(k), layout.offset == "minimum"
    floats = layout.super_groups(k) if layout.two_level else groups
    codes = np.empty((n, k), np.uint8)
    scales = np.empty((n, floats), np.uint16)
    offsets = np.empty((n, floats), np.uint16) if minima else None
    factors = np.empty((n, groups), np.int8) if layout.two_level else None
    offset_factors = np.empty((n, groups), np.uint8) if layout.two_level and minima else None
    _native.search_blocks(
        np.ascontiguousarray(weight, np.float32),
        weights,
        codes,
        scales,
        minima=offsets,
        factors=factors,
        minimum_factors=offset_factors,
        bits=layout.bits,
        group_size=layout.group_size,
        factor_max=layout.factor_max if layout.two_level else 0,
    )
    # The search gives 8 bits as they are stored: around 0.
    stored = codes.view(np.int8) if layout.bits == 8 else stored_codes(codes, layout)
    halves = scales.view(np.float16)
    minima_halves = None if offsets is None else offsets.view(np.float16)
    if factors is None:
        return QuantTensor(layout, n, k, stored, halves, minima_halves)
    return QuantTensor(layout, n, k, stored, factors, offset_factors, halves, minima_halves)


def _check(weight: NDArray[np.float32], layout: QuantFormat) -> None:
    length = SUPER_LENGTH if layout.two_level else layout.group_size
    if weight.ndim != 2 or 0 in weight.shape or weight.shape[1] % length:
        raise InputError(
            f"{layout.name} takes a non-empty [n, k] weight, k in whole blocks of {length}, not "
            f"{list(weight.shape)}"
        )
    if not np.isfinite(weight).all():
        raise InputError("the weight holds NaN or infinite values; it cannot be quantised")
    if float(np.abs(weight).max()) > _F16_MAX:
        raise InputError("the weight is too large: a scale or a minimum may exceed float16")


def _as_importance(importance: NDArray[np.float32], k: int) -> NDArray[np.float32]:
    """Scaled so that the largest is 1: the sums of the search stay far from float32's ends.

    A column that has next to none keeps a millionth, so that its weight is not left to chance.
    """
    if importance.shape != (k,):
        raise InputError(f"an importance must be [{k}], not {list(importance.shape)}")
    if not np.isfinite(importance).all() or (importance < 0).any():
        raise InputError("an importance holds NaN, infinite or negative values")
    largest = float(importance.max())
    if largest == 0:
        return np.ones(k, np.float32)
    relative: NDArray[np.float32] = np.maximum(importance / np.float32(largest), np.float32(1e-6))
    return relative.astype(np.float32)
