"""Operands for any path, and the bound that its arithmetic must keep."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from sllmbench.matmuls.base import Operands

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from sllmbench.matmuls.base import BoundMatmul


def _operands(n: int, k: int, m: int, copies: int = 1) -> Operands:
    rng = np.random.default_rng([n, k, m])
    weight = rng.standard_normal((n, k), dtype=np.float32)
    return Operands(weight, rng.standard_normal((m, k), dtype=np.float32), 2, copies)


def _check_product(
    bound: BoundMatmul, x: NDArray[np.float32], group: int, scale_rounding: float = 0
) -> None:
    """Hold the product to float64's.

    int8 arithmetic rounds activations in groups of ``group``, whose scales may be rounded too.
    """
    exact = x.astype(np.float64) @ bound.values.astype(np.float64).T
    magnitudes = np.abs(bound.values.astype(np.float64))
    # float32 sums of k products: k roundings of 2^-24 at the very worst
    allowed = x.shape[1] * 2.0**-24 * (np.abs(x) @ magnitudes.T)
    variance = np.zeros_like(exact)
    if bound.use().arithmetic == "int8":
        # half a step each of a group's largest / 127, and what float32 loses of a step itself
        for at in range(0, x.shape[1], group):
            largest = np.abs(x[:, at : at + group]).max(axis=1)
            error = largest / 127 * 0.501 + largest * scale_rounding
            allowed += np.outer(error, magnitudes[:, at : at + group].sum(axis=1))
            squares = (bound.values[:, at : at + group].astype(np.float64) ** 2).sum(axis=1)
            variance += np.outer((largest / 127) ** 2 / 12, squares)
    if bound.use().arithmetic == "bfloat16":
        # activations, weights, and what is written: 2^-8 each of the sum of magnitudes
        allowed += 3 * 2.0**-8 * (np.abs(x) @ magnitudes.T)
    got = bound.product()
    assert got.shape == exact.shape
    assert got.dtype == np.float32
    assert (np.abs(got - exact) <= allowed).all()
    if variance.all():
        # roundings are even over a step; the worst case above would let a scale be 2% off
        assert np.sqrt(((got - exact) ** 2 / variance).mean()) < 1.3


@pytest.fixture(scope="session")
def make_operands() -> Callable[..., Operands]:
    return _operands


@pytest.fixture(scope="session")
def check_product() -> Callable[..., None]:
    return _check_product
