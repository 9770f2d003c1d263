"""Whole models and commands on a real GPU."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import torch

from sllmbench import load_model
from sllmbench.model import describe
from sllmbench.paths.cuda import CudaLinear

if TYPE_CHECKING:
    from pathlib import Path

IDS = torch.arange(24).reshape(1, -1) * 7 % 512


@pytest.mark.parametrize("path", ["fp16", "int8", "int4-g32", "unfused-int4"])
def test_logits_are_near_those_of_the_cpu(tiny_llama: Path, path: str) -> None:
    with torch.inference_mode():
        here = load_model(str(tiny_llama), path, arithmetic="exact")(IDS).logits.float()
        net = load_model(str(tiny_llama), path, device="cuda")
        there = net(IDS.cuda()).logits.float().cpu()
    assert (here - there).abs().max() < 0.02 * here.abs().max()
    facts = describe(net)
    assert all("sm_" in use.isa for use in facts.layers)
    if path.startswith("int"):
        assert any(isinstance(part, CudaLinear) for part in net.modules())


def measured(tmp_path: Path, *command: str) -> list[dict[str, object]]:
    done = subprocess.run(
        [sys.executable, "-m", "sllmbench", *command, "-o", "jsonl", "--store", tmp_path / "s.db"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_run_measures_on_the_gpu(tiny_llama: Path, tmp_path: Path) -> None:
    records = measured(
        tmp_path, "run", str(tiny_llama), "--device", "cuda", "--no-quality", "-p", "16", "-n", "4",
        "--paths", "fp16,int4-g32",
    )  # fmt: skip
    assert {record["path"] for record in records} == {"fp16", "int4-g32"}
    for record in records:
        assert record["device"] == "cuda"
        assert record["memory"][0]["cuda_allocated_bytes"] > 0  # type: ignore[index]
        assert all(one["gpu"] is not None for one in record["interference"])  # type: ignore[attr-defined]


@pytest.mark.parametrize("cache", ["hot", "cold"])
def test_kernel_times_by_the_gpus_clock(tmp_path: Path, cache: str) -> None:
    records = measured(
        tmp_path, "kernel", "--device", "cuda", "--shape", "512x2048", "-m", "1,16",
        "--cache", cache, "-r", "6",
    )  # fmt: skip
    assert {record["device"] for record in records} == {"cuda"}
    for record in records:
        assert record["sampling"]["clock"] == "cuda_event"  # type: ignore[index]
        assert record["max_rel_error"] < 0.01  # type: ignore[operator]
