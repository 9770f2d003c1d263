"""AWQ: input channels scaled before rounding, so that those that matter lose least.

Lin et al., arXiv 2306.00978. ``W diag(s)`` is rounded and its inputs divided by s. The paper
measures the outputs' error on calibration inputs; here it is had exactly from their Gram matrix
G = mean x xᵀ: tr(E G Eᵀ), E = W - round(W diag(s)) diag(1/s).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from sllmbench.errors import InputError
from sllmbench.quantizers.error import squared_output
from sllmbench.quantizers.grid import integer_grid
from sllmbench.quantizers.rtn import as_matrix, grouped, quantize

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from sllmbench.formats import QuantFormat

_EXPONENTS = np.linspace(0.0, 1.0, 20, endpoint=False)
_SHRINKS = np.linspace(1.0, 0.5, 10, endpoint=False)
_LEAST = 1e-4
"""Of a channel's mean |x| and of its scale: none is blown up without bound."""
_ROWS = 256


class ScaleSearch(NamedTuple):
    """What :func:`awq_scales` found.

    Attributes:
        scales: float32 [k]: a weight's columns are multiplied by them, its inputs divided.
        exponent: they are mean |x| to this power, normalised.
        relative_error: of all outputs, sqrt(Σ tr(E G Eᵀ) / Σ tr(W G Wᵀ)).
        unscaled_error: the same without scales.
    """

    scales: NDArray[np.float32]
    exponent: float
    relative_error: float
    unscaled_error: float


def awq_scales(
    weights: Sequence[NDArray[np.float32]],
    gram: NDArray[np.float32],
    mean_abs: NDArray[np.float32],
    layout: QuantFormat,
) -> ScaleSearch:
    """Search the scales of the channels that several linears share.

    Twenty exponents a from 0 to 0.95 are tried: s = mean|x|^a, divided by sqrt(max s · min s).

    Args:
        weights: float32 [n_i, k] each.
        gram: float32 [k, k], mean x xᵀ.
        mean_abs: float32 [k], mean |x|.
        layout: the format that is rounded to.

    Raises:
        InputError: shapes that do not fit, or NaN or infinite values.
    """
    matrices = [as_matrix(weight) for weight in weights]
    _check(matrices, gram, mean_abs)
    whole = sum(squared_output(matrix, gram) for matrix in matrices)
    best, least, unscaled = (np.ones_like(mean_abs), 0.0), np.inf, np.inf
    for exponent in _EXPONENTS:
        scales = _scales(mean_abs, float(exponent))
        error = sum(
            squared_output(matrix - quantize(matrix * scales, layout).dequantize() / scales, gram)
            for matrix in matrices
        )
        if exponent == 0:
            unscaled = error
        if error < least:
            best, least = (scales, float(exponent)), error
    found, unscaled_error = (float(np.sqrt(e / whole)) if whole else 0.0 for e in (least, unscaled))
    return ScaleSearch(*best, found, unscaled_error)


def awq_clip(
    weight: NDArray[np.float32], gram: NDArray[np.float32], layout: QuantFormat
) -> NDArray[np.float32]:
    """Cut each group of weights to the share of its range that leaves its outputs nearest.

    Ten shares from 1 to 0.55 are tried. A group's error is that of its own inputs alone,
    e G_gg eᵀ with G's diagonal block: what the other groups do is left out, as in the paper.

    Args:
        weight: float32 [n, k].
        gram: float32 [k, k], mean x xᵀ.
        layout: the format that is rounded to.

    Returns:
        The weight, clipped, to be quantised by rounding to nearest.

    Raises:
        InputError: shapes that do not fit, or NaN or infinite values.
    """
    matrix = as_matrix(weight)
    n, k = matrix.shape
    _check([matrix], gram, np.zeros(k, np.float32))
    blocks = _diagonal_blocks(gram, layout)
    clipped = np.empty_like(matrix)
    for start in range(0, n, _ROWS):
        values = grouped(matrix[start : start + _ROWS], layout)
        clipped[start : start + _ROWS] = _clip_rows(values, blocks, layout)[:, :k]
    return clipped


def _clip_rows(
    values: NDArray[np.float32], blocks: NDArray[np.float32], layout: QuantFormat
) -> NDArray[np.float32]:
    """Rows [n, groups, length] clipped, as [n, groups * length]."""
    largest = np.abs(values).max(axis=-1)
    best, least = largest, np.full(largest.shape, np.inf, np.float32)
    for shrink in _SHRINKS.astype(np.float32):
        bound = (shrink * largest)[..., None]
        cut = np.clip(values, -bound, bound)
        grid = integer_grid(cut, layout)
        off = (grid.values(grid.codes(cut)) - values).transpose(1, 0, 2)  # [groups, n, length]
        errors = np.einsum("gnl,gnl->ng", off @ blocks, off)
        better = errors < least
        least = np.where(better, errors, least)
        best = np.where(better, bound[..., 0], best)
    return np.clip(values, -best[..., None], best[..., None]).reshape(len(values), -1)


def _diagonal_blocks(gram: NDArray[np.float32], layout: QuantFormat) -> NDArray[np.float32]:
    """G's blocks [groups, length, length]; the columns that fill up a short group count nothing."""
    k = len(gram)
    length, groups = layout.group_length(k), layout.groups(k)
    blocks = np.zeros((groups, length, length), np.float32)
    for g in range(groups):
        part = slice(g * length, min((g + 1) * length, k))
        size = part.stop - part.start
        blocks[g, :size, :size] = gram[part, part]
    return blocks


def _scales(mean_abs: NDArray[np.float32], exponent: float) -> NDArray[np.float32]:
    powers = np.maximum(mean_abs, _LEAST) ** np.float32(exponent)
    scales = np.maximum(powers, _LEAST)
    normalised: NDArray[np.float32] = scales / np.sqrt(scales.max() * scales.min())
    return normalised


def _check(
    matrices: Sequence[NDArray[np.float32]],
    gram: NDArray[np.float32],
    mean_abs: NDArray[np.float32],
) -> None:
    k = matrices[0].shape[1] if matrices else 0
    if not k or any(matrix.shape[1] != k for matrix in matrices):
        raise InputError("AWQ scales the inputs that all its weights share: give [n, k] of one k")
    if gram.shape != (k, k) or mean_abs.shape != (k,):
        raise InputError(
            f"for k = {k} the Gram matrix must be [{k}, {k}] and mean |x| [{k}], not "
            f"{list(gram.shape)} and {list(mean_abs.shape)}"
        )
    if not (np.isfinite(gram).all() and np.isfinite(mean_abs).all()):
        raise InputError("the calibration inputs' statistics hold NaN or infinite values")
