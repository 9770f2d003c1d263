"""The integers' grids: which scale and zero point a group gets, and its codes on them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from sllmbench.errors import InputError

if TYPE_CHECKING:
    from typing import Any

    from numpy.typing import NDArray

    from sllmbench.formats import QuantFormat

Clip = Literal["none", "mse"]
_F16_MAX = 65504.0
_SHRINKS = np.linspace(1.0, 0.3, 36, dtype=np.float32)
"""What the clipping tries."""


@dataclass(frozen=True)
class Grid:
    """A grid a group: code c stands for ``scale * (c - zero)``.

    Attributes:
        scales: float16 [n, groups].
        zeros: float32 [n, groups], whole numbers.
        top: the largest code; the smallest is 0.
    """

    scales: NDArray[np.float16]
    zeros: NDArray[np.float32]
    top: int

    def codes(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """The nearest codes of ``values`` [n, groups, length], as floats; the zero's at scale 0."""
        zeros = self.zeros[..., None]
        codes = steps(values, self.scales) + zeros
        return np.clip(codes, 0, self.top, out=codes)

    def values(self, codes: NDArray[np.float32]) -> NDArray[np.float32]:
        """What ``codes`` [n, groups, length] stand for."""
        scales = self.scales.astype(np.float32)[..., None]
        result: NDArray[np.float32] = (codes - self.zeros[..., None]) * scales
        return result


def integer_grid(
    values: NDArray[np.float32],
    layout: QuantFormat,
    clip: Clip = "none",
    importance: NDArray[np.float32] | None = None,
) -> Grid:
    """Choose the grids of a symmetric or zero-point format.

    Symmetric b bits take ``scale = 2 max|w| / (2^b - 1)``, as GPTQ does, but 8 bits
    ``max|w| / 127``; zero points divide ``[min(w, 0), max(w, 0)]`` by ``2^b - 1``.

    Args:
        values: [n, groups, length].
        layout: the format.
        clip: ``none`` covers every value; ``mse`` the share of the range, from 0.3 to 1, that
            leaves the least squared error in each group.
        importance: a weight for each square, [groups, length].

    Raises:
        InputError: an unknown ``clip``, or values too large for float16 scales.
    """
    if clip not in ("none", "mse"):
        raise InputError(f"unknown clip {clip!r}; it is none or mse")
    if clip == "none":
        return _grid(values, layout, np.float32(1))
    return _clipped_grid(values, layout, importance)


def _clipped_grid(
    values: NDArray[np.float32], layout: QuantFormat, importance: NDArray[np.float32] | None
) -> Grid:
    best: Grid | None = None
    least = np.empty(0, np.float32)
    for shrink in _SHRINKS:
        grid = _grid(values, layout, shrink)
        squares = np.square(grid.values(grid.codes(values)) - values)
        errors = (squares if importance is None else squares * importance).sum(axis=-1)
        if best is None:
            best, least = grid, errors
            continue
        better = errors < least
        least = np.where(better, errors, least)
        best = Grid(
            np.where(better, grid.scales, best.scales),
            np.where(better, grid.zeros, best.zeros),
            grid.top,
        )
    assert best is not None
    return best


def _grid(values: NDArray[np.float32], layout: QuantFormat, shrink: np.float32) -> Grid:
    top = (1 << layout.bits) - 1
    if layout.offset == "zero_point":
        low = shrink * np.minimum(values.min(axis=-1), 0)
        high = shrink * np.maximum(values.max(axis=-1), 0)
        scales = float16_scale((high - low) / np.float32(top))
        zeros = np.clip(steps(-low[..., None], scales), 0, top)[..., 0]
        return Grid(scales, zeros, top)
    largest = shrink * np.abs(values).max(axis=-1)
    scales = float16_scale(largest / np.float32(127) if layout.bits == 8 else largest * 2 / top)
    return Grid(scales, np.full(scales.shape, 1 << (layout.bits - 1), np.float32), top)


def steps(values: NDArray[np.float32], scales: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    """``values / scales`` as whole numbers; 0 where the scale is 0."""
    step = scales.astype(np.float32)[..., None]
    with np.errstate(divide="ignore", invalid="ignore"):
        whole = np.rint(values / step)
    return np.where(step > 0, whole, np.float32(0))


def float16_checked(values: NDArray[np.float32]) -> NDArray[np.float16]:
    """The nearest float16s.

    Raises:
        InputError: a value beyond them.
    """
    if values.size and float(np.abs(values).max()) > _F16_MAX:
        raise InputError("the weight is too large: a group's scale or minimum exceeds float16")
    return values.astype(np.float16)


def float16_scale(scale: NDArray[np.float32]) -> NDArray[np.float16]:
    """Round to the nearest float16, but up where that would cut the range short.

    Below 6e-5 float16 has few digits left or none: a scale rounded down there, to 0 at worst,
    would clip what it should cover. Rounding every scale up would move weights that lie on a
    4-bit grid already off it.
    """
    nearest = float16_checked(scale)
    short = nearest.astype(np.float32) < scale * np.float32(1 - 2.0**-11)
    return np.where(short, np.nextafter(nearest, np.float16(np.inf)), nearest)
