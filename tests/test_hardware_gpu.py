"""GPUs as a driver's library describes them: a library of our own in its place."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pathlib import Path

NVML = """
#include <string.h>
int nvmlInit_v2(void) { return INIT; }
int nvmlShutdown(void) { return 0; }
const char* nvmlErrorString(int code) { return code == 9 ? "Driver Not Loaded" : "Not Supported"; }
int nvmlDeviceGetCount_v2(unsigned* count) { *count = COUNT; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void** device) {
    *device = (void*)(0x123456789aL + index);
    return 0;
}
int nvmlDeviceGetName(void* device, char* name, unsigned length) {
    strcpy(name, (long)device == 0x123456789aL ? "Tesla T4" : "Tesla P4");
    return length < 64;
}
int nvmlDeviceGetMemoryInfo(void* device, unsigned long long* memory) {
    memory[0] = 16106127360ull;
    memory[1] = memory[2] = 1;
    return 0;
}
int nvmlDeviceGetTotalEnergyConsumption(void* device, unsigned long long* energy) {
    *energy = 5;
    return (long)device == 0x123456789aL ? 0 : 3;
}
"""


def with_nvml(folder: Path, **macros: int) -> tuple[Any, str | None, Any]:
    """What a process finds that has a library of these answers in place of the driver's."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        pytest.skip("no C compiler")
    source = folder / "nvml.c"
    source.write_text(NVML)
    defines = [f"-D{name}={value}" for name, value in macros.items()]
    library = folder / "libnvidia-ml.so.1"
    subprocess.run(
        [compiler, "-shared", "-fPIC", *defines, "-o", str(library), str(source)], check=True
    )
    code = (
        "import json; from sllmbench.hardware import gpu, energy;"
        "gpus, reason = gpu.find(); sensor = energy.energy_sensors()[-1];"
        "print(json.dumps([[g.model_dump() for g in gpus], reason, sensor.model_dump()]))"
    )
    ran = subprocess.run(
        [sys.executable, "-P", "-c", code],
        env={**os.environ, "LD_LIBRARY_PATH": str(folder)},
        capture_output=True,
        check=True,
        text=True,
    )
    gpus, reason, sensor = json.loads(ran.stdout)
    return gpus, reason, sensor


def test_a_gpu_is_described_by_its_driver(tmp_path: Path) -> None:
    gpus, reason, sensor = with_nvml(tmp_path, INIT=0, COUNT=1)
    assert gpus == [{"name": "Tesla T4", "memory_bytes": 16106127360, "has_energy_counter": True}]
    assert reason is None
    assert sensor == {"name": "NVML", "available": True, "reason": None, "remedy": None}


def test_a_gpu_without_an_energy_counter_is_named(tmp_path: Path) -> None:
    gpus, _, sensor = with_nvml(tmp_path, INIT=0, COUNT=2)
    assert [gpu["has_energy_counter"] for gpu in gpus] == [True, False]
    assert not sensor["available"]
    assert "Tesla P4" in sensor["reason"]
    assert "T4" not in sensor["reason"]


@pytest.mark.parametrize(
    ("macros", "message"),
    [({"INIT": 9, "COUNT": 0}, "Driver Not Loaded"), ({"INIT": 0, "COUNT": 0}, "no GPU")],
)
def test_a_driver_without_a_gpu_gives_a_reason(
    tmp_path: Path, macros: dict[str, int], message: str
) -> None:
    gpus, reason, sensor = with_nvml(tmp_path, **macros)
    assert gpus == []
    assert reason is not None
    assert message in reason
    assert not sensor["available"]
    assert sensor["remedy"]
