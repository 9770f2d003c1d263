"""Checkpoints of every format, damaged in 1,000 ways each: read, or refused in one line."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sllmbench import quantize
from sllmbench.checkpoints import open_checkpoint
from sllmbench.checkpoints.writing import write_folder

FORMATS = {
    "hf": None,
    "gptq": "int4-g32",
    "gptq_v2": "int4-g32-asym",
    "awq": "int4-g32-asym",
    "compressed-tensors": "int4-g32-asym",
    "gguf": None,
}


@pytest.fixture(scope="module")
def sound(
    make_llama: Callable[..., Path],
    write_gguf: Callable[..., object],
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[str], Path]:
    """Makes a folder of a kind: a llama of 2 layers, 64 wide; those of floats in three shards."""
    floats = make_llama(hidden=64)
    source = open_checkpoint(str(floats))

    def make(kind: str) -> Path:
        folder = tmp_path_factory.mktemp("sound") / kind
        if kind == "gguf":
            folder.mkdir()
            write_gguf(floats, folder / "model.gguf")
            shutil.copytree(floats, folder / "floats")
            return folder
        layout = FORMATS[kind]
        tensors = (
            (
                name,
                quantize(source.tensor(name), layout)
                if layout and "proj" in name
                else source.tensor(name),
            )
            for name in source.shapes()
        )
        write_folder(
            folder, source, tensors, kind, {}, shard_bytes=1 << (17 if kind == "hf" else 30)
        )
        return folder

    return make


def read_damaged(kind: str, folder: Path, first: int, count: int) -> dict[str, int]:
    """How often what was damaged was read and how often it was refused."""
    program = Path(__file__).with_name("mutations.py")
    ran = subprocess.run(
        [sys.executable, "-P", str(program), kind, str(folder), str(first), str(count)],
        env=os.environ | {"OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr[-2000:]
    counts: dict[str, int] = json.loads(ran.stdout.splitlines()[-1])
    return counts


@pytest.mark.parametrize("kind", FORMATS)
def test_damage_is_read_or_refused_in_one_line(kind: str, sound: Callable[[str], Path]) -> None:
    counts = read_damaged(kind, sound(kind), 0, 20)
    assert counts["read"] + counts["refused"] == 20
    assert counts["refused"] > 5  # most damage must be seen: headers, shapes, types, names


@pytest.mark.slow
@pytest.mark.parametrize("kind", FORMATS)
def test_a_thousand_kinds_of_damage(kind: str, sound: Callable[[str], Path]) -> None:
    counts = read_damaged(kind, sound(kind), 20, 980)
    assert counts["read"] + counts["refused"] == 980
