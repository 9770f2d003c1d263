"""The clock of CUDA events on a driver that the test builds; none here has a GPU."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).with_name("fake_cuda.c")
COMPILER = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")

needs_compiler = pytest.mark.skipif(COMPILER is None, reason="no C compiler")


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cuda")
    assert COMPILER is not None
    library = folder / "libcuda.so.1"
    subprocess.run([COMPILER, "-shared", "-fPIC", "-o", library, SOURCE], check=True)
    return folder


def script(text: str, driver: Path, fault: str = "") -> subprocess.CompletedProcess[str]:
    head = (
        "import ctypes, gc\n"
        "from sllmbench import _native\n"
        "cuda = ctypes.PyDLL('libcuda.so.1')\n"
        "launch, alive = cuda.launch, cuda.events_alive\n"
    )
    return subprocess.run(
        [sys.executable, "-P", "-c", head + text],
        env={**os.environ, "LD_LIBRARY_PATH": str(driver), "FAKE_CUDA": fault},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@needs_compiler
def test_batches_are_timed_by_the_gpus_own_clock(driver: Path) -> None:
    done = script(
        "clock = _native.Clock('cuda_event', stream=7)\n"
        "print(clock.name, round(clock.cost_ns), round(clock.resolution_ns))\n"
        "print(round(clock.time_batch(launch, 1000)), round(clock.time_batch(launch, 5)))\n"
        "print(alive()); del clock; gc.collect(); print(alive())",
        driver,
    )
    assert done.stderr == ""
    # Two microseconds lie between two events, and one more for each launch.
    assert done.stdout.split() == ["cuda_event", "2000", "2000", "1002000", "7000", "2", "0"]


@needs_compiler
def test_functions_are_sampled_with_it(driver: Path) -> None:
    done = script(
        "from sllmbench.measure.sampling import sample\n"
        "clock = _native.Clock('cuda_event', stream=7)\n"
        "series = sample({'a': launch}, clock=clock, max_seconds=5)['a']\n"
        "calls = series.calls_per_sample[0]\n"
        "print(series.sampling.clock, calls, round(series.median_ns * calls))",
        driver,
    )
    assert done.stderr == ""
    clock, calls, sample_ns = done.stdout.split()
    assert clock == "cuda_event"
    assert int(calls) >= 1000  # a thousand steps of the clock
    assert int(sample_ns) == pytest.approx(1000 * int(calls) + 2000, rel=1e-3)


@needs_compiler
@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("init", "cuInit: CUDA_ERROR_FAKE"),
        ("context", "no CUDA context is current in this thread"),
        ("second event", "cuEventCreate: CUDA_ERROR_FAKE"),
        ("record", "cuEventRecord: CUDA_ERROR_FAKE"),
        ("synchronize", "cuEventSynchronize: CUDA_ERROR_ILLEGAL_ADDRESS"),
    ],
)
def test_what_goes_wrong_is_named_and_leaves_no_event(
    driver: Path, fault: str, message: str
) -> None:
    done = script(
        "try: _native.Clock('cuda_event', stream=7)\n"
        "except RuntimeError as error: print(error)\n"
        "print(alive())",
        driver,
        fault,
    )
    told, alive = done.stdout.splitlines()
    assert told.startswith(message)
    assert alive == "0"


def test_without_a_driver_the_reason_is_told(tmp_path: Path) -> None:
    (tmp_path / "libcuda.so.1").write_text("no library")
    text = "from sllmbench import _native\n_native.Clock('cuda_event')"
    done = subprocess.run(
        [sys.executable, "-P", "-c", text],
        env={**os.environ, "LD_LIBRARY_PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "RuntimeError: no CUDA driver: " in done.stderr
