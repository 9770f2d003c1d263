"""Names of paths, and single layers against the float64 oracle."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sllmbench import matmul, paths, quantize
from sllmbench.errors import InputError
from sllmbench.formats import FORMAT_NAMES, matmul_float64, parse_format
from sllmbench.paths.native import kernels


def test_every_listed_path_resolves_to_itself() -> None:
    for name in paths.path_names():
        path = paths.resolve(name)
        assert path.name == name
        assert path.summary
        assert 4 <= path.bits_per_weight(1024) <= 32


def test_an_unknown_path_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(InputError, match=r"unknown path 'int4-g23' \(did you mean 'int4-g32'\?\)"):
        paths.resolve("int4-g23")


@pytest.mark.parametrize("kernel", [None, *kernels()])
@pytest.mark.parametrize("form", FORMAT_NAMES)
def test_matmul_agrees_with_the_oracle(kernel: str | None, form: str) -> None:
    rng = np.random.default_rng(3)
    k = 256 if parse_format(form).two_level else 200
    x = rng.standard_normal((5, k), dtype=np.float32)
    weight = quantize(rng.standard_normal((77, k), dtype=np.float32), form)
    expected = matmul_float64(x, weight)
    got = matmul(x, weight, kernel=kernel)
    exact = kernel is not None and kernel.endswith("exact")
    assert np.abs(got - expected).max() < (1e-4 if exact else 0.5)
    from_torch = matmul(torch.from_numpy(x), weight, kernel=kernel, threads=1)
    assert isinstance(from_torch, torch.Tensor)
    np.testing.assert_allclose(from_torch.numpy(), got, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"x": np.ones((2, 63), np.float32)}, r"x must be \[m, 64\]"),
        ({"x": np.ones(64, np.float32)}, r"x must be \[m, 64\]"),
        ({"kernel": "avx9.exact"}, "unknown kernel 'avx9.exact'"),
        ({"kernel": "generic.fast"}, "unknown kernel"),
        ({"threads": 0}, "threads"),
    ],
)
def test_bad_arguments_are_refused(change: dict[str, object], says: str) -> None:
    arguments = {
        "x": np.ones((2, 64), np.float32),
        "weight": quantize(np.ones((3, 64)), "int8"),
    } | change
    with pytest.raises(InputError, match=says):
        matmul(**arguments)  # type: ignore[arg-type]


def test_torch_int4pack_layer_matches_the_dequantised_weight() -> None:
    from sllmbench.paths.torch_int4pack import Int4PackLinear

    weight = quantize(torch.randn(32, 64, generator=torch.Generator().manual_seed(0)), "int4-g32")
    x = torch.randn(3, 64, generator=torch.Generator().manual_seed(1)).bfloat16()
    expected = matmul_float64(x.float().numpy(), weight)
    got = Int4PackLinear(weight, None)(x).float().numpy()
    # bf16 scales, activations and result: 2^-8 each of the sum of magnitudes
    bound = 3 * 2.0**-8 * (np.abs(x.float().numpy()) @ np.abs(weight.dequantize()).T)
    assert (np.abs(got - expected) <= bound).all()


@pytest.mark.parametrize(
    "form", ["int2-g32", "int3-g96-asym", "int4-g64", "int4-g64-asym", "int8", "int8-g32-asym"]
)
@pytest.mark.parametrize("k", [192, 187])
def test_an_unfused_layer_expands_to_the_dequantised_weight(form: str, k: int) -> None:
    from sllmbench.paths.unfused import UnfusedLinear

    rng = np.random.default_rng(5)
    weight = quantize(rng.standard_normal((33, k), dtype=np.float32), form)
    layer = UnfusedLinear(weight, None)
    np.testing.assert_allclose(layer._expanded().numpy(), weight.dequantize(), rtol=1e-6, atol=1e-6)
    x = rng.standard_normal((3, k), dtype=np.float32)
    got = layer(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(got, matmul_float64(x, weight), rtol=1e-4, atol=1e-4)
    assert [use.kernel for use in layer.kernel_uses] == ["torch expand + torch.linear"]
    offsets = 0 if weight.offsets is None else weight.offsets.nbytes
    assert layer.stored_bytes == weight.codes.nbytes + weight.scales.nbytes + offsets
