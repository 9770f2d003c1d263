"""The real CUDA runtime, as it is linked, on drivers that do not start: each is one clear line."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sllmbench import _native

SOURCE = Path(__file__).with_name("fake_driver.c")
COMPILER = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
with_cuda = pytest.mark.skipif(
    _native.cuda_toolkit in (None, "emulated"), reason="this build is without nvcc"
)
without_cuda = pytest.mark.skipif(_native.cuda_toolkit is not None, reason="a build with CUDA")


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if COMPILER is None:
        pytest.skip("no C compiler")
    folder = tmp_path_factory.mktemp("driver")
    flags = ["-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
    subprocess.run([COMPILER, *flags, "-o", folder / "libcuda.so.1", SOURCE], check=True)
    return folder


def run(command: list[str], folder: Path, driver: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", *command],
        env={**os.environ, "LD_LIBRARY_PATH": str(folder), "FAKE_DRIVER": driver},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@with_cuda
@pytest.mark.parametrize(
    ("said", "message"),
    [
        ("11040 0", "the driver is for CUDA 11.4 and sllmbench is built with"),
        ("99000 100", "the CUDA driver sees no device"),
        ("99000 999", "the CUDA driver does not start: "),
        ("99000 2", "the CUDA driver does not start: out of memory"),
    ],
)
def test_a_driver_that_does_not_start_is_one_line(driver: Path, said: str, message: str) -> None:
    text = "from sllmbench import _native; print(_native.cuda_unavailable())"
    done = run(["-c", text], driver, said)
    assert done.stderr == ""
    assert done.stdout.startswith(message)
    assert done.stdout.count("\n") == 1


@with_cuda
def test_a_file_that_is_no_library_is_no_driver(tmp_path: Path) -> None:
    (tmp_path / "libcuda.so.1").write_text("no library")
    text = "from sllmbench import _native; print(_native.cuda_unavailable())"
    done = run(["-c", text], tmp_path, "")
    assert done.stdout == "no CUDA driver (libcuda.so.1) is installed\n"


@with_cuda
def test_a_device_of_such_a_driver_is_refused_with_the_same_line(driver: Path) -> None:
    text = (
        "from sllmbench import _native\n"
        "try: _native.CudaDevice(0)\n"
        "except _native.CudaError as error: print(error)"
    )
    assert run(["-c", text], driver, "99000 100").stdout == "the CUDA driver sees no device\n"


COMMANDS = (
    ["kernel", "--device", "cuda"],
    ["run", "random:qwen2.5-0.5b", "--device", "cuda", "--no-quality"],
    ["run", "random:qwen2.5-0.5b", "--device", "cuda:1", "--paths", "int4-g128"],
)


@with_cuda
@pytest.mark.parametrize("command", COMMANDS)
def test_commands_end_with_one_line_and_two(driver: Path, command: list[str]) -> None:
    done = run(["-m", "sllmbench", *command], driver, "99000 100")
    assert done.returncode == 2
    assert done.stdout == ""
    device = command[command.index("--device") + 1]
    assert done.stderr.startswith(
        f"error: device {device} cannot be used: the CUDA driver sees no device"
    )
    assert done.stderr.count("\n") == 1


@without_cuda
@pytest.mark.parametrize("command", COMMANDS)
def test_a_build_without_cuda_says_how_to_get_one(tmp_path: Path, command: list[str]) -> None:
    done = run(["-m", "sllmbench", *command], tmp_path, "")
    assert done.returncode == 2
    assert "cannot be used: sllmbench is built without CUDA" in done.stderr
    assert "SLLMBENCH_CUDA=ON" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("device", ["gpu", "cuda:", "cuda:x", "cpu:0", "CUDA"])
def test_an_unknown_device_is_refused(tmp_path: Path, device: str) -> None:
    done = run(["-m", "sllmbench", "kernel", "--device", device], tmp_path, "")
    assert done.returncode == 2
    assert f"unknown device {device!r}; choose cpu, cuda or cuda:N" in done.stderr
