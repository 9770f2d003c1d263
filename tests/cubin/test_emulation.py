"""Launches of the interpreter beside the machine code of the same kernel."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np
import pytest

from sllmbench.cubin import Question, examine, tools
from sllmbench.cubin.emulation import emulate, joined
from sllmbench.cubin.ptx import Memory, Module, Trace, run
from sllmbench.errors import InputError
from sllmbench.report import cubin as report
from tests.cubin.conftest import HEADERS, KERNELS

if TYPE_CHECKING:
    from pathlib import Path

STREAM = "_Z6streamPK5uint4Pji"
A, B = 0x7F0000000000, 0x7F0001000000


@pytest.fixture(scope="module")
def module(compiled: Path, tmp_path_factory: pytest.TempPathFactory) -> Module:
    ptx = tmp_path_factory.mktemp("ptx") / "kernels.ptx"
    command = [str(tools.find("nvcc")), "-std=c++20", "-arch=sm_75", "-ptx", f"-I{HEADERS}"]
    tools._run([*command, "-o", str(ptx), str(KERNELS)])
    return Module.parse(ptx.read_text())


def stream(module: Module, **options: bool) -> Trace:
    memory = Memory()
    memory.register(A, np.ones(2 * 4 * 128 * 4, np.uint32))
    memory.register(B, np.zeros(128, np.uint32))
    arguments = [A.to_bytes(8, "little"), B.to_bytes(8, "little"), (2).to_bytes(4, "little")]
    return run(module.entry(STREAM), (1,), (128,), arguments, memory, Trace(**options))


def test_coalesced_loads_touch_what_they_must(module: Module, compiled: Path) -> None:
    launch = emulate("2 trips", stream(module, addresses=True))
    # 32 lanes of 16 bytes each: 16 sectors of 32 bytes, none of them twice.
    assert launch.sectors_per_request == launch.ideal_sectors_per_request == 16
    assert (launch.bank_conflicts, launch.shared_requests) == (0, 0)
    record = joined(examine(compiled, Question()), {STREAM: [launch]})
    assert next(k for k in record.kernels if k.name == "stream").emulated == (launch,)
    assert all(not k.emulated for k in record.kernels if k.name != "stream")
    from rich.console import Console

    screen = Console(width=80, file=io.StringIO())
    with screen.capture() as captured:
        screen.print(report.text(record, 80))
    assert "16.0 (16.0)" in captured.get()


def test_what_cannot_be_joined(module: Module, compiled: Path) -> None:
    with pytest.raises(InputError, match="addresses=True"):
        emulate("2 trips", stream(module))
    with pytest.raises(InputError, match="addresses=True"):
        emulate("nothing", Trace(addresses=True))
    launch = emulate("2 trips", stream(module, addresses=True))
    record = examine(compiled, Question(kernel="tensor"))
    with pytest.raises(InputError, match=STREAM):
        joined(record, {STREAM: [launch]})
