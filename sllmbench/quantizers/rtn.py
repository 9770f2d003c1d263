"""Round to nearest: every group's range divided evenly, every weight to the nearest code."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from sllmbench.errors import InputError
from sllmbench.formats import (
    SUPER_LENGTH,
    QuantFormat,
    QuantTensor,
    parse_format,
    stored_codes,
)
from sllmbench.quantizers.grid import (
    float16_checked,
    float16_scale,
    integer_grid,
    steps,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from sllmbench.quantizers.grid import Clip

_SIGNED_MAX = ("q4_0", "q5_0")
"""Formats whose scale is ggml's: the value of largest magnitude becomes the lowest code."""


def quantize(
    weight: Any,
    format: str | QuantFormat,
    clip: Clip = "none",
    importance: NDArray[np.float32] | None = None,
) -> QuantTensor:
    """Quantise a float weight by rounding to nearest.

    The scale is rounded to float16 before the codes are chosen, so the error is at most half a
    stored step, ``scale / 2`` (relative rounding of the scale, 2⁻¹¹, aside). Symmetric 4 bits
    takes ``scale = 2 max|w| / 15``, as GPTQ does; symmetric 8 bits ``max|w| / 127``; the others
    divide ``[min(w, 0), max(w, 0)]`` (zero_point) or ``[min w, max w]`` (minimum) by 15; where 15
    stands, 5 bits have 31 and 6 bits 63.

    ``q4_0`` and ``q5_0`` come out as ggml makes them, bit for bit: an error of up to a whole step
    at the end that has no code of its own. The K-quants are plain rounding, without ggml's search
    for the best scales; a group's scale and minimum are rounded up, so that half a step holds.

    Args:
        weight: [n, k] floats, a NumPy array or a torch tensor on the CPU.
        format: a format or its name, e.g. ``int4-g128``.
        clip: ``none`` covers every weight; ``mse`` (plain integers only) cuts each group's range to
            the share of it, from 0.3 to 1, that leaves the least squared error.
        importance: float32 [k], none negative, with ``mse``: each square counts its column's, the
            mean square of its input for instance. By default all count alike.

    Raises:
        InputError: not a non-empty matrix, NaN or infinite values, values too large for float16
            scales, an unknown format, a k that the format cannot have, or an importance that does
            not fit or that nothing would use.
    """
    layout = parse_format(format) if isinstance(format, str) else format
    matrix = as_matrix(weight)
    n, k = matrix.shape
    layout.super_groups(k)  # refuses a short super-group
    integers = layout.name not in _SIGNED_MAX and layout.offset != "minimum"
    if clip != "none" and (layout.two_level or not integers):
        raise InputError(f"{layout.name} has no clipping: only plain integers have")
    if importance is not None and clip != "mse":
        raise InputError("an importance is for clip='mse': plain rounding weighs no errors")
    values = grouped(matrix, layout)
    if layout.two_level:
        arrays = _two_level(values, layout)
    else:
        weights = grouped_importance(k, layout, importance) if clip == "mse" else None
        arrays = _one_level(values, layout, clip, weights)
    codes = arrays.pop("codes").reshape(n, -1)[:, :k].astype(np.uint8)
    return QuantTensor(layout, n, k, stored_codes(codes, layout), **arrays)


def _one_level(
    values: NDArray[np.float32],
    layout: QuantFormat,
    clip: Clip,
    importance: NDArray[np.float32] | None,
) -> dict[str, NDArray[Any]]:
    """Codes [n, groups, length] and the other arrays of a QuantTensor."""
    if layout.name in _SIGNED_MAX:
        return _signed_max(values, layout.zero)
    if layout.offset == "minimum":
        return _minimum(values, (1 << layout.bits) - 1)
    grid = integer_grid(values, layout, clip, importance)
    codes = grid.codes(values)
    if layout.offset == "zero_point":
        return {"codes": codes, "scales": grid.scales, "offsets": grid.zeros.astype(np.uint8)}
    return {"codes": codes, "scales": grid.scales}


def grouped(weight: NDArray[np.float32], layout: QuantFormat) -> NDArray[np.float32]:
    """Return [n, k] weights as [n, groups, group_length], a short last group filled up.

    It is filled with its edge, which changes no minimum or maximum; zeros would change a minimum.
    """
    n, k = weight.shape
    length = layout.group_length(k)
    padding = layout.groups(k) * length - k
    padded = np.pad(weight, ((0, 0), (0, padding)), mode="edge") if padding else weight
    return padded.reshape(n, -1, length)


def grouped_importance(
    k: int, layout: QuantFormat, importance: NDArray[np.float32] | None = None
) -> NDArray[np.float32]:
    """Return an importance [k] as [groups, group_length]; what fills a short group counts nothing.

    Raises:
        InputError: another shape, or NaN, infinite or negative values.
    """
    weights = np.ones(k, np.float32) if importance is None else np.asarray(importance, np.float32)
    if weights.shape != (k,):
        raise InputError(f"an importance must be [{k}], not {list(weights.shape)}")
    if not np.isfinite(weights).all() or (weights < 0).any():
        raise InputError("an importance holds NaN, infinite or negative values")
    length, groups = layout.group_length(k), layout.groups(k)
    return np.pad(weights, (0, groups * length - k)).reshape(groups, length)


def as_matrix(weight: Any) -> NDArray[np.float32]:
    """Return a weight as float32 [n, k]; it may be a torch tensor.

    Raises:
        InputError: another shape, or NaN or infinite values.
    """
    if hasattr(weight, "detach"):  # a torch tensor, without importing torch to ask
        weight = weight.detach().cpu().float().numpy()
    matrix = np.asarray(weight, dtype=np.float32)
    if matrix.ndim != 2 or 0 in matrix.shape:
        raise InputError(f"a weight must be a non-empty [n, k] matrix, not {list(matrix.shape)}")
    if not np.isfinite(matrix).all():
        raise InputError("the weight holds NaN or infinite values; it cannot be quantised")
    return matrix


def _bounded_steps(
    values: NDArray[np.float32], scales: NDArray[np.floating[Any]], low: int, high: int
) -> NDArray[np.float32]:
    """``values / scales`` as whole numbers within [low, high]; 0 where the scale is 0."""
    whole = steps(values, scales)
    return np.clip(whole, low, high, out=whole)


def _signed_max(values: NDArray[np.float32], zero: int) -> dict[str, NDArray[Any]]:
    at = np.abs(values).argmax(axis=-1, keepdims=True)
    scales = np.take_along_axis(values, at, axis=-1) / np.float32(-zero)
    with np.errstate(divide="ignore", over="ignore"):
        inverse = 1 / scales
    inverse = np.where(np.isfinite(inverse), inverse, np.float32(0))  # float16 scale 0 as well
    codes = np.trunc(values * inverse + np.float32(zero + 0.5))
    return {"codes": np.clip(codes, 0, 2 * zero - 1), "scales": float16_checked(scales[..., 0])}


def _minimum(values: NDArray[np.float32], top: int) -> dict[str, NDArray[Any]]:
    low = values.min(axis=-1)
    minima = float16_checked(low)
    scales = float16_scale((values.max(axis=-1) - low) / np.float32(top))
    above = values - minima.astype(np.float32)[..., None]
    return {"codes": _bounded_steps(above, scales, 0, top), "scales": scales, "offsets": minima}


def _two_level(values: NDArray[np.float32], layout: QuantFormat) -> dict[str, NDArray[Any]]:
    top = (1 << layout.bits) - 1
    if layout.offset == "symmetric":
        highest = top >> 1
        largest = np.abs(values).max(axis=-1)
        scales, factors, supers = _factors(largest / np.float32(highest), layout)
        codes = _bounded_steps(values, scales, -highest, highest) + (highest + 1)
        return {"codes": codes, "scales": factors.astype(np.int8), "super_scales": supers}
    # Minima are subtracted and never negative, so a group's range includes 0.
    low, offsets, super_minima = _factors(np.maximum(-values.min(axis=-1), 0), layout)
    high = np.maximum(values.max(axis=-1), 0)
    scales, factors, supers = _factors((high + low) / np.float32(top), layout)
    return {
        "codes": _bounded_steps(values + low[..., None], scales, 0, top),
        "scales": factors.astype(np.int8),
        "offsets": offsets.astype(np.uint8),
        "super_scales": supers,
        "super_minima": super_minima,
    }


def _factors(
    wanted: NDArray[np.float32], layout: QuantFormat
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float16]]:
    """Numbers [n, groups] that are not negative as factors of a float16 a super-group.

    Returns what the factors stand for, rounded up from ``wanted``; the factors; the float16s.
    """
    n, largest = len(wanted), layout.factor_max
    groups = wanted.reshape(n, -1, SUPER_LENGTH // layout.group_size)
    supers = float16_scale(groups.max(axis=-1) / np.float32(largest))
    step = supers.astype(np.float32)[..., None]
    with np.errstate(divide="ignore", invalid="ignore"):
        factors = np.where(step > 0, np.ceil(groups / step), np.float32(0))
    factors = np.minimum(factors, np.float32(largest))
    return (factors * step).reshape(n, -1), factors.reshape(n, -1), supers
