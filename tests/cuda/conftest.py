"""The kernels of ``csrc/cuda`` as g++ compiles them against the host shim."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from sllmbench.assets.cache import exclusive

SHIM = Path(__file__).parents[1] / "cuda_host"
sys.path.insert(0, str(SHIM))

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from shim.build import Build
    from shim.library import Library
    from shim.replay import Kernels

    Sweep = Callable[[Build, str, str], subprocess.CompletedProcess[str]]


@contextmanager
def shared_folder(factory: pytest.TempPathFactory, name: str) -> Iterator[Path]:
    """A folder that the workers of pytest-xdist share, for one of them at a time."""
    base = factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    with exclusive(f"tests of {name}"):
        yield base / name


@pytest.fixture(scope="session")
def plain_build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """The kernels as they are."""
    from shim.build import build, missing

    if reason := missing():
        pytest.skip(reason)
    with shared_folder(tmp_path_factory, "kernels") as folder:
        return build(folder)


@pytest.fixture(scope="session")
def sanitized_build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """The same under AddressSanitizer and UndefinedBehaviorSanitizer."""
    from shim.build import SANITIZERS, build, missing

    if reason := missing():
        pytest.skip(reason)
    with shared_folder(tmp_path_factory, "sanitized") as folder:
        return build(folder, *SANITIZERS)


@pytest.fixture(scope="session")
def library(plain_build: Build) -> Library:
    """The plain build, loaded into this process: for what no kernel should end."""
    from shim.library import Library

    return Library(plain_build.library)


def _kernels(arch: int, factory: pytest.TempPathFactory) -> Kernels:
    from shim.replay import Kernels

    nvcc = shutil.which("nvcc")
    if nvcc is None:
        pytest.skip("no nvcc: its PTX cannot be compared")
    with shared_folder(factory, f"sm_{arch}") as folder:
        return Kernels(nvcc, arch, folder)


@pytest.fixture(scope="session")
def turing(tmp_path_factory: pytest.TempPathFactory) -> Kernels:
    """PTX for sm_75."""
    return _kernels(75, tmp_path_factory)


@pytest.fixture(scope="session")
def ampere(tmp_path_factory: pytest.TempPathFactory) -> Kernels:
    """PTX for sm_80: the same, but for stages that come by copies."""
    return _kernels(80, tmp_path_factory)


@pytest.fixture(scope="session")
def run_sweep() -> Sweep:
    """Multiplies with a kernel over a set of cases, in a process of its own."""

    def run(build: Build, kernel: str, cases: str) -> subprocess.CompletedProcess[str]:
        # The oracle's BLAS threads would only wait for each other beside other tests.
        environment = os.environ | {"PYTHONPATH": str(SHIM), "OPENBLAS_NUM_THREADS": "1"}
        if build.sanitized:
            environment |= _sanitizers_runtime()
        command = [sys.executable, "-m", "shim.sweep", str(build.library), kernel, cases]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)

    return run


def _sanitizers_runtime() -> dict[str, str]:
    """What must be loaded before Python; Python itself never frees everything."""
    libraries = [
        subprocess.run(
            ["g++", f"-print-file-name={name}"], check=True, capture_output=True, text=True
        ).stdout.strip()
        for name in ("libasan.so", "libstdc++.so.6")
    ]
    return {"LD_PRELOAD": " ".join(libraries), "ASAN_OPTIONS": "detect_leaks=0"}


@pytest.fixture(scope="session")
def failures_of(run_sweep: Sweep) -> Callable[[Build, str, str], list[str]]:
    """What a sweep finds wrong; where it ends the process, why it did."""

    def failures(build: Build, kernel: str, cases: str) -> list[str]:
        done = run_sweep(build, kernel, cases)
        if done.returncode != 0:
            return [f"ended with {done.returncode}: {done.stderr[-3000:]}"]
        result: dict[str, Any] = json.loads(done.stdout)
        assert result["done"] > 0
        return list(result["failed"])

    return failures
