"""Our kernels bound to one matrix: right product, a weight of its own in every copy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest

from sllmbench import _native
from sllmbench.errors import InputError
from sllmbench.formats import parse_format
from sllmbench.matmuls import Operands, matmul_names, resolve
from sllmbench.matmuls.native import NAMES, check_isa

if TYPE_CHECKING:
    from sllmbench.matmuls import Arithmetic


def operands(n: int, k: int, m: int, copies: int = 1) -> Operands:
    rng = np.random.default_rng([n, k, m])
    weight = rng.standard_normal((n, k), np.float32)
    return Operands(weight, rng.standard_normal((m, k), np.float32), 2, copies)


@pytest.mark.parametrize("arithmetic", ["int8", "exact"])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("n", "m"), [(64, 1), (77, 5)])
def test_the_product_is_that_of_the_stored_weights(
    name: str, arithmetic: Arithmetic, n: int, m: int
) -> None:
    given = operands(n, 256, m)
    bound = resolve(name, arithmetic).bind(given)
    magnitude = np.abs(given.x).astype(np.float64) @ np.abs(bound.values).astype(np.float64).T
    # int8 activations: half a step of each, the largest of the row being 127 of them.
    step = np.abs(given.x).max(axis=1, keepdims=True) / 127
    rounding = step / 2 * np.abs(bound.values).sum(axis=1) if arithmetic == "int8" else 0
    expected = given.x.astype(np.float64) @ bound.values.astype(np.float64).T
    assert (np.abs(bound.product() - expected) <= rounding + 1e-5 * magnitude).all()
    assert bound.use().arithmetic == arithmetic
    assert bound.use().format == name
    borrowed = {"avx512_vnni": "avx512", "amx_int8": "avx512"} if arithmetic == "exact" else {}
    if m <= 4 and arithmetic == "int8":
        borrowed = {"amx_int8": "avx512_vnni"}
    active = _native.active_isa()
    assert bound.use().isa == borrowed.get(active, active)


def test_the_stored_bytes_are_near_the_formats() -> None:
    for name in NAMES:
        bound = resolve(name).bind(operands(2048, 1024, 1))
        nominal = 2048 * 1024 * resolve(name).bits_per_weight(1024) / 8
        # Below 4 bits the factors of scales have fewer bits than the bytes that hold them.
        most = 1.03 if parse_format(name).bits >= 4 else 1.12
        assert nominal <= bound.weight_bytes <= most * nominal, name


def test_an_instruction_set_that_is_asked_for_runs() -> None:
    for isa in _native.supported_isas():
        assert resolve("int8", "int8", isa).bind(operands(32, 64, 5)).use().isa == isa


def test_copies_are_other_weights() -> None:
    bound = resolve("int4-g32", "exact").bind(operands(48, 64, 3, copies=3))
    first = bound.product().copy()
    for turn, call in enumerate(bound.calls):
        call()
        out = cast("Any", call).args[2]
        np.testing.assert_allclose(out, np.roll(first, turn, axis=1), rtol=1e-6)


def test_a_product_shows_what_the_kernel_wrote_and_nothing_older() -> None:
    bound = resolve("int8").bind(operands(48, 64, 3))
    before = bound.product().copy()
    cast("Any", bound.calls[0]).args[2].fill(7)
    np.testing.assert_array_equal(bound.product(), before)


@pytest.mark.parametrize("isa", ["avx9", *sorted(set(_native.compiled_isas()) - {"generic"})])
def test_an_instruction_set_that_cannot_run_is_refused(
    isa: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if isa != "avx9":
        monkeypatch.setattr(_native, "isa_unsupported_reason", lambda name: f"no {name} here")
    with pytest.raises(InputError, match=isa):
        check_isa(isa)


def test_every_name_resolves_to_itself() -> None:
    for name in matmul_names():
        assert resolve(name).name == name
        assert resolve(name).summary
        assert 4 <= resolve(name).bits_per_weight(1024) <= 32


def test_an_unknown_name_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(InputError, match=r"'torch:int4pak-g32' \(did you mean 'torch:int4pack-g32"):
        resolve("torch:int4pak-g32")
