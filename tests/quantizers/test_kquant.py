"""The search for GGUF's blocks: no worse than ggml's own, and than any search in float64."""

from __future__ import annotations

from ctypes import POINTER, c_float
from itertools import product
from typing import TYPE_CHECKING

import gguf
import numpy as np
import pytest

from sllmbench import _native
from sllmbench.errors import InputError
from sllmbench.formats import parse_format
from sllmbench.matmuls import ggml_library
from sllmbench.quantizers import quantize
from sllmbench.quantizers.kquant import BLOCK_FORMATS, quantize_blocks

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Matrix = NDArray[np.float32]

K_QUANTS = [name for name in BLOCK_FORMATS if name.endswith("_k")]


def gaussian(rng: np.random.Generator) -> Matrix:
    return rng.standard_normal((48, 1024)).astype(np.float32)


def heavy_tailed(rng: np.random.Generator) -> Matrix:
    return (0.02 * rng.standard_t(3, (48, 1024))).astype(np.float32)


def like_trained(rng: np.random.Generator) -> Matrix:
    """Rows and columns of different sizes, some columns far larger than the rest."""
    rows, columns = rng.lognormal(0, 0.3, (48, 1)), rng.lognormal(0, 0.5, (1, 1024))
    columns[0, rng.integers(0, 1024, 8)] *= 6
    return (0.05 * rows * columns * rng.standard_normal((48, 1024))).astype(np.float32)


def squared_error(weight: Matrix, stands_for: Matrix, importance: Matrix | None) -> float:
    squares = (weight.astype(np.float64) - stands_for) ** 2
    return float(squares.sum() if importance is None else (squares @ importance).sum())


def by_ggml(weight: Matrix, name: str, importance: Matrix | None) -> Matrix:
    """What llama-quantize makes of the weight."""
    kind, block, size = ggml_library.block_type(name)
    n, k = weight.shape
    blocks = np.empty((n, k // block * size), np.uint8)
    ggml_library.library().quantize_chunk(
        kind,
        weight.ctypes.data_as(POINTER(c_float)),
        blocks.ctypes.data,
        0,
        n,
        k,
        None if importance is None else importance.ctypes.data,
    )
    return gguf.dequantize(blocks, gguf.GGMLQuantizationType(kind))


@pytest.mark.skipif(
    isinstance(ggml_library.folder(), str), reason="llama-cpp-python is not installed"
)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("make", [gaussian, heavy_tailed, like_trained])
@pytest.mark.parametrize("name", BLOCK_FORMATS)
def test_the_error_is_no_worse_than_ggmls(name: str, make: object, weighted: bool) -> None:
    rng = np.random.default_rng(1)
    weight: Matrix = make(rng)  # type: ignore[operator]
    importance = rng.lognormal(0, 1.5, weight.shape[1]).astype(np.float32) if weighted else None
    ours = quantize_blocks(weight, name, importance).dequantize()
    theirs = by_ggml(weight, name, importance)
    error, other = (squared_error(weight, values, importance) for values in (ours, theirs))
    assert error <= 0.96 * other  # measured: 0.66 to 0.95 of it
    plain = quantize(weight, name).dequantize()
    assert error <= 0.97 * squared_error(weight, plain, importance)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(
    ("name", "scales"), [("q4_0", 4000), ("q5_0", 4000), ("q8_0", 4000), ("q4_1", 160)]
)
def test_no_grid_of_scales_finds_a_much_smaller_error(
    name: str, scales: int, weighted: bool
) -> None:
    """Every scale (and minimum) of a fine grid, in float64: the search may miss little of it."""
    rng = np.random.default_rng(2)
    weight = heavy_tailed(rng)[:2, :256].reshape(-1, 32)
    weights = rng.lognormal(0, 1, 32).astype(np.float32) if weighted else None
    ours = quantize_blocks(weight, name, weights).dequantize()
    w = np.ones(32) if weights is None else weights.astype(np.float64)
    fmt = parse_format(name)
    low, high = (0, 15) if fmt.offset == "minimum" else (-fmt.zero, fmt.zero - 1)
    low, high = (-127, 127) if fmt.bits == 8 else (low, high)
    best = 0.0
    for x in weight.astype(np.float64):
        span = x.max() - x.min() if fmt.offset == "minimum" else np.abs(x).max()
        steps = span / high * np.linspace(0.5, 1.25, scales)
        minima = [0.0] if low < 0 else list(x.min() + span * np.linspace(-0.1, 0.4, 60))
        signed = [*steps, *-steps] if low < 0 and fmt.bits < 8 else list(steps)
        errors = [
            float(w @ (x - step * np.clip(np.rint((x - least) / step), low, high) - least) ** 2)
            for step, least in product(signed, minima)
        ]
        best += min(errors)
    # What is left is where the search missed a valley: 8 bits have a great many.
    most = 1.25 if fmt.bits == 8 else 1.03
    assert squared_error(weight, ours, weights) <= most * best


@pytest.mark.parametrize("name", K_QUANTS)
def test_super_scales_cost_little_over_free_ones(name: str) -> None:
    """Against groups whose scales and minima are free: float64 least squares, from many starts."""
    rng = np.random.default_rng(3)
    weight = gaussian(rng)[:4, :512]
    fmt = parse_format(name)
    top = (1 << fmt.bits) - 1
    free = 0.0
    for x in weight.reshape(-1, fmt.group_size).astype(np.float64):
        free += min(_descend(x, steps, top, fmt.offset == "minimum") for steps in np.r_[-6:7])
    error = squared_error(weight, quantize_blocks(weight, name).dequantize(), None)
    # The factors have 4 to 8 bits: rounding costs the more the finer the codes are beside them.
    assert (
        error <= {"q2_k": 1.06, "q3_k": 1.06, "q4_k": 1.05, "q5_k": 1.12, "q6_k": 1.10}[name] * free
    )


def _descend(x: NDArray[np.float64], start: int, top: int, minima: bool) -> float:
    """The error after codes and scale (and minimum) have been fitted to each other in turns."""
    low, high = (0, top) if minima else (-(top + 1) // 2, top // 2)
    reach = 1 + start * (0.06 if top < 8 else 0.025)
    minimum = min(float(x.min()), 0.0) if minima else 0.0
    span = float(x.max()) - minimum if minima else float(np.abs(x).max())
    scale, error = span / high * reach, np.inf
    for _ in range(30):
        codes = np.clip(np.rint((x - minimum) / scale), low, high)
        columns = np.stack([codes, np.ones_like(x)], 1) if minima else codes[:, None]
        fitted = np.linalg.lstsq(columns, x, rcond=None)[0]
        scale, minimum = fitted[0], fitted[1] if minima else 0.0
        error = min(error, float(((x - scale * codes - minimum) ** 2).sum()))
        if not scale:
            break
    return error


def test_importance_moves_the_error_where_it_matters_less() -> None:
    weight = gaussian(np.random.default_rng(4))[:8, :512]
    importance = np.where(np.arange(512) % 4 == 0, 100, 1).astype(np.float32)
    important = importance > 1
    for name in BLOCK_FORMATS:
        plain, weighed = (
            (quantize_blocks(weight, name, given).dequantize() - weight) ** 2
            for given in (None, importance)
        )
        assert weighed[:, important].sum() < 0.9 * plain[:, important].sum(), name
        assert weighed[:, ~important].sum() > plain[:, ~important].sum(), name


@pytest.mark.parametrize("name", BLOCK_FORMATS)
def test_what_is_degenerate(name: str) -> None:
    weight = np.zeros((5, 256), np.float32)
    weight[1] = 0.75  # one value
    weight[2, 100] = -3.0  # one weight
    weight[3] = 1e-7  # a scale that float16 cannot hold
    weight[4] = np.linspace(-60000, 60000, 256)
    values = quantize_blocks(weight, name, np.zeros(256, np.float32)).dequantize()
    assert not values[0].any()
    step = 120000 / (2 ** parse_format(name).bits - 1)
    np.testing.assert_allclose(values[1], 0.75, rtol=0.005)
    np.testing.assert_allclose(values[2], weight[2], rtol=0.005, atol=0.002)
    assert np.abs(values[3]).max() < 1e-6
    assert np.abs(values[4] - weight[4]).max() <= step


@pytest.mark.parametrize("name", BLOCK_FORMATS)
def test_any_number_of_threads_gives_the_same_blocks(name: str) -> None:
    weight = heavy_tailed(np.random.default_rng(5))[:7, :512]
    before = _native.threads()
    try:
        _native.set_threads(1)
        one = quantize_blocks(weight, name)
        _native.set_threads(3)
        three = quantize_blocks(weight, name)
    finally:
        _native.set_threads(before)
    np.testing.assert_array_equal(one.codes, three.codes)
    np.testing.assert_array_equal(one.dequantize(), three.dequantize())


@pytest.mark.parametrize("name", ["q4_1", "q5_1"])
def test_weights_on_a_4_bit_grid_lose_nearly_nothing(name: str) -> None:
    weight = quantize(gaussian(np.random.default_rng(6)), "q4_1").dequantize()
    values = quantize_blocks(weight, name).dequantize()
    assert squared_error(weight, values, None) <= 1e-6 * float((weight**2).sum())


ONES = np.ones((2, 256), np.float32)


@pytest.mark.parametrize(
    ("weight", "name", "importance", "message"),
    [
        (ONES, "int8", None, "int8 is no block format; they are q4_0"),
        (ONES[:, :40], "q4_0", None, "whole blocks of 32"),
        (ONES[:, :128], "q4_k", None, "whole blocks of 256"),
        (ONES[0], "q4_0", None, r"not \[256\]"),
        (ONES * np.nan, "q4_0", None, "NaN or infinite"),
        (ONES * 1e6, "q4_0", None, "too large"),
        (ONES, "q4_0", np.ones(255, np.float32), r"importance must be \[256\], not \[255\]"),
        (ONES, "q4_0", -ONES[0], "an importance holds NaN, infinite or negative"),
        (ONES, "q4_0", ONES[0] * np.inf, "an importance holds NaN, infinite or negative"),
    ],
)
def test_what_is_refused(
    weight: Matrix, name: str, importance: Matrix | None, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        quantize_blocks(weight, name, importance)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"codes": np.zeros((2, 255), np.uint8)}, r"codes must be \[2, 256\]"),
        ({"scales": np.zeros((2, 7), np.uint16)}, r"scales must be \[2, 8\]"),
        ({"minima": np.zeros((2, 7), np.uint16)}, r"minima must be \[2, 8\]"),
        ({"factors": np.zeros((2, 8), np.int8)}, "this format takes no factors"),
        ({"importance": np.ones(9, np.float32)}, r"importance must be \[256\]"),
        ({"bits": 9}, "bits must be 2 to 8"),
        ({"group_size": 24}, "group_size 16 or 32"),
        ({"factor_max": 63}, r"scales must be \[2, 1\]"),
    ],
)
def test_the_binding_checks_what_it_writes_to(changed: dict[str, object], message: str) -> None:
    arguments: dict[str, object] = {
        "values": ONES,
        "importance": ONES[0],
        "codes": np.zeros((2, 256), np.uint8),
        "scales": np.zeros((2, 8), np.uint16),
        "minima": None,
        "bits": 4,
        "group_size": 32,
    }
    with pytest.raises(ValueError, match=message):
        _native.search_blocks(**(arguments | changed))  # type: ignore[arg-type]
