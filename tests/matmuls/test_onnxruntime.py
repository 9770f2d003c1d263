"""onnxruntime's kernel against float64 of the very codes that it was given."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from sllmbench.matmuls import base, onnxruntime, resolve
from sllmbench.matmuls.native import quantized

if TYPE_CHECKING:
    from collections.abc import Callable

    from sllmbench.matmuls.base import Operands

_missing = resolve("onnxruntime:int4-g32").unavailable()
needs_library = pytest.mark.skipif(_missing is not None, reason=_missing or "")


def _group(name: str) -> int:
    return int(name.split("-")[1].removeprefix("g"))


@needs_library
@pytest.mark.parametrize("m", [1, 4, 17])
@pytest.mark.parametrize("name", onnxruntime.NAMES)
def test_the_product_is_within_the_arithmetics_bound(
    name: str, m: int, make_operands: Callable[..., Operands], check_product: Callable[..., None]
) -> None:
    given = make_operands(77, 512, m)
    bound = resolve(name).bind(given)
    check_product(bound, given.x, _group(name))
    assert bound.use().arithmetic == ("float32" if name.endswith("-exact") else "int8")
    assert bound.weight_bytes == 77 * 512 // 2 + 77 * 512 // _group(name) * 4


@needs_library
@pytest.mark.parametrize("k", [77, 8191])
@pytest.mark.parametrize("name", ["onnxruntime:int4-g128", "onnxruntime:int4-g32-exact"])
def test_a_short_last_group_and_an_odd_k_multiply_rightly(
    name: str, k: int, make_operands: Callable[..., Operands], check_product: Callable[..., None]
) -> None:
    given = make_operands(33, k, 3)
    check_product(resolve(name).bind(given), given.x, _group(name))


@needs_library
def test_a_call_multiplies_with_every_copy(make_operands: Callable[..., Operands]) -> None:
    one = resolve("onnxruntime:int4-g32").bind(make_operands(48, 64, 2))
    three = resolve("onnxruntime:int4-g32").bind(make_operands(48, 64, 2, copies=3))
    assert len(three.calls) == 1
    assert three.products_per_call == 3
    np.testing.assert_array_equal(three.product(), one.product())
    given = make_operands(48, 64, 2, copies=3)
    session, _held = onnxruntime._session(quantized(given.weight, "int4-g32"), 32, 4, given)
    products = session.run(None, {"x": given.x})
    for copy in range(3):
        np.testing.assert_array_equal(products[copy], np.roll(one.product(), copy, axis=1))


@needs_library
def test_copies_beyond_what_a_protobuf_message_can_hold_stay_outside_the_model(
    make_operands: Callable[..., Operands], monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []
    write = onnxruntime._model

    def watched(*arguments: Any) -> bytes:
        model = write(*arguments)
        sizes.append(len(model))
        return model

    monkeypatch.setattr(onnxruntime, "_model", watched)
    for n in (32, 1024):
        resolve("onnxruntime:int4-g32").bind(make_operands(n, 512, 1, copies=4))
    small, large = sizes
    assert large - small < 100  # 32 times the weights: longer numbers alone


def test_a_missing_library_names_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "find_spec", lambda name: None if name == "onnx" else object())
    reason = resolve("onnxruntime:int4-g32").unavailable()
    assert reason == "onnx is not installed; pip install 'sllmbench[peers]'"
