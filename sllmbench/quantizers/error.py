"""How far a quantised weight's outputs are off."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def relative_error(
    weight: NDArray[np.float32],
    values: NDArray[np.float32],
    gram: NDArray[np.float32] | None = None,
) -> float:
    """Return sqrt(tr(E G Eᵀ) / tr(W G Wᵀ)), E = W - Ŵ: the outputs' root mean square error.

    Args:
        weight: W, [n, k].
        values: Ŵ, what W became, [n, k].
        gram: G = mean x xᵀ of the inputs, [k, k]; None: 1, inputs of which nothing is known.
    """
    whole = squared_output(weight, gram)
    return float(np.sqrt(squared_output(weight - values, gram) / whole)) if whole > 0 else 0.0


def squared_output(weight: NDArray[np.float32], gram: NDArray[np.float32] | None) -> float:
    """Return tr(W G Wᵀ), never below 0."""
    products = weight if gram is None else weight @ gram
    return max(0.0, float(np.einsum("nk,nk->", products, weight, dtype=np.float64)))
