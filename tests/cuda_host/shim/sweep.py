"""Multiplies with every kernel over shapes and formats, and says what was wrong.

A program of its own, so that a kernel that ends the process is an ordinary failure:
``python -m shim.sweep LIBRARY KERNEL CASES`` prints {"done": ..., "failed": [...]}.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from itertools import cycle, islice, product
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from shim.bounds import Sums, bounds, equal_case
from shim.library import Device, Library
from shim.weights import Weight, random_weight

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True)
class Family:
    """What a kernel multiplies, and which numbers of rows of x take other ways through it."""

    bits: int
    activations: int
    rows: tuple[int, ...]
    zeros: tuple[bool, ...]
    devices: tuple[Device, ...]
    sums: Sums

    def sums_on(self, device: Device) -> Sums:
        """How it sums there."""
        return self.sums if device.has_tensor_cores or self.activations == 8 else Sums.HALF_PAIRS


TURING, AMPERE = Device(), Device(80, multiprocessors=108)
GTX16 = Device(75, has_tensor_cores=False, multiprocessors=20)
ONE = Device(75, multiprocessors=1)  # one multiprocessor has no use for shares of k
DECODE, PREFILL = (1, 2, 3, 4, 5, 8), (1, 7, 16, 17, 33, 70)
WITHOUT_CORES, WITH_CORES = (TURING, GTX16, ONE), (TURING, AMPERE, ONE)
FAMILIES = {
    "decode_w4a16": Family(4, 16, DECODE, (False, True), WITHOUT_CORES, Sums.FLOAT32),
    "decode_w8a16": Family(8, 16, DECODE, (False,), WITHOUT_CORES, Sums.FLOAT32),
    "decode_w8a8": Family(8, 8, DECODE, (False,), WITHOUT_CORES, Sums.FLOAT32),
    "prefill_w4a16": Family(4, 16, PREFILL, (False, True), WITH_CORES, Sums.TENSOR_CORES),
    "prefill_w8a16": Family(8, 16, PREFILL, (False, True), WITH_CORES, Sums.TENSOR_CORES),
    "prefill_w8a8": Family(8, 8, PREFILL, (False,), WITH_CORES, Sums.FLOAT32),
}
GROUPS = (32, 64, 128, 0)  # 0: a row
ODD_SHAPES = ((1, 1), (3, 5), (16, 64), (33, 129), (77, 1000), (1000, 77), (65, 256), (20, 8191))
LLAMA_SHAPES = ((2048, 2048), (512, 2048), (8192, 2048), (2048, 8192))


class Case(NamedTuple):
    """One product."""

    name: str
    weight: Weight
    m: int
    device: Device
    seed: int


def odd_cases(family: Family, shapes: tuple[tuple[int, int], ...] = ODD_SHAPES) -> Iterator[Case]:
    """Every shape, group and kind of zero point; rows, devices and orders of x in turns."""
    turns = cycle(product(family.rows, family.devices))
    kinds = product(shapes, GROUPS, family.zeros, (False, True))
    for seed, ((n, k), group, zeros, order) in enumerate(kinds):
        weight = random_weight(family.bits, n, k, group, zeros=zeros, order=order, seed=seed)
        for m, device in islice(turns, 2 if family.rows == DECODE else 1):
            name = f"{n}x{k} group {group} zeros {zeros} order {order} m {m} {device}"
            yield Case(name, weight, m, device, seed)


def small_cases(family: Family) -> Iterator[Case]:
    """A few products that go through every part of a kernel: for mutations, and with sanitizers."""
    kinds = product(((33, 129), (20, 1100)), (32, 128), family.zeros[-1:], family.rows[1::2])
    for seed, ((n, k), group, zeros, m) in enumerate(kinds):
        device = family.devices[seed % 2]
        weight = random_weight(
            family.bits, n, k, group, zeros=zeros, order=seed % 3 == 0, seed=seed
        )
        yield Case(f"{n}x{k} group {group} m {m} {device}", weight, m, device, seed)


def llama_cases(family: Family) -> Iterator[Case]:
    """Llama-3.2-1B's shapes. Prefill takes many rows of x, but not all of the weight's."""
    decodes = family.rows == DECODE
    for seed, (n, k) in enumerate(LLAMA_SHAPES):
        rows = n if decodes else min(n, 272)
        group = (128, 0)[family.bits == 8]
        weight = random_weight(
            family.bits, rows, k, group, zeros=family.zeros[-1], order=False, seed=seed
        )
        m = (1, 8, 1, 1)[seed] if decodes else (20, 64, 130, 16)[seed]
        yield Case(f"{n}x{k} m {m}", weight, m, TURING, seed)


CASES = {"odd": odd_cases, "small": small_cases, "llama": llama_cases}


def activations(m: int, k: int, seed: int) -> Any:
    """Normal values with outliers, as real activations have; the last of many rows is 0."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(m, k))
    x[:, rng.random(k) < 0.01] *= 20
    if m > 2:
        x[-1] = 0
    return x.astype(np.float16)


def failures(library: Library, kernel: str, case: Case) -> Iterator[str]:
    """What is wrong with one product, in words."""
    family, (name, weight, m, device, seed) = FAMILIES[kernel], case
    int8 = family.activations == 8
    # Rows 16-byte aligned and not, close together and not.
    placing = {"offset_bytes": (0, 2, 6)[seed % 3], "gap": (0, 3, 8)[seed % 3]}

    def run(on: Weight, x: Any, order: int) -> Any:
        options = placing | {"activations": family.activations}
        return library.multiply(kernel, on, x, device, seed=order, **options).y

    x = activations(m, weight.k, seed)
    y = run(weight, x, seed)
    for bound in bounds(weight, x, family.sums_on(device), int8=int8):
        if not bound.holds(y):
            yield f"{name}: {np.sum(~bound.near(y))} of {y.size} values are out of bounds"
    if weight.n * weight.k < 1 << 18 and not np.array_equal(
        run(weight, x, seed + 1000).view(np.uint16), y.view(np.uint16)
    ):
        yield f"{name}: another order of threads gives other bits"
    exact, x = equal_case(weight, m, seed, int8=int8)
    wrong = run(exact, x, seed) != exact.multiplied(x).astype(np.float16)
    if wrong.any():
        yield f"{name}: {wrong.sum()} of {wrong.size} values differ where sums are exact"


def sweep(library: Library, kernel: str, cases: str) -> dict[str, Any]:
    """All cases of a set with one kernel."""
    done, failed = 0, list[str]()
    for case in CASES[cases](FAMILIES[kernel]):
        try:
            failed += failures(library, kernel, case)
        except AssertionError as error:
            failed.append(f"{case.name}: {error}")
        done += 1
    return {"done": done, "failed": failed}


if __name__ == "__main__":
    path, of_kernel, of_cases = sys.argv[1:]
    json.dump(sweep(Library(Path(path)), of_kernel, of_cases), sys.stdout)
