"""Our kernels on a real GPU, against float64 on the same GPU."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import sllmbench
from sllmbench import InputError
from sllmbench.formats import QuantTensor, parse_format
from sllmbench.hardware import cuda
from sllmbench.paths.cuda import DeviceWeight
from sllmbench.quantizers import quantize

SHAPES = ((2048, 2048), (512, 2048), (8192, 2048), (2048, 8192), (40, 200), (17, 65), (1, 1))
"""Llama-3.2-1B's, then odd ones."""
FORMATS = ("int4-g32", "int4-g64", "int4-g128", "int4-row", "int4-g128-asym", "int8", "int8-g128")
ROWS = (1, 2, 3, 8, 9, 16, 33, 128, 600)


def weight_of(format: str, n: int, k: int, ordered: bool = False) -> QuantTensor:
    rng = np.random.default_rng([n, k])
    values = rng.standard_normal((n, k)).astype(np.float32)
    weight = quantize(values, parse_format(format))
    return replace(weight, order=rng.permutation(k).astype(np.int32)) if ordered else weight


def activations(m: int, k: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(m, k, generator=generator).half().cuda()


def check(product: torch.Tensor, x: torch.Tensor, weight: QuantTensor) -> None:
    """Within what fp16 products and sums give, from the sizes of all that was added up."""
    values = torch.from_numpy(weight.dequantize()).cuda().double()
    wide = x.double()
    allowed = 2.0**-10 * (wide.abs() @ values.abs().T) + 1e-6
    wrong = ~((product.double() - wide @ values.T).abs() <= allowed)
    assert not wrong.any(), f"{int(wrong.sum())} of {wrong.numel()} values are off"


@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize(("n", "k"), SHAPES)
def test_products(n: int, k: int, format: str, ordered: bool) -> None:
    weight = weight_of(format, n, k, ordered)
    held = DeviceWeight(weight, "exact", "cuda")
    for m in ROWS:
        x = activations(m, k)
        product, use = held.multiply(x, dequantize_rows=None)
        check(product, x, weight)
        assert use.isa == f"sm_{cuda.facts(0).sm}"


@pytest.mark.parametrize("format", FORMATS)
def test_the_expanded_weight_and_its_product(format: str) -> None:
    weight = weight_of(format, 2048, 2048, ordered=True)
    held, x = DeviceWeight(weight, "exact", "cuda"), activations(700, 2048)
    expected = torch.from_numpy(weight.dequantize()).cuda()
    assert ((held.dequantize().float() - expected).abs() <= 2.0**-10 * expected.abs() + 1e-7).all()
    product, use = held.multiply(x)
    check(product, x, weight)
    assert use.kernel == "dequantize + torch.mm"


@pytest.mark.parametrize("m", ROWS)
def test_int8_activations(m: int) -> None:
    weight, x = weight_of("int8", 2048, 2048), activations(m, 2048)
    product, use = DeviceWeight(weight, "int8", "cuda").multiply(x)
    steps = x.abs().amax(1, keepdim=True).double() / 127
    values = torch.from_numpy(weight.dequantize()).cuda().double()
    allowed = steps / 2 * values.abs().sum(1) + 2.0**-10 * (x.double().abs() @ values.abs().T)
    assert ((product.double() - x.double() @ values.T).abs() <= allowed).all()
    assert use.arithmetic == "int8"


@pytest.mark.parametrize("m", [1, 40])
def test_rows_at_any_place(m: int) -> None:
    weight, wide = weight_of("int4-g128", 512, 2048), activations(m, 2051)
    x = wide[:, 1:2049]
    check(DeviceWeight(weight, "exact", "cuda").multiply(x)[0], x, weight)


@pytest.mark.parametrize("m", [1, 8, 64])
@pytest.mark.parametrize(("format", "arithmetic"), [("int4-g128", "exact"), ("int8", "int8")])
def test_a_graph_holds_a_product(format: str, arithmetic: str, m: int) -> None:
    held = DeviceWeight(weight_of(format, 2048, 2048), arithmetic, "cuda")  # type: ignore[arg-type]
    x = activations(m, 2048)
    held.multiply(x)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        product, _ = held.multiply(x)
    for seed in (1, 2):
        x.copy_(activations(m, 2048, seed))
        graph.replay()
        assert torch.equal(product, held.multiply(x)[0])


def test_a_product_runs_on_the_current_stream() -> None:
    weight, x = weight_of("int4-g128", 2048, 2048), activations(1, 2048)
    held, stream = DeviceWeight(weight, "exact", "cuda"), torch.cuda.Stream()
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)  # on this stream alone
        product, _ = held.multiply(x)
        assert not stream.query()
    stream.synchronize()
    check(product, x, weight)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one GPU")
def test_another_device_than_the_current_one() -> None:
    weight, x = weight_of("int4-g128", 512, 2048), activations(3, 2048).to("cuda:1")
    product, _ = DeviceWeight(weight, "exact", "cuda:1").multiply(x)
    assert torch.cuda.current_device() == 0
    check(product.to("cuda:0"), x.to("cuda:0"), weight)


def test_products_leave_no_memory_behind() -> None:
    held, x = DeviceWeight(weight_of("int4-g128", 2048, 8192), "exact", "cuda"), None
    x = activations(4, 8192)
    held.multiply(x)
    before = torch.cuda.memory_allocated()
    for _ in range(100):
        held.multiply(x)
    torch.cuda.synchronize()
    assert torch.cuda.memory_allocated() == before


def test_the_public_function_takes_gpu_tensors() -> None:
    weight, x = weight_of("int4-g64", 512, 2048), activations(2, 2048)
    check(sllmbench.matmul(x, weight), x, weight)
    with pytest.raises(InputError, match=r"float16: x\.half\(\)"):
        sllmbench.matmul(x.bfloat16(), weight)
