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
INTEGERS = ("int2-g32", "int2-row-asym", "int3-g20", "int3-g64-asym", "int8-g48", "int8-row-asym")


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


@pytest.mark.parametrize("name", [*FORMAT_NAMES, *INTEGERS])
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


def clipped_by_trying(
    weight: np.ndarray, name: str, importance: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The least error of each group over the shares of its range, [n, groups], and its range's."""
    fmt = parse_format(name)
    n, k = weight.shape
    errors, whole = (np.full((n, fmt.groups(k)), np.inf) for _ in range(2))
    for g in range(fmt.groups(k)):
        part = slice(g * fmt.group_size, min((g + 1) * fmt.group_size, k))
        values = weight[:, part].astype(np.float64)
        for share in np.linspace(1, 0.3, 36):
            if fmt.offset == "zero_point":
                low = share * np.minimum(values.min(axis=1), 0)
                high = share * np.maximum(values.max(axis=1), 0)
                scales = np.float16((high - low) / (2**fmt.bits - 1))
                zeros = np.rint(-low / scales.astype(float)).clip(0, 2**fmt.bits - 1)
            else:
                scales = np.float16(2 * share * np.abs(values).max(axis=1) / (2**fmt.bits - 1))
                zeros = np.full(n, 2.0 ** (fmt.bits - 1))
            scales, zeros = scales.astype(float)[:, None], zeros[:, None]
            codes = (np.rint(values / scales) + zeros).clip(0, 2**fmt.bits - 1)
            error = (((codes - zeros) * scales - values) ** 2 @ importance[part]).reshape(n)
            errors[:, g] = np.minimum(errors[:, g], error)
            if share == 1:
                whole[:, g] = error
    return errors, whole


@pytest.mark.parametrize("name", ["int2-g32", "int3-g48-asym", "int4-g64", "int4-g200-asym"])
@pytest.mark.parametrize("weighed", [False, True])
def test_clipping_finds_the_best_share_of_each_groups_range(name: str, weighed: bool) -> None:
    rng = np.random.default_rng(3)
    weight = rng.standard_t(3, (6, 200)).astype(np.float32)  # 200: short last groups
    importance = np.exp(3 * rng.normal(size=200)) if weighed else np.ones(200)
    given = importance.astype(np.float32) if weighed else None
    off = quantize(weight, name, "mse", given).dequantize().astype(np.float64) - weight
    starts = np.arange(0, 200, parse_format(name).group_size)
    errors = np.add.reduceat(off**2 * importance, starts, axis=1)
    best, whole = clipped_by_trying(weight, name, importance)
    np.testing.assert_allclose(errors, best, rtol=1e-3)
    assert errors.sum() < 0.9 * whole.sum()


def test_what_clipping_cannot_do_is_refused() -> None:
    weight = np.ones((2, 64), np.float32)
    for arguments, says in (
        (("q4_0", "mse"), "q4_0 has no clipping"),
        (("q4_k", "none"), "multiple of 256"),
        (("q4_1", "mse"), "q4_1 has no clipping"),
        (("int4-g32", "best"), "unknown clip 'best'"),
        (("int4-g32", "none", np.ones(64)), "an importance is for clip='mse'"),
        (("int4-g32", "mse", np.ones(63)), r"an importance must be \[64\], not \[63\]"),
        (("int4-g32", "mse", np.full(64, -1.0)), "NaN, infinite or negative"),
        (("int4-g32", "mse", np.full(64, np.nan)), "NaN, infinite or negative"),
    ):
        with pytest.raises(InputError, match=says):
            quantize(weight, *arguments)  # type: ignore[arg-type]
