"""What ``benchmarks/on_gpu.py`` does with the steps that it runs; the steps need a GPU."""

from __future__ import annotations

import importlib.util
import json
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

SOURCE = Path(__file__).parents[2] / "benchmarks" / "on_gpu.py"


@pytest.fixture
def on_gpu() -> Any:
    spec = importlib.util.spec_from_file_location("on_gpu", SOURCE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["on_gpu"] = module
    spec.loader.exec_module(module)
    return module


def test_outputs_of_steps_that_end_well_and_badly_are_packed(on_gpu: Any, tmp_path: Path) -> None:
    folder = tmp_path / "work"
    folder.mkdir()
    steps = [
        on_gpu.Step("good", (sys.executable, "-c", "print('a figure')")),
        on_gpu.Step("bad", (sys.executable, "-c", "import sys; sys.exit('no device')")),
        on_gpu.Step("absent", ("/no/such/command",)),
    ]
    ended = [on_gpu.carry_out(step, folder) for step in steps]
    on_gpu.pack(folder, ended, tmp_path / "results.tar.gz")
    with tarfile.open(tmp_path / "results.tar.gz") as archive:
        read = {m.name: archive.extractfile(m) for m in archive.getmembers() if m.isfile()}
        text = {name: file.read().decode() for name, file in read.items() if file is not None}
    assert text["results/good.out"] == "a figure\n"
    assert text["results/bad.err"] == "no device\n"
    assert "No such file" in text["results/absent.err"]
    summary = json.loads(text["results/steps.json"])
    assert [one["code"] for one in summary] == [0, 1, 127]


@pytest.mark.parametrize("quick", [False, True])
def test_every_step_is_a_command_that_exists(on_gpu: Any, tmp_path: Path, quick: bool) -> None:
    from typer.main import get_command

    from sllmbench.cli import app

    names = set(get_command(app).commands)  # type: ignore[attr-defined]
    ours = [s.command for s in on_gpu.steps(tmp_path, quick) if "sllmbench" in s.command]
    assert {command[3] for command in ours} == {"machine", "doctor", "kernel", "run"}
    assert {command[3] for command in ours} <= names
