"""A whole weight as fp16: each value is the float64 product, rounded once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from shim.layers import dequantized
from shim.weights import random_weight

if TYPE_CHECKING:
    from shim.library import Library
    from shim.weights import Weight

pytestmark = pytest.mark.slow  # g++ takes a minute over the kernels
SHAPES = ((16, 64), (1, 1), (77, 1000), (33, 77), (20, 8191), (9, 4096), (3, 12296))


def expected(weight: Weight) -> Any:
    """The oracle's values, in x's own order."""
    values = weight.values.astype(np.float16)
    if weight.order is None:
        return values
    out = np.empty_like(values)
    out[:, weight.order] = values
    return out


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("order", [False, True])
@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize("group", [32, 64, 128, 0])
def test_is_the_rounded_oracle(
    library: Library, bits: int, order: bool, zeros: bool, group: int
) -> None:
    for seed, (n, k) in enumerate(SHAPES):
        weight = random_weight(bits, n, k, group, zeros=zeros, order=order, seed=seed)
        out = dequantized(library, weight, offset_bytes=(0, 2)[seed % 2]).y
        assert np.array_equal(out, expected(weight)), f"{n}x{k}"


def test_another_order_is_another_weight(library: Library) -> None:
    weight = random_weight(4, 16, 256, 64, zeros=True, order=True, seed=1)
    other = random_weight(4, 16, 256, 64, zeros=True, order=True, seed=2)
    assert not np.array_equal(dequantized(library, weight).y, expected(other))
