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
    if bound.use().arithmetic == "int8":
        # half a step each of a group's largest / 127, and what float32 loses of a step itself
        for at in range(0, x.shape[1], group):
            largest = np.abs(x[:, at : at + group]).max(axis=1)
            error = largest / 127 * 0.501 + largest * scale_rounding
            allowed += np.outer(error, magnitudes[:, at : at + group].sum(axis=1))
    got = bound.product()
    assert got.shape == exact.shape
    assert got.dtype == np.float32
    assert (np.abs(got - exact) <= allowed).all()


@pytest.fixture(scope="session")
def make_operands() -> Callable[..., Operands]:
    return _operands


@pytest.fixture(scope="session")
def check_product() -> Callable[..., None]:
    return _check_product
