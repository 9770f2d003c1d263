"""Round to nearest: every group's range divided evenly, every weight to the nearest code."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from sllmbench.errors import InputError
from sllmbench.formats import QuantFormat, QuantTensor, pack_nibbles, parse_format

if TYPE_CHECKING:
    from numpy.typing import NDArray

_F16_MAX = 65504.0


def quantize(weight: Any, format: str | QuantFormat) -> QuantTensor:
    """Quantise a float weight by rounding to nearest.

    The scale is rounded to float16 before the codes are chosen, so the error is at most half a
    stored step, ``scale / 2`` (relative rounding of the scale, 2⁻¹¹, aside). Symmetric 4 bits
    takes ``scale = 2 max|w| / 15``, as GPTQ does; symmetric 8 bits ``max|w| / 127``; the others
    divide ``[min(w, 0), max(w, 0)]`` (zero_point) or ``[min w, max w]`` (minimum) by 15.

    Args:
        weight: [n, k] floats, a NumPy array or a torch tensor on the CPU.
        format: a format or its name, e.g. ``int4-g128``.

    Raises:
        InputError: not a non-empty matrix, NaN or infinite values, values too large for float16
            scales, or an unknown format.
    """
    layout = parse_format(format) if isinstance(format, str) else format
    matrix = _as_matrix(weight)
    n, k = matrix.shape
    values = _grouped(matrix, layout)
    match layout.offset:
        case "symmetric":
            scales, codes = _symmetric(values, layout.bits)
            offsets: NDArray[np.uint8] | NDArray[np.float16] | None = None
        case "zero_point":
            scales, offsets, codes = _zero_point(values)
        case "minimum":
            scales, offsets, codes = _minimum(values)
    flat = codes.reshape(n, -1)[:, :k]
    stored = pack_nibbles(flat.astype(np.uint8)) if layout.bits == 4 else flat.astype(np.int8)
    return QuantTensor(layout, n, k, stored, scales, offsets)


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
    values: NDArray[np.float32], scales: NDArray[np.float16], low: int, high: int
) -> NDArray[np.float32]:
    """``values / scales`` as whole steps within [low, high]; 0 where the scale is 0."""
    step = scales.astype(np.float32)[..., None]
    with np.errstate(divide="ignore", invalid="ignore"):
        steps = np.rint(values / step)
    steps = np.where(step > 0, steps, np.float32(0))
    return np.clip(steps, low, high, out=steps)


def _symmetric(
    values: NDArray[np.float32], bits: int
) -> tuple[NDArray[np.float16], NDArray[np.float32]]:
    largest = np.abs(values).max(axis=-1)
    if bits == 4:
        scales = _float16_scale(largest * np.float32(2 / 15))
        return scales, _steps(values, scales, -8, 7) + 8
    scales = _float16_scale(largest / np.float32(127))
    return scales, _steps(values, scales, -127, 127)


def _zero_point(
    values: NDArray[np.float32],
) -> tuple[NDArray[np.float16], NDArray[np.uint8], NDArray[np.float32]]:
    low = np.minimum(values.min(axis=-1), 0)
    high = np.maximum(values.max(axis=-1), 0)
    scales = _float16_scale((high - low) / np.float32(15))
    zeros = _steps(-low[..., None], scales, 0, 15)
    codes = np.clip(_steps(values, scales, -15, 15) + zeros, 0, 15)
    return scales, zeros[..., 0].astype(np.uint8), codes


def _minimum(
    values: NDArray[np.float32],
) -> tuple[NDArray[np.float16], NDArray[np.float16], NDArray[np.float32]]:
    low = values.min(axis=-1)
    minima = _float16(low)
    scales = _float16_scale((values.max(axis=-1) - low) / np.float32(15))
    above = values - minima.astype(np.float32)[..., None]
    return scales, minima, _steps(above, scales, 0, 15)
