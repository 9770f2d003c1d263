"""Paths that run in another interpreter: a second environment, and what is none."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import pytest

import sllmbench
from sllmbench.bench import run
from sllmbench.bench.interpreters import inspect
from sllmbench.errors import InputError

PACKAGES = sysconfig.get_path("purelib")


def environment(folder: Path, *lines: str) -> Path:
    """A virtual environment whose site-packages hold ``lines`` in a .pth file."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "more.pth").write_text("".join(f"{line}\n" for line in lines))
    return folder / "bin/python"


@pytest.fixture(scope="module")
def second(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with everything that this one has."""
    line = f"import site; site.addsitedir({PACKAGES!r})"
    return environment(tmp_path_factory.mktemp("second") / "venv", line)


def test_another_interpreter_says_what_it_has(second: Path) -> None:
    installed = inspect("fp32", str(second))
    assert installed["sllmbench"] == sllmbench.__version__
    assert "torch" in installed


def test_an_interpreter_without_sllmbench(tmp_path: Path) -> None:
    python = environment(tmp_path / "venv")
    with pytest.raises(InputError, match=r"cannot be imported there.*No module named"):
        inspect("auto-gptq", str(python))


def test_an_interpreter_with_another_version(tmp_path: Path, second: Path) -> None:
    python = environment(tmp_path / "venv", f"import site; site.addsitedir({PACKAGES!r})")
    (site,) = (tmp_path / "venv").glob("lib/python*/site-packages")
    other = site / "sllmbench-9.9.dist-info"
    other.mkdir()
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: sllmbench\nVersion: 9.9\n")
    with pytest.raises(InputError, match=r"it has sllmbench 9\.9 and this one is"):
        inspect("fp32", str(python))


@pytest.mark.parametrize("what", ["missing", "folder", "true", "old"])
def test_what_is_no_python(tmp_path: Path, what: str) -> None:
    programs = {"missing": tmp_path / "nothing", "folder": tmp_path, "true": Path("/bin/true")}
    if what == "old":
        program = tmp_path / "old"
        program.write_text("#!/bin/sh\necho Unknown option: -P >&2\nexit 2\n")
        program.chmod(0o755)
        programs["old"] = program
    with pytest.raises(
        InputError, match=r"it cannot be started|no Python 3\.11 or later"
    ) as caught:
        inspect("fp32", str(programs[what]))
    assert "\n" not in str(caught.value)


def test_a_path_that_is_not_run_has_no_interpreter(tiny_llama: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--in names int8, which is not among the paths fp32"):
        run(
            str(tiny_llama),
            ["fp32"],
            interpreters={"int8": sys.executable},
            quality=False,
            store=tmp_path / "store",
        )


def test_paths_of_two_interpreters_land_in_one_run(
    tiny_llama: Path, tmp_path: Path, second: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[Any] = []
    popen = subprocess.Popen

    def spy(command: Any, *args: Any, **options: Any) -> Any:
        started.append(command[0])
        return popen(command, *args, **options)

    monkeypatch.setattr(subprocess, "Popen", spy)
    result = run(
        str(tiny_llama),
        ["fp32", "int8"],
        interpreters={"int8": str(second)},
        n_prompt=8,
        n_gen=2,
        repetitions=2,
        threads=1,
        quality=False,
        store=tmp_path / "store",
    )
    assert {record.path for record in result.records} == {"fp32", "int8"}
    assert len({record.run_id for record in result.records}) == 1
    assert str(second) in started
    assert sys.executable in started
    for record in result.records:
        assert record.machine.libraries["torch"] == result.machine.libraries["torch"]
    assert os.path.exists(tmp_path / "store")
