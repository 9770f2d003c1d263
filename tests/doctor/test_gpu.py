"""GPUs held back, as a library of our own says in the place of the driver's."""

from __future__ import annotations

import json
from typing import Any

import pytest

CODE = (
    "import json, os; from pathlib import Path; from sllmbench.doctor import gpu;"
    "print(json.dumps([found.model_dump() for found in gpu.settings(None)]))"
)


def found(nvml: Any, **values: float) -> list[dict[str, Any]]:
    nvml.set(**values)
    findings: list[dict[str, Any]] = json.loads(nvml.run(CODE))
    return findings


def test_a_gpu_that_nothing_holds_back(nvml: Any) -> None:
    (finding,) = found(nvml, reasons=1)  # idle
    assert finding["severity"] == "ok"


@pytest.mark.parametrize(
    ("values", "severity", "title", "text", "remedy"),
    [
        ({"persistence": 0}, "problem", "persistence mode", "off", "sudo nvidia-smi -i 0 -pm 1"),
        ({"ecc": 1}, "notice", "ECC", "on", None),
        ({"ecc_pending": 1}, "notice", "ECC", "changes with the next reset", None),
        (
            {"limit_mw": 60000},
            "problem",
            "power cap",
            "60 W, 70 W by default",
            "sudo nvidia-smi -i 0 -pl 70",
        ),
        (
            {"app_mhz": 300},
            "problem",
            "application clock",
            "300 MHz, 585 by default",
            "sudo nvidia-smi -i 0 -rac",
        ),
        (
            {"compute_mode": 3},
            "notice",
            "compute mode",
            "one process at a time",
            "sudo nvidia-smi -i 0 -c DEFAULT",
        ),
        (
            {"compute_mode": 2},
            "problem",
            "compute mode",
            "no process may compute",
            "sudo nvidia-smi -i 0 -c DEFAULT",
        ),
        (
            {"reasons": 0x24, "clock_mhz": 900},
            "problem",
            "throttling",
            "sw_power_cap, sw_thermal_slowdown; 900 MHz now, 1590 at most",
            None,
        ),
        ({"counter": 0}, "notice", "energy counter", "none; Volta and newer", None),
        ({"pids": 2}, "problem", "foreign processes", "2 compute on it", None),
    ],
)
def test_a_gpu_that_is_held_back(
    nvml: Any, values: dict[str, float], severity: str, title: str, text: str, remedy: str | None
) -> None:
    (finding,) = found(nvml, **values)
    assert finding["severity"] == severity
    assert finding["title"].startswith("GPU 0 (")
    assert finding["title"].endswith(f"): {title}")
    assert text in finding["found"]
    assert finding["remedy"] == remedy


def test_what_a_gpu_lacks_is_left_out_and_what_fails_is_named(nvml: Any) -> None:
    (finding,) = found(nvml, fail__nvmlDeviceGetPersistenceMode=3)
    assert finding["severity"] == "ok"
    (finding,) = found(
        nvml, fail__nvmlDeviceGetPersistenceMode=0, fail__nvmlDeviceGetEnforcedPowerLimit=15
    )
    assert finding["severity"] == "notice"
    assert "unknown: " in finding["found"]


def test_every_gpu_is_looked_at(nvml: Any) -> None:
    first, second = found(nvml, gpus=2, persistence__1=0)
    assert first["severity"] == "ok"
    assert second["title"].startswith("GPU 1 (")
    assert second["remedy"] == "sudo nvidia-smi -i 1 -pm 1"


def test_without_a_driver_there_is_no_finding(nvml: Any) -> None:
    (finding,) = found(nvml, init=9)
    assert finding["severity"] == "ok"
    assert finding["found"].startswith("none: ")
