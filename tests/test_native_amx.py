"""How level amx_int8 is found out, on a machine with AMX made of software: see .ci/amx."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sllmbench import _native

CPUINFO = Path("/proc/cpuinfo")
FLAGS = CPUINFO.read_text() if CPUINFO.exists() else ""
EMULATED = "amx_int8" not in FLAGS and "amx_int8" in _native.supported_isas()
pytestmark = pytest.mark.skipif(not EMULATED, reason="not built with SLLMBENCH_AMX_EMULATION")


def python(code: str, emulator: str = "") -> str:
    """What a fresh interpreter prints, on a machine whose AMX fails in the way of ``emulator``."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("SLLMBENCH_")}
    result = subprocess.run(
        [sys.executable, "-P", "-c", "from sllmbench import _native\n" + code],
        env=clean | {"AMX_EMULATOR": emulator},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert (result.returncode, result.stderr) == (0, "")
    return result.stdout.strip()


@pytest.mark.parametrize(
    ("emulator", "reason"),
    [
        ("", "None"),
        ("absent", "this CPU lacks amx_int8"),
        ("unsaved", "the operating system does not save the registers of amx_tile"),
        (
            "denied",
            "the operating system does not permit AMX's tiles: Operation not permitted",
        ),
        ("illegal", "amx_int8 is advertised, but its instructions die with SIGILL here"),
        ("wrong", "amx_int8 is advertised, but a product came out wrong here"),
    ],
)
def test_a_level_that_does_not_work_is_refused_with_the_reason(emulator: str, reason: str) -> None:
    asked = "print(_native.isa_unsupported_reason('amx_int8'), _native.active_isa(), sep='|')"
    active = "amx_int8" if reason == "None" else "avx512_vnni"
    assert python(asked, emulator) == f"{reason}|{active}"


# The trial's child must not be seen by an application that looks after children of its own.
CHILDREN = """
import os, signal, faulthandler
faulthandler.enable()
seen = []
signal.signal(signal.SIGCHLD, {handler})
print(_native.isa_unsupported_reason("amx_int8"), len(seen))
try:
    print(os.waitpid(-1, 0))
except ChildProcessError:
    print("no children")
"""


@pytest.mark.parametrize("handler", ["lambda *_: seen.append(1)", "signal.SIG_IGN"])
@pytest.mark.parametrize("emulator", ["illegal", "wrong"])
def test_the_trial_leaves_no_trace(emulator: str, handler: str) -> None:
    reason, children = python(CHILDREN.format(handler=handler), emulator).splitlines()
    assert reason.startswith("amx_int8 is advertised, but ")
    assert reason.endswith("here 0")
    assert children == "no children"


def test_forcing_another_level_asks_nothing_of_amx() -> None:
    # What is never permitted stays illegal, so the environment's level must not need it.
    code = """
import os
os.environ["SLLMBENCH_ISA"] = "avx2"
print(_native.active_isa())
os.environ["AMX_EMULATOR"] = "denied"
print(_native.isa_unsupported_reason("amx_int8"))
"""
    assert python(code).splitlines() == [
        "avx2",
        "the operating system does not permit AMX's tiles: Operation not permitted",
    ]


def test_a_peak_rate_is_measured_from_tiles() -> None:
    assert _native.peak_gops("int8", "amx_int8", 1, 0.01) > 0
