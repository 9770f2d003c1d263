"""GPUs as a driver's library describes them: a library of our own in its place."""

from __future__ import annotations

import json
from typing import Any

import pytest

DESCRIBE = (
    "import json; from sllmbench.hardware import gpu, energy;"
    "gpus, reason = gpu.find(); sensor = energy.energy_sensors()[-1];"
    "print(json.dumps([[g.model_dump() for g in gpus], reason, sensor.model_dump()]))"
)


def found(nvml: Any, **values: int) -> tuple[Any, str | None, Any]:
    """What a process finds whose GPUs are as the values say."""
    nvml.set(**values)
    gpus, reason, sensor = json.loads(nvml.run(DESCRIBE))
    return gpus, reason, sensor


def test_a_gpu_is_described_by_its_driver(nvml: Any) -> None:
    gpus, reason, sensor = found(nvml)
    assert gpus == [{"name": "Tesla T4", "memory_bytes": 16106127360, "has_energy_counter": True}]
    assert reason is None
    assert sensor == {"name": "NVML", "available": True, "reason": None, "remedy": None}


def test_a_gpu_without_an_energy_counter_is_told_apart(nvml: Any) -> None:
    gpus, _, sensor = found(nvml, gpus=2, counter__1=0)
    assert [(gpu["name"], gpu["has_energy_counter"]) for gpu in gpus] == [
        ("Tesla T4", True),
        ("Tesla P4", False),
    ]
    assert sensor["available"]  # its power is integrated


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"init": 9}, "Driver Not Loaded"),
        ({"gpus": 0}, "no GPU"),
        ({"lost": 1}, "GPU is lost"),
    ],
)
def test_a_driver_without_a_gpu_gives_a_reason(
    nvml: Any, values: dict[str, int], message: str
) -> None:
    gpus, reason, sensor = found(nvml, **values)
    assert gpus == []
    assert reason is not None
    assert message in reason
    assert not sensor["available"]
    assert sensor["remedy"]
