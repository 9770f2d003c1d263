"""A kernel as nvcc emits it: right where it is right, and each mistake seen."""

from __future__ import annotations

import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from sllmbench.cubin.ptx import Fault, Memory, Module, Trace, run

if TYPE_CHECKING:
    from numpy.typing import NDArray

HERE = Path(__file__).parent
RNG = np.random.default_rng(10)
ADDRESSES = TILES, SCALES, X, Y = [0x7F5500000000 + i * 0x10000000 for i in range(4)]

pytestmark = pytest.mark.skipif(
    shutil.which("nvcc") is None, reason="nvcc is not installed: nothing to compile the kernel with"
)


@cache
def compiled(mistake: str) -> Module:
    result = subprocess.run(
        [
            "nvcc", "-std=c++20", "-arch=sm_75", f"-I{HERE.parents[2] / 'csrc'}",
            f"-DMISTAKE={mistake}", "-ptx", str(HERE / "gemv.cu"), "-o", "-",
        ],
        capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return Module.parse(result.stdout)


class Product:
    """A random weight of 4-bit codes in groups of 64, and a row of x."""

    def __init__(self, n: int, k: int) -> None:
        self.n, self.k = n, k
        self.codes = RNG.integers(0, 16, (n, k), np.uint32)
        self.scales = RNG.uniform(0.5, 1.5, (n, k // 64)).astype(np.float16)
        self.x = RNG.standard_normal(k).astype(np.float16)

    def tiles(self) -> NDArray[np.uint32]:
        """As csrc/cuda/layouts.h lays codes out."""
        # Of a row block: which half, row of it, tile, quarter of its k, word, number in the word.
        spread = self.codes.reshape(self.n // 16, 2, 8, self.k // 64, 4, 2, 8)
        shifts = 4 * np.array([0, 4, 1, 5, 2, 6, 3, 7], np.uint32)  # of k, k + 1, ..
        words = (spread << shifts).sum(axis=-1, dtype=np.uint32)
        return np.ascontiguousarray(words.transpose(0, 3, 2, 4, 1, 5))

    def run(self, mistake: str = "NOTHING", trace: Trace | None = None) -> NDArray[np.float32]:
        memory = Memory()
        scales = self.scales.reshape(self.n // 16, 16, -1).transpose(0, 2, 1)
        for address, data in ((TILES, self.tiles()), (SCALES, scales), (X, self.x)):
            memory.register(address, data, writable=False)
        memory.register(Y, np.zeros(self.n, np.float32), defined=False)
        arguments = [address.to_bytes(8, "little") for address in ADDRESSES]
        arguments.append((self.k // 64).to_bytes(4, "little"))
        entry = compiled(mistake).entry("gemv")
        run(entry, (self.n // 16,), (128,), arguments, memory, trace)
        assert memory.written(Y).all()
        return memory.read(Y).view(np.float32)

    def error(self, y: NDArray[np.float32]) -> float:
        """The largest error, by what fp16 sums of eight products may lose: more than 1 is wrong."""
        weights = (self.codes - 8.0) * np.repeat(self.scales.astype(np.float64), 64, axis=1)
        exact = weights @ self.x.astype(np.float64)
        bound = 8 * 2.0**-11 * np.abs(weights) @ np.abs(self.x.astype(np.float64))
        return float(np.max(np.abs(y - exact) / bound))


@pytest.mark.parametrize(("n", "k"), [(16, 64), (48, 192), (512, 2048)])
def test_a_kernel_agrees_with_float64(n: int, k: int) -> None:
    product = Product(n, k)
    assert product.error(product.run()) <= 1


def test_a_wrong_lane_is_wrong() -> None:
    product = Product(32, 512)
    assert not product.error(product.run("WRONG_LANE")) <= 1


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        ("NO_BARRIER", r"ld\.shared.*race on shared memory"),
        ("ONE_TILE_MORE", r"ld\.global.*out of bounds"),
        ("HALF_A_VECTOR", r"ld\.global\.v4.*misaligned access of 16 bytes"),
    ],
)
def test_a_mistake_is_a_fault(mistake: str, message: str) -> None:
    with pytest.raises(Fault, match=message):
        Product(32, 512).run(mistake)


def test_what_the_kernel_reads_and_how() -> None:
    n, k = 32, 512
    trace = Trace(addresses=True)
    Product(n, k).run(trace=trace)
    weights = trace.accesses_of("L1::no_allocate")  # the loop's, unrolled
    assert {access.bytes_per_lane for access in weights} == {16}
    assert sum(access.lanes for access in weights) * 16 == n * k // 2  # each code once
    for access in weights:
        assert access.sectors == access.least_sectors == 16 * access.requests
    shared = [access for access in trace.accesses.values() if access.space == "shared"]
    assert len(shared) == 6
    assert sum(access.bank_conflicts for access in shared) == 0
