"""What is promised of our own kernels' machine code on a T4, and that none got worse.

After a change that is meant, with nvcc 13.0:

    nvcc -std=c++20 -arch=sm_75 -Icsrc -Xcompiler -fPIC -shared -o kernels.so csrc/cuda/*.cu
    sllmbench cubin kernels.so -o json > tests/data/cubin_baseline.json
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sllmbench.cubin import Question, baseline, examine, tools
from sllmbench.errors import InputError
from tests.cubin.conftest import HEADERS

if TYPE_CHECKING:
    from sllmbench.record import CubinRecord, KernelCode

BASELINE = Path(__file__).parents[1] / "data" / "cubin_baseline.json"
UNDER_WAY_BYTES = 4096  # of weights on a multiprocessor: 320 GB/s at 500 ns, over 40 of them

pytestmark = pytest.mark.slow  # nvcc takes a minute or two


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> CubinRecord:
    try:
        nvcc, _, _ = (tools.find(tool) for tool in ("nvcc", "cuobjdump", "nvdisasm"))
    except InputError as missing:
        pytest.skip(str(missing))
    library = tmp_path_factory.mktemp("own") / "kernels.so"
    sources = sorted(map(str, (HEADERS / "cuda").glob("*.cu")))
    command = [str(nvcc), "-std=c++20", "-arch=sm_75", f"-I{HEADERS}", "-Xcompiler", "-fPIC"]
    subprocess.run([*command, "-shared", "-o", str(library), *sources], check=True)
    return examine(library, Question())


def of(record: CubinRecord, *starts: str) -> list[KernelCode]:
    """The kernels whose names begin so and that were built for this architecture."""
    found = [k for k in record.kernels if k.name.startswith(starts) and k.main_loop is not None]
    assert found, starts
    return found


def test_nothing_got_worse(record: CubinRecord) -> None:
    if tools.compiler_version() != "13.0":
        pytest.skip(f"the baseline is of nvcc 13.0, here is {tools.compiler_version()}")
    before = baseline.read(BASELINE)
    assert baseline.worse(record, before) == []
    assert baseline.added(record, before) == []


def test_nothing_is_spilled_or_unknown(record: CubinRecord) -> None:
    for kernel in record.kernels:
        assert kernel.local_loads + kernel.local_stores == 0, kernel.name
        assert kernel.unknown_opcodes == (), kernel.name


@pytest.mark.parametrize(
    ("starts", "most"),
    [
        ("decode<HalfPairs<4,false,1", 2.25),  # smaller groups miss the 2.2 that 128 is held to
        ("decode<TensorCores<4,", 6),  # 8 rows
    ],
)
def test_instructions_a_weight(record: CubinRecord, starts: str, most: float) -> None:
    for kernel in of(record, starts):
        assert kernel.instructions_per_weight is not None, kernel.name
        assert kernel.instructions_per_weight <= most, kernel.name


def test_one_row_at_groups_of_128(record: CubinRecord) -> None:
    for kernel in of(record, "decode<HalfPairs<4,"):
        if ",1>,128>" in kernel.name:
            assert kernel.instructions_per_weight is not None
            assert kernel.instructions_per_weight <= 2.2, kernel.name


def test_weights_stream(record: CubinRecord) -> None:
    for kernel in of(record, "decode<", "multiply_"):
        assert kernel.main_loop is not None
        assert set(kernel.main_loop.read_once_loads) == {"128"}, kernel.name
        assert kernel.weight_bytes_outstanding is not None
        assert kernel.weight_bytes_outstanding >= UNDER_WAY_BYTES, kernel.name


def test_prefill_keeps_tensor_cores_busy(record: CubinRecord) -> None:
    for kernel in of(record, "multiply_f16<", "multiply_i8<"):
        assert kernel.instructions_per_tensor is not None, kernel.name
        if ",8,false>" in kernel.name:  # 64 tokens: the tile of a large product
            assert kernel.instructions_per_tensor <= 4, kernel.name
