"""Devices, products and faults on an emulated GPU: ``.ci/cuda`` builds the extension for it.

The kernels are the real ones, run thread by thread by ``tests/cuda_host``; what lies around them,
from a QuantTensor to the product in a torch tensor, is what runs on a GPU.
"""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from sllmbench import InputError, _native
from sllmbench.formats import QuantTensor, matmul_float64, parse_format
from sllmbench.quantizers import quantize

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.skipif(
    _native.cuda_toolkit != "emulated", reason="not the emulated build: .ci/cuda makes it"
)
FORMATS = ("int4-g32", "int4-g64-asym", "int4-g128", "int4-row", "int3-g64", "int8", "int8-g128")


def weight_of(format: str, n: int, k: int, *, ordered: bool = False) -> QuantTensor:
    rng = np.random.default_rng([n, k, ordered])
    weight = quantize(rng.standard_normal((n, k)).astype(np.float32), parse_format(format))
    if not ordered:
        return weight
    from dataclasses import replace

    return replace(weight, order=rng.permutation(k).astype(np.int32))


def activations(m: int, k: int) -> torch.Tensor:
    x = np.random.default_rng([m, k]).standard_normal((m, k)).astype(np.float16)
    return torch.from_numpy(x)


def bound(x: torch.Tensor, weight: QuantTensor) -> np.ndarray:
    """Half the last place of the product, and of every weight and partial sum in fp16."""
    magnitudes = np.abs(x.double().numpy()) @ np.abs(weight.dequantize()).T.astype(np.float64)
    return 2.0**-10 * magnitudes + 1e-6


@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize("m", [1, 5, 8, 9, 33])
@pytest.mark.parametrize("format", FORMATS)
def test_products_are_those_of_the_oracle(format: str, m: int, ordered: bool) -> None:
    from sllmbench.paths.cuda import DeviceWeight

    weight, x = weight_of(format, 40, 200, ordered=ordered), activations(m, 200)
    product, use = DeviceWeight(weight, "exact", "cpu").multiply(x)
    assert product.dtype == torch.float16
    assert (
        np.abs(product.double().numpy() - matmul_float64(x.numpy(), weight)) <= bound(x, weight)
    ).all()
    bits = 8 if weight.format.bits == 8 else 4
    kernel = f"{'decode' if m <= 8 else 'prefill'}_w{bits}a16"
    assert (use.kernel, use.isa, use.arithmetic) == (kernel, "sm_75", "float16")


@pytest.mark.parametrize("m", [1, 8, 20])
def test_int8_activations_have_a_scale_a_row(m: int) -> None:
    from sllmbench.paths.cuda import DeviceWeight

    weight, x = weight_of("int8", 40, 200), activations(m, 200)
    product, use = DeviceWeight(weight, "int8", "cpu").multiply(x)
    values = x.double().numpy()
    steps = np.abs(values).max(1, keepdims=True) / 127
    slack = steps / 2 * np.abs(weight.dequantize()).sum(1)[None, :]
    assert (
        np.abs(product.double().numpy() - matmul_float64(x.numpy(), weight))
        <= slack + bound(x, weight)
    ).all()
    assert (use.kernel, use.arithmetic) == (f"{'decode' if m <= 8 else 'prefill'}_w8a8", "int8")


def test_the_layer_notes_what_ran_and_adds_its_bias() -> None:
    from sllmbench.paths.cuda import CudaLinear

    weight = weight_of("int4-g32", 24, 64)
    bias = torch.linspace(-1, 1, 24).half()
    layer = CudaLinear(weight, bias, "exact", "cpu")
    x = activations(6, 128)[:, ::2].reshape(2, 3, 64)  # columns apart: made contiguous
    out = layer(x)
    expected = matmul_float64(x.reshape(6, 64).numpy(), weight) + bias.double().numpy()
    assert out.shape == (2, 3, 24)
    slack = bound(x.reshape(6, 64), weight) + 2.0**-10 * np.abs(expected)
    assert (np.abs(out.double().numpy().reshape(6, 24) - expected) <= slack).all()
    assert {use.kernel for use in layer.kernel_uses} == {"decode_w4a16"}


def test_rows_may_lie_apart() -> None:
    from sllmbench.paths.cuda import DeviceWeight

    weight, wide = weight_of("int4-g64", 32, 128), activations(12, 131)
    x = wide[:, 3:]
    product, _ = DeviceWeight(weight, "exact", "cpu").multiply(x)
    assert (
        np.abs(product.double().numpy() - matmul_float64(x.numpy(), weight)) <= bound(x, weight)
    ).all()


@pytest.mark.parametrize(
    ("x", "says"),
    [
        (torch.zeros(1, 64, dtype=torch.bfloat16), "bfloat16; Turing has no arithmetic for it"),
        (torch.zeros(1, 64), "activations are float32; our kernels take float16"),
        (torch.zeros(1, 65, dtype=torch.float16), r"x must be \[m, 64\]"),
        (torch.zeros(64, 64, dtype=torch.float16).T, "next to each other"),
    ],
)
def test_activations_that_do_not_fit_are_refused(x: torch.Tensor, says: str) -> None:
    from sllmbench.paths.cuda import DeviceWeight

    with pytest.raises(InputError, match=says):
        DeviceWeight(weight_of("int4-g32", 16, 64), "exact", "cpu").multiply(x)


@pytest.mark.parametrize(
    ("format", "arithmetic", "says"),
    [
        ("q4_k", "exact", "no GPU kernel multiplies q4_k"),
        ("q4_1", "exact", "no GPU kernel multiplies q4_1"),
        ("int4-g96", "exact", "groups of 96 do not run on a GPU"),
        ("int4-g32", "int8", "take --arithmetic exact"),
    ],
)
def test_formats_that_no_kernel_multiplies_are_refused(
    format: str, arithmetic: str, says: str
) -> None:
    from sllmbench.paths.cuda import unsupported_format

    assert says in str(unsupported_format(parse_format(format), arithmetic))  # type: ignore[arg-type]


PRODUCT = """
import numpy as np, torch
from sllmbench.formats import parse_format
from sllmbench.paths.cuda import DeviceWeight
from sllmbench.quantizers import quantize
ramp = np.tile(np.linspace(-8, 7, 16, dtype=np.float32), (16, 4))
weight = quantize(ramp, parse_format({format!r}))
held = DeviceWeight(weight, {arithmetic!r}, "cpu")
x = torch.ones({m}, 64, dtype=torch.float16)
for attempt in range(2):
    try:
        product, use = held.multiply(x)
        off = product.double().numpy() - weight.dequantize().sum(1)
        print(use.kernel, "right" if (abs(off) < 0.3).all() else off)
    except (RuntimeError, ValueError) as error:
        print(type(error).__name__, error)
"""


def script(text: str, fake: str) -> list[str]:
    """The lines that a process prints whose GPU is as ``fake`` says."""
    done = subprocess.run(
        [sys.executable, "-P", "-c", text],
        env={**os.environ, "FAKE_CUDA": fake},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stderr == ""
    return done.stdout.splitlines()


@pytest.mark.parametrize(
    ("fake", "says"),
    [
        ("driver=0", "no CUDA driver (libcuda.so.1) is installed"),
        ("driver=12040", "the driver is for CUDA 12.4 and sllmbench is built with 13.0; install"),
        ("devices=0", "the CUDA driver sees no device"),
        ("init=999", "the CUDA driver does not start: a fault of the tests"),
    ],
)
def test_without_a_device_there_is_one_line(fake: str, says: str) -> None:
    (line,) = script("from sllmbench.hardware import cuda; print(cuda.kernels_unavailable())", fake)
    assert line.startswith(says)


SELECT = """
from sllmbench.errors import InputError
from sllmbench.hardware import cuda
try:
    d = cuda.facts({index})
    print(d.name, d.sm, d.has_tensor_cores, d.multiprocessors, d.l2_bytes)
except InputError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("index", "fake", "says"),
    [
        (0, "", "Tesla T4 75 True 40 4194304"),
        (1, "devices=2,name=NVIDIA GeForce GTX 1650", "NVIDIA GeForce GTX 1650 75 False"),
        (0, "name=NVIDIA T400 4GB", "NVIDIA T400 4GB 75 False"),
        (0, "name=Quadro RTX 4000", "Quadro RTX 4000 75 True"),
        (0, "name=Quadro T1000", "Quadro T1000 75 False"),
        (0, "name=NVIDIA A10,sm=86", "NVIDIA A10 86 True"),
        (0, "name=Tesla V100,sm=70", "device cuda:0 cannot be used: Tesla V100 has compute cap"),
        (2, "devices=2", "device cuda:2 cannot be used: there is no CUDA device 2: the driver se"),
    ],
)
def test_a_device_is_chosen_or_refused_in_one_line(index: int, fake: str, says: str) -> None:
    (line,) = script(SELECT.format(index=index), fake)
    assert line.startswith(says)


@pytest.mark.parametrize(("status", "told"), [(2, "out of memory"), (719, "a fault of the tests")])
@pytest.mark.parametrize(("m", "kernel"), [(1, "decode_w4a16"), (20, "prefill_w4a16")])
def test_a_launch_that_fails_is_told_and_the_next_one_runs(
    m: int, kernel: str, status: int, told: str
) -> None:
    text = PRODUCT.format(format="int4-g32", arithmetic="exact", m=m)
    first, second = script(text, f"launch=0:{status}")
    assert first.startswith(f"CudaError {kernel}: {told}")
    assert second == f"{kernel} right"


def test_a_kernel_after_its_gather_can_fail_too() -> None:
    first, second = script(PRODUCT.format(format="int8", arithmetic="int8", m=1), "launch=1:719")
    assert first.startswith("CudaError decode_w8a8: ")
    assert second == "decode_w8a8 right"


def test_gtx_16_multiplies_int8_in_slices_of_few_rows() -> None:
    text = PRODUCT.format(format="int8", arithmetic="int8", m=20)
    assert script(text, "name=NVIDIA GeForce GTX 1660") == ["decode_w8a8 right"] * 2


def test_the_current_device_is_put_back() -> None:
    text = (
        "from sllmbench import _native\n"
        "try: _native.cuda_dequantize(_native.CudaWeight(bits=4, n=1, k=1, group=1, tiles=16,"
        " scales=16), _native.CudaDevice(1), out=16, stream=0)\n"
        "except RuntimeError as error: print(error)\n"
    )
    (line,) = script(text, "devices=2,set=101")
    assert line.startswith("device 1 cannot be used: a fault of the tests")
