"""Our kernels and torch's int4 operator: `pytest benchmarks/bench_matmul.py`.

pytest-benchmark's numbers are written, correctness is asserted, a time never is.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sllmbench import _native
from sllmbench.formats import QuantTensor, matmul_float64, pack_nibbles, parse_format

SHAPES = [(2048, 2048), (8192, 2048), (2048, 8192)]
FORMATS = ["int4-g32", "int4-g128", "q4_1", "int8", "q8_0"]
ROWS = [1, 128]


def make_weight(name: str, n: int, k: int) -> QuantTensor:
    fmt = parse_format(name)
    rng = np.random.default_rng(0)
    groups = fmt.groups(k)
    codes: Any = rng.integers(-128, 128, (n, k)).astype(np.int8)
    if fmt.bits == 4:
        codes = pack_nibbles(rng.integers(0, 16, (n, k)).astype(np.uint8))
    scales = rng.uniform(0.003, 0.01, (n, groups)).astype(np.float16)
    offsets = (-8 * scales) if fmt.offset == "minimum" else None
    return QuantTensor(fmt, n, k, codes, scales, offsets)


def assert_near(
    out: np.ndarray[Any, Any], reference: np.ndarray[Any, Any], relative: float
) -> None:
    """The tests hold each value to its bound; here a result only has to be the right product."""
    error = np.linalg.norm(out - reference) / np.linalg.norm(reference)
    assert error < relative


@pytest.mark.parametrize("m", ROWS)
@pytest.mark.parametrize(("n", "k"), SHAPES)
@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("arithmetic", ["int8", "exact"])
@pytest.mark.parametrize("isa", [isa for isa in _native.supported_isas() if isa != "generic"])
def test_ours(benchmark: Any, isa: str, arithmetic: str, name: str, n: int, k: int, m: int) -> None:
    weight = make_weight(name, n, k)
    x = np.random.default_rng(1).normal(size=(m, k)).astype(np.float32)
    out = np.full((m, n), np.nan, np.float32)
    packed = weight.native
    benchmark.group = f"{n}x{k}, m = {m}"
    benchmark.extra_info["weights_bytes"] = packed.nbytes
    benchmark.extra_info["operations"] = 2 * m * n * k
    benchmark(_native.matmul, x, packed, out, arithmetic=arithmetic, isa=isa)
    assert_near(out, matmul_float64(x, weight), 1e-6 if arithmetic == "exact" else 0.02)


@pytest.mark.parametrize("m", ROWS)
@pytest.mark.parametrize(("n", "k"), SHAPES)
@pytest.mark.parametrize("group", [32, 128])
def test_torch_int4pack(benchmark: Any, group: int, n: int, k: int, m: int) -> None:
    torch = pytest.importorskip("torch")
    aten = torch.ops.aten
    if not hasattr(aten, "_weight_int4pack_mm_for_cpu"):
        pytest.skip(f"torch {torch.__version__} has no CPU int4 operator")
    torch.set_num_threads(_native.threads())
    codes = torch.randint(0, 16, (n, k), dtype=torch.int32)
    packed = aten._convert_weight_to_int4pack_for_cpu(codes, 1)
    scales = (torch.rand(k // group, n) / 100).bfloat16()
    scales_zeros = torch.stack((scales, torch.zeros_like(scales)), dim=-1).contiguous()
    x = torch.randn(m, k).bfloat16()
    benchmark.group = f"{n}x{k}, m = {m}"
    benchmark.extra_info["operations"] = 2 * m * n * k
    out = benchmark(aten._weight_int4pack_mm_for_cpu, x, packed, group, scales_zeros)
    weight = (codes - 8).float() * scales.float().T.repeat_interleave(group, 1)
    assert_near(out.float().numpy(), (x.float() @ weight.T).numpy(), 0.02)
