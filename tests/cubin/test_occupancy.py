"""Occupancy against NVIDIA's own calculator, and the table of devices."""

from __future__ import annotations

import random
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sllmbench.cubin.devices import DEVICES, device_of, runs
from sllmbench.cubin.occupancy import occupancy
from sllmbench.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

CALCULATOR = r"""
#include <cstdio>
#include "cuda_occupancy.h"
int main() {
    int major, minor, warps, shared, reserved, threads, registers, used;
    while (std::scanf("%d %d %d %d %d %d %d %d", &major, &minor, &warps, &shared, &reserved,
                      &threads, &registers, &used) == 8) {
        cudaOccDeviceProp device;
        device.computeMajor = major;
        device.computeMinor = minor;
        device.maxThreadsPerBlock = 1024;
        device.maxThreadsPerMultiprocessor = 32 * warps;
        device.regsPerBlock = device.regsPerMultiprocessor = 65536;
        device.warpSize = 32;
        device.sharedMemPerBlock = 48 * 1024;
        device.sharedMemPerMultiprocessor = shared;
        device.sharedMemPerBlockOptin = shared - reserved;
        device.reservedSharedMemPerBlock = reserved;
        device.numSms = 1;
        cudaOccFuncAttributes kernel;
        kernel.maxThreadsPerBlock = 1024;
        kernel.numRegs = registers;
        kernel.sharedSizeBytes = used;
        kernel.partitionedGCConfig = PARTITIONED_GC_OFF;
        kernel.shmemLimitConfig = FUNC_SHMEM_LIMIT_DEFAULT;
        kernel.maxDynamicSharedSizeBytes = 0;
        kernel.numBlockBarriers = 1;
        cudaOccDeviceState state;
        state.carveoutConfig = SHAREDMEM_CARVEOUT_MAX_SHARED;
        cudaOccResult result;
        if (cudaOccMaxActiveBlocksPerMultiprocessor(&result, &device, &kernel, &state, threads, 0))
            return 1;
        std::printf("%d\n", result.activeBlocksPerMultiprocessor);
    }
}
"""


@pytest.fixture(scope="session")
def calculator(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], list[int]]:
    """NVIDIA's cuda_occupancy.h of the CUDA toolkit, as a program."""
    nvcc, compiler = shutil.which("nvcc"), shutil.which("g++")
    header = None if nvcc is None else Path(nvcc).resolve().parents[1] / "include"
    candidates = [header, Path("/usr/local/cuda/include")]
    include = next((c for c in candidates if c and (c / "cuda_occupancy.h").is_file()), None)
    if include is None or compiler is None:
        pytest.skip("no cuda_occupancy.h of a CUDA toolkit, or no g++")
    folder = tmp_path_factory.mktemp("occupancy")
    (folder / "main.cpp").write_text(CALCULATOR)
    program = folder / "occupancy"
    command = [compiler, "-o", str(program), f"-I{include}", str(folder / "main.cpp")]
    subprocess.run(command, check=True)

    def ask(lines: str) -> list[int]:
        ended = subprocess.run([program], input=lines, capture_output=True, text=True, check=True)
        return [int(line) for line in ended.stdout.split()]

    return ask


@pytest.mark.parametrize("name", sorted(DEVICES))
def test_as_nvidias_calculator(name: str, calculator: Callable[[str], list[int]]) -> None:
    device = device_of(name)
    can, rng = device.capability, random.Random(name)
    cases = [
        (rng.randint(1, 1024), rng.randint(1, 255), rng.choice([0, rng.randint(1, 48 * 1024)]))
        for _ in range(2000)
    ]
    fixed = (can.sm // 10, can.sm % 10, can.warps, can.shared_bytes, can.reserved_bytes)
    told = calculator("".join(" ".join(map(str, (*fixed, *case))) + "\n" for case in cases))
    ours = [occupancy(device, *case).blocks for case in cases]
    assert ours == told
    assert len(set(told)) > 5  # the cases reach more than one limit


def test_what_limits_is_named() -> None:
    t4 = device_of("t4")
    assert occupancy(t4, 128, 64, 0).limited_by == ("warps", "registers")
    assert occupancy(t4, 256, 128, 5120).limited_by == ("registers",)
    assert occupancy(t4, 128, 32, 20480).limited_by == ("shared memory",)
    assert occupancy(t4, 32, 16, 0).limited_by == ("blocks",)
    assert occupancy(t4, 256, 128, 5120).fraction == 0.5
    assert occupancy(t4, 1024, 255, 0).blocks == 0  # it cannot be launched


@pytest.mark.parametrize("threads", [0, 1025])
def test_no_block_of_that_size(threads: int) -> None:
    with pytest.raises(InputError, match="1 to 1024"):
        occupancy(device_of("t4"), threads, 32, 0)


def test_devices() -> None:
    assert device_of("T4").name == "t4"
    with pytest.raises(InputError, match="t4, gtx1650"):
        device_of("t5")
    assert runs("sm_80", device_of("a10"))
    assert not runs("sm_86", device_of("a100"))
    assert not runs("sm_75", device_of("a100"))
    assert runs("sm_90a", device_of("h100"))
    with pytest.raises(InputError, match="no architecture"):
        runs("compute_75", device_of("t4"))
