"""Our kernels on the threads of torch's OpenMP runtime: one team a process."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(platform.system() != "Linux", reason="torch's libgomp on Linux")

SETUP = """
import os, sys
import numpy as np
from sllmbench import _native
_native.set_threads(1)  # packing starts none
packed = _native.PackedWeights(np.full((8192, 512), 0x99, np.uint8), np.ones((8192, 1), np.float16),
    None, n=8192, k=1024, bits=4, group_size=1024, offset="symmetric")
def multiply(threads):
    out = np.zeros((5, 8192), np.float32)
    _native.matmul(np.ones((5, 1024), np.float32), packed, out, threads=threads)
    assert (out == 1024).all()
def count():
    return len(os.listdir("/proc/self/task"))
def start_team(threads):
    import torch
    torch.set_num_threads(threads)
    torch.ones(1 << 20).mul_(2)  # large enough to be shared
"""


def run(script: str) -> None:
    command = [sys.executable, "-P", "-W", "ignore::DeprecationWarning", "-c", SETUP + script]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (result.returncode, result.stderr) == (0, "")


def test_torchs_threads_are_ours() -> None:
    run(
        "start_team(3); assert _native.share_openmp(); before = count(); multiply(3)\n"
        "assert count() == before"
    )


def test_unasked_the_kernels_have_threads_of_their_own() -> None:
    run("start_team(3); before = count(); multiply(3); assert count() == before + 2")


def test_another_number_of_threads_leaves_the_team_alone() -> None:
    run(
        "start_team(2); assert _native.share_openmp(); before = count(); multiply(4)\n"
        "assert count() == before + 3"
    )


def test_without_a_runtime_nothing_is_shared() -> None:
    run("assert 'torch' not in sys.modules; assert not _native.share_openmp(); multiply(2)")


def test_a_forked_child_forgets_the_team() -> None:
    # Its threads are not in the child: to call on them would wait for ever.
    run(
        "start_team(3); assert _native.share_openmp(); multiply(3); child = os.fork()\n"
        "if child == 0:\n"
        "    before = count(); multiply(3); os._exit(count() - before)\n"
        "assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 2; multiply(3)"
    )


def test_a_loaded_model_path_shares() -> None:
    run(
        "import sllmbench.paths.native; start_team(2); before = count(); multiply(2)\n"
        "assert count() == before"
    )
