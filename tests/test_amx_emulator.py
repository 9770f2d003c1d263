"""The emulator that the AMX kernels are tested on: each instruction, and each wrong use of it."""

from __future__ import annotations

import ctypes
import platform
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

if TYPE_CHECKING:
    from numpy.typing import NDArray

SOURCES = Path(__file__).with_name("amx_emulator")
CPUINFO = Path("/proc/cpuinfo")
pytestmark = [
    pytest.mark.skipif(platform.machine() != "x86_64", reason="AMX is x86-64's"),
    pytest.mark.skipif(shutil.which("c++") is None, reason="needs a C++ compiler"),
    pytest.mark.skipif(
        CPUINFO.exists() and "amx_tile" in CPUINFO.read_text(),
        reason="this machine executes AMX itself",
    ),
]
PRODUCTS = ["tdpbssd", "tdpbsud", "tdpbusd", "tdpbuud"]
LOADS = ["tileloadd_tmm0", "tileloadd_tmm3", "tileloaddt1_tmm6", "tileloadd_tmm0_far"]
STORES = ["tilestored_tmm0", "tilestored_tmm0_near"]


def load(library: str) -> Any:
    """The instructions as functions: the result is tmm0, the operands are tmm3 and tmm6."""
    amx = ctypes.CDLL(library)
    for name in LOADS + STORES:
        getattr(amx, name).argtypes = [ctypes.c_void_p, ctypes.c_int64]
    for name in ("ldtilecfg", "sttilecfg", "tileloadd_tmm3_no_index"):
        getattr(amx, name).argtypes = [ctypes.c_void_p]
    amx.install()
    return amx


def config(tiles: dict[int, tuple[int, int]]) -> NDArray[np.uint8]:
    """Palette 1 with each tile's rows and bytes a row."""
    block = np.zeros(64, np.uint8)
    block[0] = 1
    for tile, (rows, row_bytes) in tiles.items():
        block[16 + 2 * tile] = row_bytes
        block[48 + tile] = rows
    return block


def configure(amx: Any, tiles: dict[int, tuple[int, int]]) -> None:
    amx.ldtilecfg(config(tiles).ctypes.data)


def stored(amx: Any, rows: int, columns: int) -> NDArray[np.int32]:
    """tmm0's rows and columns; nothing may be written beside them."""
    out = np.full((17, 24), 77, np.int32)
    amx.tilestored_tmm0(out.ctypes.data, out.strides[0])
    assert (out[rows:] == 77).all()
    assert (out[:, columns:] == 77).all()
    return out[:rows, :columns]


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("amx") / "libamx.so"
    sources = [str(SOURCES / name) for name in ("emulator.cpp", "instructions.cpp")]
    subprocess.run(
        ["c++", "-std=c++20", "-O2", "-Wall", "-Wextra", "-shared", "-fPIC", "-o", path, *sources],
        check=True,
    )
    return str(path)


@pytest.fixture(scope="session")
def amx(library: str) -> Any:
    return load(library)


@pytest.mark.parametrize("name", PRODUCTS)
@pytest.mark.parametrize(("m", "n", "k4"), [(16, 16, 16), (1, 1, 1), (3, 5, 7), (16, 16, 8)])
def test_products_are_those_of_integers(amx: Any, name: str, m: int, n: int, k4: int) -> None:
    rng = np.random.default_rng(0)
    a = rng.integers(0, 256, (m, 100), dtype=np.uint8)
    b = rng.integers(0, 256, (k4, 128), dtype=np.uint8)
    start = rng.integers(-(2**31), 2**31, (m, 20), dtype=np.int64).astype(np.int32)
    configure(amx, {0: (m, 4 * n), 3: (m, 4 * k4), 6: (k4, 4 * n)})
    amx.tileloadd_tmm0(start.ctypes.data, start.strides[0])
    amx.tileloadd_tmm3(a.ctypes.data, a.strides[0])
    amx.tileloaddt1_tmm6(b.ctypes.data, b.strides[0])
    getattr(amx, name)()

    def signed(values: NDArray[np.uint8], letter: str) -> NDArray[np.int64]:
        return values.view(np.int8 if letter == "s" else np.uint8).astype(np.int64)

    left = signed(a[:, : 4 * k4], name[4])
    right = signed(b[:, : 4 * n].reshape(k4, n, 4).transpose(0, 2, 1).reshape(4 * k4, n), name[5])
    expected = (start[:, :n].astype(np.int64) + left @ right).astype(np.int32)  # wraps
    np.testing.assert_array_equal(stored(amx, m, n), expected)


@pytest.mark.parametrize(("rows", "columns"), [(16, 16), (1, 1), (7, 3)])
def test_loads_and_stores_follow_their_strides(amx: Any, rows: int, columns: int) -> None:
    values = np.random.default_rng(1).integers(0, 256, (rows, 4 * columns), dtype=np.uint8)
    configure(amx, {0: (rows, 4 * columns)})
    source = np.zeros(1000 + 8 * 72 * rows, np.uint8)
    for r in range(rows):  # at p + 1000 + 8 stride r
        source[1000 + 576 * r :][: 4 * columns] = values[r]
    amx.tileloadd_tmm0_far(source.ctypes.data, 72)
    np.testing.assert_array_equal(stored(amx, rows, columns).view(np.uint8), values)
    target = np.zeros(16 + 80 * 16, np.uint8)  # from p - 16 + 2 stride r
    amx.tilestored_tmm0_near(target.ctypes.data + 16, 40)
    np.testing.assert_array_equal(target[: 80 * rows].reshape(rows, 80)[:, : 4 * columns], values)
    amx.tileloadd_tmm0(values.ctypes.data + values.nbytes - 4 * columns, -4 * columns)
    np.testing.assert_array_equal(stored(amx, rows, columns).view(np.uint8), values[::-1])
    amx.tilezero()
    assert not stored(amx, rows, columns).any()


def test_a_load_without_an_index_repeats_one_row(amx: Any) -> None:
    configure(amx, {0: (3, 64), 3: (3, 4), 6: (1, 64)})
    first, ones = np.array([5, 6, 7, 8], np.int8), np.ones(64, np.int8)
    amx.tileloadd_tmm3_no_index(first.ctypes.data)
    amx.tileloaddt1_tmm6(ones.ctypes.data, 64)
    amx.tdpbssd()
    np.testing.assert_array_equal(stored(amx, 3, 16), 26)


def test_the_configuration_is_read_back_and_released(amx: Any) -> None:
    back = np.ones(64, np.uint8)
    given = config({0: (4, 16), 3: (4, 8), 6: (2, 16)})
    amx.ldtilecfg(given.ctypes.data)
    amx.sttilecfg(back.ctypes.data)
    np.testing.assert_array_equal(back, given)
    amx.tilerelease()
    amx.sttilecfg(back.ctypes.data)
    assert not back.any()


def test_each_thread_has_tiles_of_its_own(amx: Any) -> None:
    configure(amx, {0: (1, 4)})
    mine = np.array([7], np.int32)
    amx.tileloadd_tmm0(mine.ctypes.data, 4)
    thread = threading.Thread(target=configure, args=(amx, {0: (2, 8)}))
    thread.start()
    thread.join()
    assert stored(amx, 1, 1) == 7


def unlike(**changed: tuple[int, int]) -> str:
    """A product with one tile's shape changed, as Python."""
    tiles = {0: (4, 16), 3: (4, 8), 6: (2, 16)} | {int(k[3:]): v for k, v in changed.items()}
    return f"configure(amx, {tiles}); amx.tdpbssd()"


BYTE = "c = config({{0: (4, 16)}}); c[{}] = {}; amx.ldtilecfg(c.ctypes.data)"


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("amx.tilezero()", "tilezero: #UD: this thread has loaded no tile configuration"),
        (
            "configure(amx, {0: (4, 16)}); t = threading.Thread(target=amx.tilezero); t.start();"
            " t.join()",
            "this thread has loaded no tile configuration",
        ),
        ("configure(amx, {0: (4, 16)}); amx.tilerelease(); amx.tilezero()", "no tile conf"),
        ("configure(amx, {3: (4, 8)}); amx.tilezero()", "the configuration leaves this tile out"),
        (BYTE.format(0, 2), "ldtilecfg: #GP: no such palette"),
        (BYTE.format(1, 1), "going on with an interrupted load is not emulated"),
        (BYTE.format(5, 1), "ldtilecfg: #GP: a reserved byte is not 0"),
        (BYTE.format(60, 2), "palette 1 has 8 tiles"),
        ("configure(amx, {0: (17, 4)})", "more than 16 rows"),
        ("configure(amx, {0: (2, 68)})", "more than 64 bytes a row"),
        ("configure(amx, {0: (2, 0)})", "a tile with rows and no columns, or the reverse"),
        (unlike(tmm6=(3, 16)), "first operand's columns are not the second's rows"),
        (unlike(tmm0=(3, 16)), "result and first operand differ in rows"),
        (unlike(tmm0=(5, 16)), "result and first operand differ in rows"),
        (unlike(tmm0=(4, 12)), "result and second operand differ in columns"),
        (unlike(tmm3=(4, 6)), "row bytes are no multiple of 4"),
    ],
)
def test_wrong_use_ends_the_process_and_says_why(library: str, code: str, message: str) -> None:
    result = run(library, code)
    assert result.returncode == -6
    assert result.stderr.startswith("AMX emulator: ")
    assert message in result.stderr


def test_other_illegal_instructions_stay_illegal(library: str) -> None:
    assert run(library, "amx.illegal()").returncode == -4


def run(library: str, code: str) -> subprocess.CompletedProcess[str]:
    """Run a line of Python in an interpreter of its own, with ``amx`` and this file's names."""
    return subprocess.run(
        [sys.executable, __file__, library, code],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


if __name__ == "__main__":
    exec(sys.argv[2], globals() | {"amx": load(sys.argv[1])})
