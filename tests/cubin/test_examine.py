"""Disassembled files → records; resources, names, weights; what cannot be read."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sllmbench.cubin import Question, examine, names, resources, tools
from sllmbench.cubin.devices import device_of
from sllmbench.cubin.examine import read
from sllmbench.cubin.weights import of_kernel
from sllmbench.errors import InputError
from tests.cubin.conftest import HEADERS, KERNELS

if TYPE_CHECKING:
    from sllmbench.record import KernelCode


@pytest.fixture(scope="module")
def kernels(stored: tools.Dump) -> dict[str, KernelCode]:
    found = read(stored, device_of("t4"), Question())
    return {kernel.name: kernel for kernel in found}


def test_resources(kernels: dict[str, KernelCode]) -> None:
    figures = {n: (k.registers, k.shared_bytes, k.stack_bytes) for n, k in kernels.items()}
    assert figures["stream"] == (30, 0, 0)
    assert figures["tensor"] == (21, 256, 0)
    spilling = kernels["spilling"]
    assert spilling.registers == 64
    assert spilling.stack_bytes > 0
    assert spilling.local_loads == spilling.local_stores > 0
    assert all(k.local_loads + k.local_stores == 0 for n, k in kernels.items() if n != "spilling")
    bounds = {n: None if k.occupancy is None else k.occupancy.threads for n, k in kernels.items()}
    assert bounds == {"stream": 128, "nested": 256, "spilling": 1024, "tensor": 32, "plain": None}


def test_the_main_loop(kernels: dict[str, KernelCode]) -> None:
    stream = kernels["stream"]
    assert stream.main_loop is not None
    assert stream.main_loop.instructions == sum(stream.main_loop.classes.values()) == 37
    assert stream.main_loop.global_loads == stream.main_loop.read_once_loads == {"128": 4}
    assert stream.main_loop.bytes_in_flight == 64
    assert stream.weight_bytes_outstanding == stream.bytes_outstanding == 64 * 1024
    tensor = kernels["tensor"]
    assert tensor.instructions_per_tensor == 17
    assert tensor.weight_bytes_outstanding is None
    assert tensor.main_loop is not None
    assert tensor.main_loop.shared_loads == {"64": 1}


def test_what_is_missing_has_a_reason(kernels: dict[str, KernelCode]) -> None:
    plain = kernels["plain"]
    assert (plain.occupancy, plain.main_loop, plain.bytes_outstanding) == (None, None, None)
    assert any("--threads" in reason for reason in plain.reasons)
    assert any("no loop" in reason for reason in plain.reasons)
    assert kernels["stream"].instructions_per_weight is None
    assert any("--weights-per-trip" in reason for reason in kernels["stream"].reasons)


def test_what_the_user_says(stored: tools.Dump) -> None:
    asked = Question(kernel="p*", threads=64)
    (plain,) = read(stored, device_of("t4"), asked)
    assert plain.occupancy is not None
    assert plain.occupancy.blocks == 16
    (stream,) = read(stored, device_of("t4"), Question(kernel="stream", weights_per_trip=128))
    assert stream.instructions_per_weight == 37 / 128
    with pytest.raises(InputError, match="there is nested, plain"):
        read(stored, device_of("t4"), Question(kernel="decode*"))


@pytest.mark.parametrize(
    ("kernel", "bits"),
    [
        ("decode<sllmbench::cuda::HalfPairs<4, false, 1>, 128>(sllmbench::cuda::Operands)", 4),
        ("decode<sllmbench::cuda::(anonymous namespace)::TensorCores<8, true, 1>, 32>(int)", 8),
        ("decode<sllmbench::cuda::Dp4a<1>, 64>(int)", 8),
        ("multiply_f16<sllmbench::cuda::prefill::Codes4, 32, 8, false>(int)", 4),
        ("multiply_i8<32, 8, false>(int)", 8),
    ],
)
def test_weights_of_our_own_kernels(kernels: dict[str, KernelCode], kernel: str, bits: int) -> None:
    loop = kernels["stream"].main_loop
    assert loop is not None
    ours = of_kernel(f"void sllmbench::cuda::(anonymous namespace)::{kernel}", loop, None)
    assert (ours.bits, ours.per_trip, ours.reason) == (bits, 64 * 8 / bits, None)
    others = of_kernel(f"void {kernel}".replace("sllmbench::cuda", "other"), loop, None)
    assert others.per_trip is None
    nothing_read = loop.model_copy(update={"read_once_loads": {}})
    without = of_kernel(f"void sllmbench::cuda::{kernel}", nothing_read, None)
    assert without.reason is not None
    assert "load_once" in without.reason


def test_names() -> None:
    assert names.demangle("_Z6streamPK5uint4Pji") == "stream(uint4 const*, unsigned int*, int)"
    assert names.demangle("plain_c") == "plain_c"
    assert names.short("void a::b<c::D<4, (e)1>, 128>(c::D<4, (e)1> const*)") == "b<D<4,(e)1>,128>"
    assert names.short("(anonymous namespace)::f(int)") == "f"
    assert names.short("plain_c") == "plain_c"


def test_resources_in_an_unknown_way(stored: tools.Dump) -> None:
    changed = dataclasses.replace(stored, resources=stored.resources.replace("STACK:", "HEAP:"))
    with pytest.raises(InputError, match="STACK"):
        resources.parse(changed)


def test_source_object_and_cubin_agree(compiled: Path, tmp_path: Path) -> None:
    from_source = examine(KERNELS, Question(includes=(HEADERS,)))
    from_cubin = examine(compiled, Question())
    assert from_source.kernels == from_cubin.kernels
    assert from_source.compiler == tools.compiler_version()
    assert from_cubin.compiler is None
    library = tmp_path / "two.so"
    command = [str(tools.find("nvcc")), "-std=c++20", f"-I{HEADERS}", "-shared", "-o", str(library)]
    command += ["-gencode=arch=compute_75,code=sm_75", "-gencode=arch=compute_80,code=sm_80"]
    tools._run([*command, "-Xcompiler=-fPIC", str(KERNELS)])
    assert tools.architectures(library) == ("sm_75", "sm_80")
    assert examine(library, Question()).kernels == from_cubin.kernels
    assert examine(library, Question(device="a10")).arch == "sm_80"
    with pytest.raises(InputError, match=r"H100 SXM \(sm_90\)"):
        examine(library, Question(device="h100"))
    with pytest.raises(InputError, match="no machine code for sm_86"):
        examine(library, Question(arch="sm_86"))
    with pytest.raises(InputError, match="sm_80 does not run on T4"):
        examine(library, Question(arch="sm_80"))


def test_what_was_stored_is_what_comes_out(compiled: Path, kernels: dict[str, KernelCode]) -> None:
    if tools.compiler_version() != "13.0":
        pytest.skip(f"stored by nvcc 13.0, here is {tools.compiler_version()}")
    assert {k.name: k for k in examine(compiled, Question()).kernels} == kernels


def test_files_that_are_none(tmp_path: Path, disassembler: None) -> None:
    with pytest.raises(InputError, match="no such file"):
        examine(tmp_path / "none.cubin", Question())
    text = tmp_path / "text.cubin"
    text.write_text("no kernel")
    with pytest.raises(InputError, match="cuobjdump failed"):
        examine(text, Question())
    with pytest.raises(InputError, match="no machine code for a GPU"):
        examine(Path(sys.executable).resolve(), Question())


def test_source_that_nvcc_refuses(tmp_path: Path, compiled: Path) -> None:
    source = tmp_path / "wrong.cu"
    source.write_text("__global__ void k() { undeclared(); }")
    with pytest.raises(InputError, match=r"nvcc failed.*undeclared"):
        examine(source, Question())


def test_a_missing_tool_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(tools.sysconfig, "get_path", lambda _: str(tmp_path))
    with pytest.raises(
        InputError, match=r"cuobjdump is not here: pip install 'sllmbench\[cubin\]'"
    ):
        tools.find("cuobjdump")
    with pytest.raises(InputError, match="nvcc is not here: install the CUDA toolkit"):
        examine(KERNELS, Question())
    packaged = tmp_path / "nvidia" / "cu13" / "bin" / "cuobjdump"
    packaged.parent.mkdir(parents=True)
    packaged.touch(0o755)
    assert tools.find("cuobjdump") == packaged
