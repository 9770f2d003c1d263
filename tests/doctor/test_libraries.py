"""Settings of the environment, the age of the build, and libraries of our own making."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import sllmbench
from sllmbench import _native
from sllmbench.doctor import libraries
from sllmbench.matmuls import ggml_library

BEST = _native.supported_isas()[-1]


@pytest.mark.parametrize(
    ("check", "setting", "severity", "remedy"),
    [
        (libraries.thread_count, {}, "ok", None),
        (libraries.thread_count, {"SLLMBENCH_THREADS": "4"}, "ok", None),
        (libraries.thread_count, {"SLLMBENCH_THREADS": "1"}, "problem", "SLLMBENCH_THREADS"),
        (libraries.thread_count, {"SLLMBENCH_THREADS": "9"}, "problem", "SLLMBENCH_THREADS"),
        (libraries.instruction_set, {}, "ok", None),
        (libraries.instruction_set, {"SLLMBENCH_ISA": BEST}, "ok", None),
        (libraries.library_threads, {"OMP_NUM_THREADS": "1"}, "notice", "OMP_NUM_THREADS"),
        (libraries.openmp_settings, {"OMP_WAIT_POLICY": "passive"}, "notice", "OMP_WAIT_POLICY"),
        (
            libraries.openmp_settings,
            {"GOMP_CPU_AFFINITY": "0-3", "OMP_PROC_BIND": "true"},
            "problem",
            "GOMP_CPU_AFFINITY OMP_PROC_BIND",
        ),
        (
            libraries.forced_libraries,
            {"ATEN_CPU_CAPABILITY": "avx2"},
            "problem",
            "ATEN_CPU_CAPABILITY",
        ),
    ],
)
def test_a_setting(
    patient: Any, check: Any, setting: dict[str, str], severity: str, remedy: str | None
) -> None:
    patient.environ = setting
    finding = patient.one(check)
    assert finding.severity == severity
    assert finding.remedy == (None if remedy is None else f"unset {remedy}")
    assert all(value in finding.found for value in setting.values())


@pytest.mark.skipif(len(_native.supported_isas()) < 2, reason="one instruction set only")
def test_a_forced_instruction_set_costs_what_is_measured(patient: Any) -> None:
    patient.environ = {"SLLMBENCH_ISA": "generic"}
    finding = patient.one(libraries.instruction_set, measure=True)
    assert finding.severity == "problem"
    assert finding.effect.unit == "×"
    assert finding.effect.value > 1.5


@pytest.mark.parametrize(
    "check",
    [libraries.library_threads, libraries.openmp_settings, libraries.forced_libraries],
)
def test_settings_that_are_not_made_or_harmless(patient: Any, check: Any) -> None:
    patient.environ = {"OMP_NUM_THREADS": "4", "OMP_WAIT_POLICY": ""}
    assert patient.examined(check) == []


def install(folder: Path, name: str, *files: str) -> None:
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "RECORD").write_text("".join(f"{file},sha256=x,1\n" for file in files))


def test_two_kinds_of_openmp_are_named_with_their_packages(
    patient: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    install(tmp_path, "one", "one/lib/libgomp-a34b3233.so.1.0.0", "one/liberomp.so")
    finding = patient.one(libraries.openmp_runtimes)
    assert (finding.severity, finding.found) == ("ok", "libgomp in one")
    install(tmp_path, "two", "../../lib/libiomp5.so")
    finding = patient.one(libraries.openmp_runtimes)
    assert (finding.severity, finding.found) == ("notice", "libgomp in one; libiomp5 in two")


def test_sources_newer_than_the_extension(
    patient: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "csrc/cpu/matmul.cpp"
    source.parent.mkdir(parents=True)
    source.touch()
    monkeypatch.setattr(sllmbench, "__file__", str(tmp_path / "sllmbench/__init__.py"))
    built_at = Path(_native.__file__).stat().st_mtime
    os.utime(source, (built_at - 1, built_at - 1))
    assert patient.one(libraries.extension).severity == "ok"
    os.utime(source, (built_at + 1, built_at + 1))
    finding = patient.one(libraries.extension)
    assert finding.severity == "problem"
    assert finding.found == "sources newer than it: 1, the newest csrc/cpu/matmul.cpp"
    assert finding.remedy == f"cd {tmp_path} && pip install --no-build-isolation -e ."


def test_an_extension_without_optimisation(patient: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_native, "optimized", False)
    titles = [finding.title for finding in patient.examined(libraries.extension)]
    assert "extension's build" in titles
    assert "extension" not in titles


@pytest.mark.parametrize(("flag", "expected"), [("", True), ("-O2", False)])
def test_the_compiler_says_whether_it_optimises(flag: str, expected: bool) -> None:
    """The macro that the extension asks."""
    command = ["g++", *flag.split(), "-dM", "-E", "-x", "c++", os.devnull]
    macros = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert ("__OPTIMIZE__" not in macros) == expected
    assert _native.optimized


def test_a_ggml_without_the_machines_instructions(
    patient: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Slow:
        def isa(self) -> str:
            return "generic"

    monkeypatch.setattr(ggml_library, "folder", lambda: "not installed")
    assert patient.examined(libraries.ggml_build) == []
    monkeypatch.setattr(ggml_library, "folder", lambda: tmp_path)
    finding = patient.one(libraries.ggml_build)
    assert finding.severity == "notice"
    assert "cannot be used" in finding.found
    monkeypatch.setattr(ggml_library, "library", Slow)
    finding = patient.one(libraries.ggml_build)
    assert finding.severity == ("problem" if BEST != "generic" else "ok")
    assert BEST == "generic" or BEST in finding.found
