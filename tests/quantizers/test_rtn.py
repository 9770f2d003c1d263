"""Rounding to nearest: the error bound that each format's step gives, and what is refused."""

from __future__ import annotations

import tempfile
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sllmbench.checkpoints.gguf_blocks import read_blocks
from sllmbench.checkpoints.gguf_header import GgufTensor
from sllmbench.errors import InputError
from sllmbench.formats import FORMAT_NAMES, SUPER_LENGTH, QuantFormat, QuantTensor, parse_format
from sllmbench.quantizers import quantize

SHAPES = [(1, 1), (3, 5), (7, 33), (16, 128), (5, 300), (2, 576)]
GGML_RULE = ("q4_0", "q5_0")


def columns(name: str, k: int) -> int:
    """``k``, rounded up to what a two-level format can have."""
    return -(-k // SUPER_LENGTH) * SUPER_LENGTH if parse_format(name).two_level else k


def half_step(tensor: QuantTensor) -> np.ndarray:
    """The derived bound: half a stored step a weight, and the scale's own float16 rounding.

    ggml's rule has a whole step, at the end of the range that has no code of its own.
    """
    fmt = tensor.format
    length = fmt.group_length(tensor.k)
    steps, added = (
        np.repeat(np.abs(part), length, axis=1)[:, : tensor.k] for part in tensor.group_terms()
    )
    codes = 2 ** (fmt.bits - 1) if fmt.offset == "symmetric" else 2**fmt.bits
    # A scale of s(1 ± 2^-11) moves the outermost code by codes * s * 2^-11; minima round too. The
    # float32 operations that find the codes err by far less, of the largest values that they meet.
    slack = codes * steps * (2.0**-11 + 2.0**-20)
    if fmt.offset == "minimum":
        slack = slack + added * (2.0**-11 + 2.0**-20)
    if fmt.name in GGML_RULE:
        # Its scale is rounded to nearest after the codes are chosen: subnormal ones by 2^-25.
        return steps + slack + codes * 2.0**-25
    return steps / 2 + slack + 2.0**-25


def within(error: np.ndarray, bound: np.ndarray) -> bool:
    return not bool((~(error <= bound)).any())


@pytest.mark.parametrize("name", FORMAT_NAMES)
@pytest.mark.parametrize("shape", SHAPES)
def test_error_is_at_most_half_a_step(name: str, shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(hash((name, shape)) % 2**32)
    shape = (shape[0], columns(name, shape[1]))
    for weight in (rng.standard_normal(shape), rng.random(shape) + 3, -rng.random(shape)):
        tensor = quantize(weight.astype(np.float32), name)
        error = np.abs(tensor.dequantize().astype(np.float64) - weight.astype(np.float32))
        assert within(error, half_step(tensor))


@pytest.mark.parametrize(
    "fmt",
    [
        QuantFormat("5 bits, zero points", 5, 20, "zero_point"),
        QuantFormat("5 bits, minima", 5, 64, "minimum"),
        QuantFormat("6 bits", 6, 48),
        QuantFormat("two levels, 4 bits symmetric", 4, 64, two_level=True),
        QuantFormat("two levels, 8 bits", 8, 64, two_level=True),
    ],
    ids=lambda fmt: fmt.name,
)
def test_formats_without_a_name_of_their_own(fmt: QuantFormat) -> None:
    weight = np.random.default_rng(4).standard_normal((7, 512)).astype(np.float32)
    tensor = quantize(weight, fmt)
    assert within(np.abs(tensor.dequantize().astype(np.float64) - weight), half_step(tensor))


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
    shape = (n, columns(name, k))
    weight = np.random.default_rng(seed).standard_normal(shape) * 10.0**exponent
    tensor = quantize(weight.astype(np.float32), name)
    assert tensor.codes.shape[0] == n
    assert within(np.abs(tensor.dequantize() - weight), half_step(tensor) * (1 + 1e-6))


@pytest.mark.parametrize("name", FORMAT_NAMES)
def test_zeros_stay_zero(name: str) -> None:
    assert not quantize(np.zeros((3, columns(name, 70)), np.float32), name).dequantize().any()


def test_weights_on_the_grid_come_back_exactly() -> None:
    codes = np.tile(np.arange(16), 4).reshape(2, 32)
    weight = ((codes - 5) * 0.25).astype(np.float32)
    assert (quantize(weight, "int4-g32-asym").dequantize() == weight).all()
    assert (quantize(weight, "q4_1").dequantize() == weight).all()


@settings(deadline=None, max_examples=40)
@given(
    st.sampled_from(["Q4_0", "Q5_0"]),
    st.integers(1, 5),
    st.integers(1, 6),
    st.integers(-6, 3),
    st.booleans(),
    st.integers(0, 2**32 - 1),
)
def test_q4_0_and_q5_0_are_ggmls_bit_for_bit(
    name: str, n: int, groups: int, exponent: int, ties: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    weight = (rng.standard_normal((n, 32 * groups)) * 10.0**exponent).astype(np.float32)
    if ties:
        # Integers up to 32, which is in every group: steps of 2 or 4, so many lie halfway; and
        # largest magnitudes of both signs.
        weight = rng.integers(-32, 33, weight.shape).astype(np.float32)
        weight[:, ::32] = rng.choice([-32, 32], weight[:, ::32].shape)
    blocks = gguf.quantize(weight, gguf.GGMLQuantizationType[name])
    with tempfile.NamedTemporaryFile() as file:
        file.write(blocks.tobytes())
        file.flush()
        stored = GgufTensor(name, name, weight.shape, 0, blocks.nbytes)
        theirs = read_blocks(Path(file.name), stored, None)
    ours = quantize(weight, name.lower())
    np.testing.assert_array_equal(ours.codes, theirs.codes)
    np.testing.assert_array_equal(ours.scales, theirs.scales)


def test_values_below_float16_become_zero_under_ggmls_rule() -> None:
    """Their float32 scale has no inverse."""
    assert not quantize(np.full((1, 32), 1e-44, np.float32), "q4_0").dequantize().any()


@pytest.mark.parametrize("name", ["q4_k", "q5_k", "q6_k"])
def test_groups_of_a_super_group_have_scales_of_their_own(name: str) -> None:
    """The error follows each group's own range down to a factor of 1."""
    rng = np.random.default_rng(1)
    fmt = parse_format(name)
    sizes = 2.0 ** -(np.arange(256) // fmt.group_size % 5)
    weight = (rng.uniform(-1, 1, (4, 256)) * sizes).astype(np.float32)
    error = np.abs(quantize(weight, name).dequantize() - weight)
    # The range 2 * size over the codes, rounded up to a factor of largest / 63 (q6_k: 127).
    step = 2 * sizes / (2**fmt.bits - 2) + 2 / (2**fmt.bits - 2) / 63
    # A rounded-up minimum widens the range by at most 1 / 63 / codes.
    assert (error <= 0.51 * (step + 1 / 63 / (2**fmt.bits - 2))).all()


def test_a_k_that_two_level_formats_cannot_have_is_refused() -> None:
    with pytest.raises(InputError, match="q4_k needs k to be a multiple of 256, not 300"):
        quantize(np.ones((2, 300)), "q4_k")


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
