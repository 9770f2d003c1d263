"""Against a process that burns one core, a median stays or is said to be disturbed."""

from __future__ import annotations

import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import pytest

from sllmbench import _native
from sllmbench.matmuls import Operands, resolve
from sllmbench.measure.sampling import sample
from sllmbench.microbench import compare_kernels
from sllmbench.microbench.worker import make_activations, make_weight

if TYPE_CHECKING:
    from collections.abc import Iterator

MOVED = 0.03
BURN = "x = 1\nprint(flush=True)\nwhile True: x = x * 3 % 1000003"


@contextmanager
def burner() -> Iterator[None]:
    process = subprocess.Popen([sys.executable, "-c", BURN], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        yield
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("threads", [1, 2])
def test_a_function_of_this_process(threads: int) -> None:
    operands = Operands(make_weight(1024, 1024, 0), make_activations(4, 1024, 0), threads, 1)
    (call,) = resolve("int8", "int8", None).bind(operands).calls
    quiet = sample({"a": call}, max_seconds=3)["a"]
    with burner():
        burnt = sample({"a": call}, max_seconds=3)["a"]
    moved = abs(burnt.median_ns / quiet.median_ns - 1)
    assert moved < MOVED or burnt.kept.disturbed or quiet.kept.disturbed, (quiet, burnt)
    # One of two processors is half of all; on a larger machine it may be too little to tell.
    if _native.InterferenceProbe().processors <= 4:
        assert burnt.kept.n_disturbed > len(burnt.samples_ns) / 2
        assert burnt.kept.disturbed


@pytest.mark.parametrize("threads", [1, 2])
def test_a_kernel_in_a_process_of_its_own(threads: int) -> None:
    def measure() -> tuple[float, bool, int]:
        (record,) = compare_kernels(["1024x1024"], [4], ["int8"], threads=[threads]).records
        assert np.isfinite(record.median_ns)
        return record.median_ns, record.disturbed, record.n_disturbed

    quiet_ns, quiet_disturbed, _ = measure()
    with burner():
        burnt_ns, burnt_disturbed, n_disturbed = measure()
    moved = abs(burnt_ns / quiet_ns - 1)
    assert moved < MOVED or burnt_disturbed or quiet_disturbed, (quiet_ns, burnt_ns)
    if _native.InterferenceProbe().processors <= 4:
        assert n_disturbed >= 5
        assert burnt_disturbed
