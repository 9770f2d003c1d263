"""onnxruntime's kernel against float64 of the very codes that it was given."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from sllmbench.matmuls import base, onnxruntime, resolve

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


def test_a_missing_library_names_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "find_spec", lambda name: None if name == "onnx" else object())
    reason = resolve("onnxruntime:int4-g32").unavailable()
    assert reason == "onnx is not installed; pip install 'sllmbench[peers]'"
