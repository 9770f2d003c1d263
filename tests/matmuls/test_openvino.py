"""openvino's kernel against float64 of the very codes that it was given."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from sllmbench.matmuls import base, openvino, resolve
from sllmbench.matmuls.native import quantized

if TYPE_CHECKING:
    from collections.abc import Callable

    from sllmbench.matmuls.base import Operands

_missing = resolve("openvino:int4-g32").unavailable()
needs_library = pytest.mark.skipif(_missing is not None, reason=_missing or "")


def _group(name: str) -> int:
    return int(name.split("-")[1].removeprefix("g"))


@needs_library
@pytest.mark.parametrize("m", [1, 4, 17])
@pytest.mark.parametrize("name", openvino.NAMES)
def test_the_product_is_within_the_arithmetics_bound(
    name: str, m: int, make_operands: Callable[..., Operands], check_product: Callable[..., None]
) -> None:
    reason = resolve(name).unavailable()
    if reason is not None:
        pytest.skip(reason)
    given = make_operands(77, 512, m)
    bound = resolve(name).bind(given)
    check_product(bound, given.x, _group(name))
    assert bound.weight_bytes == 77 * 512 // 2 + 77 * 512 // _group(name) * 4


@needs_library
def test_int4_weights_are_seen_to_stay_int4(make_operands: Callable[..., Operands]) -> None:
    use = resolve("openvino:int4-g32").bind(make_operands(64, 64, 1)).use()
    assert use.kernel.startswith(("openvino.FullyConnected ", "openvino.MatMul "))
    assert use.arithmetic == "int8"
    assert use.isa in use.kernel or use.isa == "not said by openvino"


@needs_library
def test_a_call_multiplies_with_every_copy(make_operands: Callable[..., Operands]) -> None:
    path, given = resolve("openvino:int4-g32"), make_operands(48, 64, 2, copies=3)
    assert isinstance(path, openvino.OpenVinoInt4)
    one, three = path.bind(make_operands(48, 64, 2)), path.bind(given)
    assert len(three.calls) == 1
    assert three.products_per_call == 3
    np.testing.assert_array_equal(three.product(), one.product())
    compiled = path._compiled(openvino._model(quantized(given.weight, "int4-g32"), 32, given), 1)
    products = compiled(given.x)
    for copy in range(3):
        np.testing.assert_allclose(
            products[copy], np.roll(one.product(), copy, axis=1), rtol=1e-5, atol=1e-5
        )


@pytest.mark.parametrize(("k", "reason"), [(96, None), (77, "needs k in whole groups of 32")])
def test_a_shape_needs_whole_groups(k: int, reason: str | None) -> None:
    assert resolve("openvino:int4-g32").unsupported_shape(10, k) == reason


def test_a_missing_library_names_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "find_spec", lambda _: None)
    reason = resolve("openvino:int4-g32").unavailable()
    assert reason == "openvino is not installed; pip install 'sllmbench[peers]'"
