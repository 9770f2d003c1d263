"""Rounding to nearest: the error bound that each format's step gives, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sllmbench.errors import InputError
from sllmbench.formats import FORMAT_NAMES, QuantTensor, parse_format
from sllmbench.quantizers import quantize

SHAPES = [(1, 1), (3, 5), (7, 33), (16, 128), (5, 300), (2, 576)]


def half_step(tensor: QuantTensor) -> np.ndarray:
    """The derived bound: half a stored step a weight, and the scale's own float16 rounding."""
    length = tensor.format.group_length(tensor.k)
    scales = np.repeat(tensor.scales.astype(np.float64), length, axis=1)[:, : tensor.k]
    codes = 2 ** (tensor.format.bits - 1)
    # A scale of s(1 ± 2^-11) moves the outermost code by codes * s * 2^-11; minima round too.
    slack = codes * scales * 2.0**-11
    if tensor.format.offset == "minimum":
        minima = np.repeat(np.abs(tensor.offsets.astype(np.float64)), length, axis=1)[:, : tensor.k]
        slack = slack + minima * 2.0**-11
    return scales / 2 + slack + 2.0**-25


def within(error: np.ndarray, bound: np.ndarray) -> bool:
    return not bool((~(error <= bound)).any())


@pytest.mark.parametrize("name", FORMAT_NAMES)
@pytest.mark.parametrize("shape", SHAPES)
def test_error_is_at_most_half_a_step(name: str, shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(hash((name, shape)) % 2**32)
    for weight in (rng.standard_normal(shape), rng.random(shape) + 3, -rng.random(shape)):
        tensor = quantize(weight.astype(np.float32), name)
        error = np.abs(tensor.dequantize().astype(np.float64) - weight.astype(np.float32))
        assert within(error, half_step(tensor))


def test_the_bound_can_fail() -> None:
    weight = np.random.default_rng(0).standard_normal((4, 64)).astype(np.float32)
    tensor = quantize(weight, "int4-g32")
    error = np.abs(tensor.dequantize() - weight)
    assert not within(error * 2, half_step(tensor))
    error[0, 0] = np.nan
    assert not within(error, half_step(tensor))


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from(FORMAT_NAMES),
    st.integers(1, 6),
    st.integers(1, 150),
    st.integers(-5, 3),
    st.integers(0, 2**32 - 1),
)
def test_any_shape_and_magnitude(name: str, n: int, k: int, exponent: int, seed: int) -> None:
    weight = np.random.default_rng(seed).standard_normal((n, k)) * 10.0**exponent
    tensor = quantize(weight.astype(np.float32), name)
    assert tensor.codes.shape[0] == n
    assert within(np.abs(tensor.dequantize() - weight), half_step(tensor) * (1 + 1e-6))


@pytest.mark.parametrize("name", FORMAT_NAMES)
def test_zeros_stay_zero(name: str) -> None:
    assert not quantize(np.zeros((3, 70), np.float32), name).dequantize().any()


def test_weights_on_the_grid_come_back_exactly() -> None:
    codes = np.tile(np.arange(16), 4).reshape(2, 32)
    weight = ((codes - 5) * 0.25).astype(np.float32)
    assert (quantize(weight, "int4-g32-asym").dequantize() == weight).all()
    assert (quantize(weight, "q4_1").dequantize() == weight).all()


def test_torch_and_numpy_agree() -> None:
    weight = torch.randn(8, 96, generator=torch.Generator().manual_seed(1))
    ours = quantize(weight, "int8")
    assert (ours.codes == quantize(weight.numpy(), parse_format("int8")).codes).all()
    assert quantize(weight.bfloat16(), "int8").scales.dtype == np.float16


@pytest.mark.parametrize(
    ("weight", "says"),
    [
        (np.array([[1.0, np.nan]]), "NaN or infinite"),
        (np.array([[1.0, -np.inf]]), "NaN or infinite"),
        (np.zeros(4), "matrix"),
        (np.zeros((0, 4)), "matrix"),
        (np.full((1, 4), 1e30), "float16"),
    ],
)
def test_bad_weights_are_refused(weight: np.ndarray, says: str) -> None:
    with pytest.raises(InputError, match=says):
        quantize(weight, "int4-g32")


def test_unknown_format_is_refused() -> None:
    with pytest.raises(InputError, match="unknown format 'int3'"):
        quantize(np.ones((1, 1)), "int3")
