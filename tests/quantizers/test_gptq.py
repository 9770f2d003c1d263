from __future__ import annotations

import itertools
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from sllmbench import _native, quantize
from sllmbench.errors import InputError
from sllmbench.formats import QuantTensor, integer_format
from sllmbench.quantizers.gptq import GptqSettings, gptq
from sllmbench.quantizers.grid import integer_grid

if TYPE_CHECKING:
    from numpy.typing import NDArray


def make_inputs(k: int, tokens: int = 600, seed: int = 0) -> NDArray[np.float64]:
    """Correlated activations [tokens, k] with a few large channels."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(tokens, k)) @ (np.eye(k) + rng.normal(size=(k, k)) / np.sqrt(k))
    x[:, :: max(1, k // 5)] *= 6
    return x


def make_case(n: int, k: int, seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    x = make_inputs(k, seed=seed)
    weight = np.random.default_rng(seed + 1).standard_t(5, (n, k)).astype(np.float32) / 8
    return weight, (x.T @ x / len(x)).astype(np.float32)


def output_error(
    weight: NDArray[np.float32], tensor: QuantTensor, hessian: NDArray[np.float32]
) -> float:
    off, whole = weight - tensor.dequantize().astype(np.float64), weight.astype(np.float64)
    h = hessian.astype(np.float64)
    return float(np.sqrt(np.trace(off @ h @ off.T) / np.trace(whole @ h @ whole.T)))


def published_gptq(
    weight: NDArray[np.float32], hessian: NDArray[np.float32], settings: GptqSettings
) -> NDArray[np.float64]:
    """The algorithm as it is published, column by column in float64, over the inverse Hessian."""
    fmt, k = settings.layout, weight.shape[1]
    h = hessian.astype(np.float64)
    h += settings.damp_percent * np.diagonal(h).mean() * np.eye(k)
    order = np.argsort(-np.diagonal(hessian), kind="stable") if settings.desc_act else np.arange(k)
    inverse = np.linalg.cholesky(np.linalg.inv(h[np.ix_(order, order)])).T
    left = weight.astype(np.float64)[:, order]
    result, length = np.empty_like(left), fmt.group_length(k)
    static = {
        g: integer_grid(weight[:, None, g * length : (g + 1) * length], fmt)
        for g in range(fmt.groups(k))
    }
    for j in range(k):
        if settings.static_groups:
            grid = static[order[j] // length]
        elif j % length == 0:
            grid = integer_grid(left[:, None, j : j + length].astype(np.float32), fmt)
        column = left[:, j].astype(np.float32)[:, None, None]
        result[:, j] = grid.values(grid.codes(column))[:, 0, 0]
        off = (left[:, j] - result[:, j]) / inverse[j, j]
        left[:, j + 1 :] -= np.outer(off, inverse[j, j + 1 :])
    ordered = np.empty_like(result)
    ordered[:, order] = result
    return ordered


KINDS = list(itertools.product((2, 3, 4, 8), (True, False), (False, True), (False, True)))


@pytest.mark.parametrize(("bits", "sym", "desc_act", "static_groups"), KINDS)
@pytest.mark.parametrize(("n", "k", "group_size"), [(9, 200, 32), (5, 161, 48), (3, 130, -1)])
def test_it_is_the_published_algorithm(
    bits: Any, sym: bool, desc_act: bool, static_groups: bool, n: int, k: int, group_size: int
) -> None:
    weight, hessian = make_case(n, k)
    settings = GptqSettings(bits, group_size, sym, desc_act, static_groups)
    result = gptq(weight, hessian, settings)
    expected = published_gptq(weight, hessian, settings)
    ours = result.tensor.dequantize()
    # A tie that float32 breaks otherwise changes the rest of its row.
    same = np.isclose(ours, expected, rtol=1e-3, atol=1e-4).all(axis=1)
    assert same.mean() >= 0.6
    off, h = weight - expected, hessian.astype(np.float64)
    published = np.sqrt(np.trace(off @ h @ off.T) / np.trace(weight @ h @ weight.T))
    assert output_error(weight, result.tensor, hessian) <= 1.02 * published
    assert result.tensor.format == integer_format(bits, group_size, not sym)
    assert (result.tensor.order is not None) == (desc_act and not static_groups)


EACH_ISA = """
import hashlib, numpy as np
from sllmbench import _native
from sllmbench.quantizers.gptq import GptqSettings, gptq
rng = np.random.default_rng(0)
inputs = rng.standard_normal((300, 200)).astype(np.float32)
hessian = inputs.T @ inputs + 20 * np.outer(inputs[0], inputs[0])
weight = rng.standard_normal((37, 200)).astype(np.float32)
found = gptq(weight, hessian, GptqSettings(3, 32, sym=False)).tensor
print(_native.active_isa(), hashlib.sha256(found.codes.tobytes()).hexdigest())
"""


def test_every_instruction_set_gives_the_same_codes() -> None:
    usable = [name for name in _native.compiled_isas() if not _native.isa_unsupported_reason(name)]
    found = []
    for isa in usable:
        ran = subprocess.run(
            [sys.executable, "-P", "-c", EACH_ISA],
            env={**os.environ, "SLLMBENCH_ISA": isa},
            capture_output=True,
            text=True,
            check=True,
        )
        name, codes = ran.stdout.split()
        assert name == isa
        found.append(codes)
    assert len(set(found)) == 1


@pytest.mark.parametrize("group_size", [32, 96, 200, -1])
@pytest.mark.parametrize("bits", [2, 3, 4])
def test_outputs_are_nearer_than_those_of_rounding(bits: Any, group_size: int) -> None:
    weight, hessian = make_case(24, 256)
    settings = GptqSettings(bits, group_size)
    result = gptq(weight, hessian, settings)
    rounded = quantize(weight, settings.layout)
    assert output_error(weight, result.tensor, hessian) < 0.9 * output_error(
        weight, rounded, hessian
    )


def test_the_loss_is_that_of_the_damped_hessian() -> None:
    weight, hessian = make_case(16, 300)
    result = gptq(weight, hessian, GptqSettings(3, 64, damp_percent=0.05))
    off = weight - result.tensor.dequantize().astype(np.float64)
    damped = hessian + 0.05 * np.diagonal(hessian).mean() * np.eye(300)
    assert result.loss == pytest.approx(np.trace(off @ damped @ off.T), rel=1e-3)
    assert (result.damp_percent, result.retries) == (0.05, 0)


@pytest.mark.parametrize(
    ("bits", "group_size", "sym"), [(4, 32, True), (3, -1, False), (8, 50, True)]
)
def test_independent_inputs_leave_nothing_to_make_up_for(
    bits: Any, group_size: int, sym: bool
) -> None:
    weight, _ = make_case(7, 150)
    settings = GptqSettings(bits, group_size, sym)
    result = gptq(weight, np.eye(150, dtype=np.float32), settings).tensor
    expected = quantize(weight, settings.layout)
    np.testing.assert_array_equal(result.codes, expected.codes)
    np.testing.assert_array_equal(result.scales, expected.scales)


def test_a_weight_on_the_grid_stays() -> None:
    _, hessian = make_case(12, 160)
    codes = np.random.default_rng(0).integers(0, 16, (12, 160))
    codes[:, ::32], codes[:, 1::32] = 0, 15  # so that every group's range says its scale
    on_grid = ((codes - 7) * np.float32(0.03125)).astype(np.float32)
    result = gptq(on_grid, hessian, GptqSettings(4, 32, sym=False, static_groups=True))
    np.testing.assert_array_equal(result.tensor.dequantize(), on_grid)


def test_an_input_that_was_always_0_is_rounded_to_nearest() -> None:
    weight, hessian = make_case(6, 96)
    hessian[40], hessian[:, 40] = 0, 0
    result = gptq(weight, hessian, GptqSettings(4, 32, static_groups=True)).tensor
    rounded = quantize(weight, "int4-g32")
    np.testing.assert_array_equal(result.dequantize()[:, 40], rounded.dequantize()[:, 40])


def test_no_inputs_at_all_is_rounding() -> None:
    weight, _ = make_case(4, 64)
    result = gptq(weight, np.zeros((64, 64), np.float32), GptqSettings(4, 32))
    np.testing.assert_array_equal(result.tensor.codes, quantize(weight, "int4-g32").codes)


def test_a_hessian_that_is_not_positive_is_damped_more() -> None:
    weight, hessian = make_case(4, 64)
    hessian -= 0.1 * np.diagonal(hessian).mean() * np.eye(64, dtype=np.float32)
    hessian += np.diag(np.maximum(0, -np.diagonal(hessian)))
    result = gptq(weight, hessian, GptqSettings(4, 32, damp_percent=0.01))
    assert result.retries > 0
    assert result.damp_percent == pytest.approx(0.01 * 2**result.retries)


def test_clipping_lowers_the_error_where_outliers_stretch_the_scales() -> None:
    weight, hessian = make_case(16, 256)
    weight[:, 3] *= 12
    plain, clipped = (
        gptq(weight, hessian, GptqSettings(2, 64, mse_clip=clip)).tensor for clip in (False, True)
    )
    h = np.eye(256, dtype=np.float32)
    assert output_error(weight, clipped, h) < output_error(weight, plain, h)


def with_value(matrix: NDArray[np.float32], value: float) -> NDArray[np.float32]:
    changed = matrix.copy()
    changed[1, 1] = value
    return changed


def test_bad_input_is_refused() -> None:
    weight, hessian = make_case(4, 64)
    for bad, message in (
        (hessian[:-1], r"must be \[64, 64\]"),
        (with_value(hessian, np.nan), "NaN or infinite"),
        (with_value(hessian, -1.0), "diagonal is negative"),
        (hessian - 3 * hessian.max() * (1 - np.eye(64, dtype=np.float32)), "not positive definite"),
    ):
        with pytest.raises(InputError, match=message):
            gptq(weight, bad)
    with pytest.raises(InputError, match="NaN or infinite"):
        gptq(with_value(weight, np.inf), hessian)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"bits": 5}, "2, 3, 4 or 8 bits"),
        ({"damp_percent": 0.0}, "between 0 and 1"),
        ({"damp_percent": float("nan")}, "between 0 and 1"),
        ({"group_size": 0}, "group_size must be positive"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        GptqSettings(**settings)
