"""torch's kernels bound to one matrix, against float64 of what they hold."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest
import torch

from sllmbench.formats import parse_format
from sllmbench.matmuls import Operands, resolve
from sllmbench.matmuls.torch_ops import NAMES
from sllmbench.quantizers import quantize


def operands(n: int, k: int, m: int, copies: int = 1) -> Operands:
    rng = np.random.default_rng([n, k, m])
    weight = rng.standard_normal((n, k), np.float32)
    return Operands(weight, rng.standard_normal((m, k), np.float32), 2, copies)


@pytest.mark.parametrize("m", [1, 4, 17])
@pytest.mark.parametrize("name", NAMES)
def test_the_product_is_that_of_the_stored_weights(name: str, m: int) -> None:
    given = operands(48, 384, m)
    path = resolve(name)
    assert path.unavailable() is None
    assert path.unsupported_shape(48, 384) is None
    bound = path.bind(given)
    x, values = given.x.astype(np.float64), bound.values.astype(np.float64)
    # bf16: activations and the product are rounded, 2⁻⁹ each, and sums may be kept in it.
    relative = 1e-5 if name == "torch:fp32" else 3 * 2.0**-9
    bound_error = relative * (np.abs(x) @ np.abs(values).T)
    assert (np.abs(bound.product() - x @ values.T) <= bound_error).all()
    assert bound.use().arithmetic == ("float32" if name == "torch:fp32" else "bfloat16")


@pytest.mark.parametrize(
    ("name", "same_as"),
    [("torch:int4pack-g32", "int4-g32"), ("torch:int4pack-g128", "int4-g128")],
)
def test_int4_holds_our_codes(name: str, same_as: str) -> None:
    given = operands(48, 384, 1)
    ours = quantize(given.weight, parse_format(same_as)).dequantize()
    # The scales are rounded to bf16, which has 8 bits.
    np.testing.assert_allclose(resolve(name).bind(given).values, ours, rtol=2.0**-8)


@pytest.mark.parametrize("name", NAMES)
def test_copies_are_other_weights(name: str) -> None:
    bound = resolve(name).bind(operands(48, 384, 2, copies=3))
    first = bound.product()
    assert len(bound.calls) == 3
    for turn, call in enumerate(bound.calls):
        product = cast("Any", call()).float().numpy()
        np.testing.assert_allclose(product, np.roll(first, turn, axis=1), rtol=2.0**-7, atol=1e-2)


@pytest.mark.parametrize(
    ("name", "n", "k"),
    [
        ("torch:int4pack-g32", 77, 64),
        ("torch:int4pack-g32", 64, 80),
        ("torch:int4pack-g128", 64, 64),
        ("torch:int8pack", 64, 77),
    ],
)
def test_shapes_that_torch_cannot_multiply_are_refused(name: str, n: int, k: int) -> None:
    assert resolve(name).unsupported_shape(n, k)


@pytest.mark.parametrize(
    ("name", "operator"),
    [
        ("torch:int4pack-g32", "_weight_int4pack_mm_for_cpu"),
        ("torch:int8pack", "_weight_int8pack_mm"),
    ],
)
def test_a_torch_without_the_operator_says_so(
    name: str, operator: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Aten:
        def __getattr__(self, asked: str) -> Any:
            if asked == operator:
                raise AttributeError(asked)
            return getattr(aten, asked)

    aten = torch.ops.aten
    monkeypatch.setattr(torch.ops, "aten", Aten())
    assert f"torch {torch.__version__} has no CPU int" in str(resolve(name).unavailable())
