"""Round to nearest: every group's range divided evenly, every weight to the nearest code."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from sllmbench.errors import InputError
from sllmbench.formats import (
    SUPER_LENGTH,
    QuantFormat,
    QuantTensor,
    pack_nibbles,
    parse_format,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

_F16_MAX = 65504.0
_SIGNED_MAX = ("q4_0", "q5_0")
"""Formats whose scale is ggml's: the value of largest magnitude becomes the lowest code."""


def quantize(weight: Any, format: str | QuantFormat) -> QuantTensor:
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

    Raises:
        InputError: not a non-empty matrix, NaN or infinite values, values too large for float16
            scales, an unknown format, or a k that the format cannot have.
    """
    layout = parse_format(format) if isinstance(format, str) else format
    matrix = _as_matrix(weight)
    n, k = matrix.shape
    layout.super_groups(k)  # refuses a short super-group
    values = _grouped(matrix, layout)
    arrays = _two_level(values, layout) if layout.two_level else _one_level(values, layout)
    flat = arrays.pop("codes").reshape(n, -1)[:, :k]
    if layout.bits == 8:
        return QuantTensor(layout, n, k, flat.astype(np.int8), **arrays)
    codes = flat.astype(np.uint8)
    return QuantTensor(layout, n, k, pack_nibbles(codes) if layout.bits == 4 else codes, **arrays)


def _one_level(values: NDArray[np.float32], layout: QuantFormat) -> dict[str, NDArray[Any]]:
    """Codes [n, groups, length] and the other arrays of a QuantTensor."""
    top = (1 << layout.bits) - 1
    if layout.name in _SIGNED_MAX:
        return _signed_max(values, layout.zero)
    if layout.offset == "symmetric":
        return _symmetric(values, layout.bits, layout.zero)
    return (_zero_point if layout.offset == "zero_point" else _minimum)(values, top)


def _grouped(weight: NDArray[np.float32], layout: QuantFormat) -> NDArray[np.float32]:
    """[n, k] weights as [n, groups, group_length], a short last group filled up with its edge.

    Repeating the edge changes no group's minimum or maximum; zeros would change a minimum.
    """
    n, k = weight.shape
    length = layout.group_length(k)
    padding = layout.groups(k) * length - k
    padded = np.pad(weight, ((0, 0), (0, padding)), mode="edge") if padding else weight
    return padded.reshape(n, -1, length)


def _as_matrix(weight: Any) -> NDArray[np.float32]:
    if hasattr(weight, "detach"):  # a torch tensor, without importing torch to ask
        weight = weight.detach().cpu().float().numpy()
    matrix = np.asarray(weight, dtype=np.float32)
    if matrix.ndim != 2 or 0 in matrix.shape:
        raise InputError(f"a weight must be a non-empty [n, k] matrix, not {list(matrix.shape)}")
    if not np.isfinite(matrix).all():
        raise InputError("the weight holds NaN or infinite values; it cannot be quantised")
    return matrix


def _float16(values: NDArray[np.float32]) -> NDArray[np.float16]:
    if values.size and float(np.abs(values).max()) > _F16_MAX:
        raise InputError("the weight is too large: a group's scale or minimum exceeds float16")
    return values.astype(np.float16)


def _float16_scale(scale: NDArray[np.float32]) -> NDArray[np.float16]:
    """Round to the nearest float16, but up where that would cut the range short.

    Below 6e-5 float16 has few digits left or none: a scale rounded down there, to 0 at worst,
    would clip what it should cover. Rounding every scale up would move weights that lie on a
    4-bit grid already off it.
    """
    nearest = _float16(scale)
    short = nearest.astype(np.float32) < scale * np.float32(1 - 2.0**-11)
    return np.where(short, np.nextafter(nearest, np.float16(np.inf)), nearest)


def _steps(
    values: NDArray[np.float32], scales: NDArray[np.floating[Any]], low: int, high: int
) -> NDArray[np.float32]:
    """``values / scales`` as whole steps within [low, high]; 0 where the scale is 0."""
    step = scales.astype(np.float32)[..., None]
    with np.errstate(divide="ignore", invalid="ignore"):
        steps = np.rint(values / step)
    steps = np.where(step > 0, steps, np.float32(0))
    return np.clip(steps, low, high, out=steps)


def _symmetric(values: NDArray[np.float32], bits: int, zero: int) -> dict[str, NDArray[Any]]:
    largest = np.abs(values).max(axis=-1)
    if bits == 8:
        scales = _float16_scale(largest / np.float32(127))
        return {"codes": _steps(values, scales, -127, 127), "scales": scales}
    scales = _float16_scale(largest * np.float32(2 / (2 * zero - 1)))
    return {"codes": _steps(values, scales, -zero, zero - 1) + zero, "scales": scales}


def _signed_max(values: NDArray[np.float32], zero: int) -> dict[str, NDArray[Any]]:
    at = np.abs(values).argmax(axis=-1, keepdims=True)
    scales = np.take_along_axis(values, at, axis=-1) / np.float32(-zero)
    with np.errstate(divide="ignore", over="ignore"):
        inverse = 1 / scales
    inverse = np.where(np.isfinite(inverse), inverse, np.float32(0))  # float16 scale 0 as well
    codes = np.trunc(values * inverse + np.float32(zero + 0.5))
    return {"codes": np.clip(codes, 0, 2 * zero - 1), "scales": _float16(scales[..., 0])}


def _zero_point(values: NDArray[np.float32], top: int) -> dict[str, NDArray[Any]]:
    low = np.minimum(values.min(axis=-1), 0)
    high = np.maximum(values.max(axis=-1), 0)
    scales = _float16_scale((high - low) / np.float32(top))
    zeros = _steps(-low[..., None], scales, 0, top)
    codes = np.clip(_steps(values, scales, -top, top) + zeros, 0, top)
    return {"codes": codes, "scales": scales, "offsets": zeros[..., 0].astype(np.uint8)}


def _minimum(values: NDArray[np.float32], top: int) -> dict[str, NDArray[Any]]:
    low = values.min(axis=-1)
    minima = _float16(low)
    scales = _float16_scale((values.max(axis=-1) - low) / np.float32(top))
    above = values - minima.astype(np.float32)[..., None]
    return {"codes": _steps(above, scales, 0, top), "scales": scales, "offsets": minima}


def _two_level(values: NDArray[np.float32], layout: QuantFormat) -> dict[str, NDArray[Any]]:
    top = (1 << layout.bits) - 1
    if layout.offset == "symmetric":
        highest = top >> 1
        largest = np.abs(values).max(axis=-1)
        scales, factors, supers = _factors(largest / np.float32(highest), layout)
        codes = _steps(values, scales, -highest, highest) + layout.zero
        return {"codes": codes, "scales": factors.astype(np.int8), "super_scales": supers}
    # Minima are subtracted and never negative, so a group's range includes 0.
    low, offsets, super_minima = _factors(np.maximum(-values.min(axis=-1), 0), layout)
    high = np.maximum(values.max(axis=-1), 0)
    scales, factors, supers = _factors((high + low) / np.float32(top), layout)
    return {
        "codes": _steps(values + low[..., None], scales, 0, top),
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
    supers = _float16_scale(groups.max(axis=-1) / np.float32(largest))
    step = supers.astype(np.float32)[..., None]
    with np.errstate(divide="ignore", invalid="ignore"):
        factors = np.where(step > 0, np.ceil(groups / step), np.float32(0))
    factors = np.minimum(factors, np.float32(largest))
    return (factors * step).reshape(n, -1), factors.reshape(n, -1), supers
