"""Checkpoints of every format, damaged in 1,000 ways each: read, or refused in one line."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sllmbench import quantize
from sllmbench.checkpoints import open_checkpoint
from sllmbench.checkpoints.writing import write_folder

if TYPE_CHECKING:
    from collections.abc import Callable

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


def read_damaged(folders: list[Path], first: int, count: int) -> list[dict[str, int]]:
    """How often, of each folder, what was damaged was read and how often it was refused."""
    program = Path(__file__).with_name("mutations.py")
    ran = subprocess.run(
        [sys.executable, "-P", str(program), str(first), str(count), *map(str, folders)],
        env=os.environ | {"OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr[-2000:]
    return [json.loads(line) for line in ran.stdout.splitlines()]


def test_damage_is_read_or_refused_in_one_line(sound: Callable[[str], Path]) -> None:
    counts = read_damaged([sound(kind) for kind in FORMATS], 0, 20)
    assert len(counts) == len(FORMATS)
    for each in counts:
        assert each["read"] + each["refused"] == 20
        assert each["refused"] > 5  # most damage must be seen: headers, shapes, types, names


@pytest.mark.slow
@pytest.mark.parametrize("kind", FORMATS)
def test_a_thousand_kinds_of_damage(kind: str, sound: Callable[[str], Path]) -> None:
    (counts,) = read_damaged([sound(kind)], 0, 1000)
    assert counts["read"] + counts["refused"] == 1000
