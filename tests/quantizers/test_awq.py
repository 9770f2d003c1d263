from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from sllmbench import quantize
from sllmbench.errors import InputError
from sllmbench.formats import parse_format
from sllmbench.quantizers.awq import awq_clip, awq_scales
from sllmbench.quantizers.error import relative_error

if TYPE_CHECKING:
    from numpy.typing import NDArray


def make_inputs(k: int, seed: int = 0) -> NDArray[np.float32]:
    """Activations [tokens, k] of which a few channels are much larger."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(512, k)) * np.where(rng.random(k) < 0.05, 30, 1)
    return x.astype(np.float32)


def make_case(
    n: int, k: int
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    x = make_inputs(k)
    weight = (np.random.default_rng(1).standard_t(4, (n, k)) / 16).astype(np.float32)
    return weight, x, x.T @ x / np.float32(len(x)), np.abs(x).mean(axis=0)


@pytest.mark.parametrize("name", ["int4-g64", "int3-g64-asym", "int4-row"])
def test_large_channels_lose_less(name: str) -> None:
    weight, x, gram, mean_abs = make_case(32, 320)
    found = awq_scales([weight], gram, mean_abs, parse_format(name))
    assert 0 < found.exponent < 1
    assert found.relative_error < 0.9 * found.unscaled_error
    # What the search says is what the activations themselves show, in float64.
    rounded = quantize(weight * found.scales, name).dequantize() / found.scales.astype(np.float64)
    exact = np.linalg.norm(x @ (weight - rounded).T) / np.linalg.norm(x @ weight.T.astype(float))
    assert found.relative_error == pytest.approx(exact, rel=1e-3)
    plain = relative_error(weight, quantize(weight, name).dequantize(), gram)
    assert found.unscaled_error == pytest.approx(plain, rel=1e-5)


def test_linears_that_share_inputs_are_searched_together() -> None:
    weight, _, gram, mean_abs = make_case(48, 128)
    layout = parse_format("int3-g32")
    parts = awq_scales([weight[:16], weight[16:]], gram, mean_abs, layout)
    whole = awq_scales([weight], gram, mean_abs, layout)
    np.testing.assert_array_equal(parts.scales, whole.scales)
    assert parts.relative_error == pytest.approx(whole.relative_error, rel=1e-5)


def test_equal_channels_need_no_scales() -> None:
    weight, _, _, _ = make_case(8, 64)
    found = awq_scales(
        [weight], np.eye(64, dtype=np.float32), np.ones(64, np.float32), parse_format("int4-g32")
    )
    np.testing.assert_allclose(found.scales, 1)


def test_a_channel_that_was_always_0_gets_a_finite_scale() -> None:
    weight, _, gram, mean_abs = make_case(8, 64)
    gram[5], gram[:, 5], mean_abs[5] = 0, 0, 0
    scales = awq_scales([weight], gram, mean_abs, parse_format("int4-g32")).scales
    assert np.isfinite(scales).all()
    assert (scales > 0).all()


@pytest.mark.parametrize(("name", "k"), [("int3-g64", 320), ("int2-g48-asym", 200)])
def test_clipping_brings_outputs_nearer(name: str, k: int) -> None:
    weight, _, gram, _ = make_case(300, k)
    layout = parse_format(name)
    clipped = awq_clip(weight, gram, layout)
    assert (np.abs(clipped) <= np.abs(weight)).all()
    before, after = (
        relative_error(weight, quantize(part, layout).dequantize(), gram)
        for part in (weight, clipped)
    )
    assert after < before


def test_a_weight_on_the_grid_is_not_clipped() -> None:
    codes = np.random.default_rng(0).integers(0, 16, (6, 64))
    codes[:, ::32], codes[:, 1::32] = 0, 15
    weight = ((codes - 7) / 32).astype(np.float32)
    clipped = awq_clip(weight, np.eye(64, dtype=np.float32), parse_format("int4-g32-asym"))
    np.testing.assert_array_equal(clipped, weight)


def test_bad_input_is_refused() -> None:
    weight, _, gram, mean_abs = make_case(4, 64)
    layout = parse_format("int4-g32")
    with pytest.raises(InputError, match="of one k"):
        awq_scales([], gram, mean_abs, layout)
    with pytest.raises(InputError, match=r"must be \[64, 64\]"):
        awq_scales([weight], gram[:-1], mean_abs, layout)
    with pytest.raises(InputError, match="NaN or infinite"):
        awq_scales([weight], gram * np.float32(np.nan), mean_abs, layout)
    with pytest.raises(InputError, match=r"must be \[64, 64\]"):
        awq_clip(weight, gram[:-1], layout)
