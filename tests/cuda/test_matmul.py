"""Every kernel against the float64 oracle, on the CPU, within what its arithmetic allows."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from shim.bounds import Bound, Sums, bounds, equal_case
from shim.library import Device, Library, Refused
from shim.sweep import FAMILIES, activations, failures, small_cases
from shim.weights import random_weight, tiles

if TYPE_CHECKING:
    from collections.abc import Callable

    from shim.build import Build

    Failures = Callable[[Build, str, str], list[str]]

pytestmark = pytest.mark.slow  # g++ takes a minute over the kernels


@pytest.mark.parametrize("cases", ["small", "odd", "llama"])
@pytest.mark.parametrize("kernel", FAMILIES)
def test_products_are_those_of_the_oracle(
    plain_build: Build, failures_of: Failures, kernel: str, cases: str
) -> None:
    assert failures_of(plain_build, kernel, cases) == []


@pytest.mark.parametrize("kernel", FAMILIES)
def test_no_kernel_does_what_is_undefined(
    sanitized_build: Build, failures_of: Failures, kernel: str
) -> None:
    assert failures_of(sanitized_build, kernel, "small") == []


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"m": 9}, "decode kernels multiply 1 to 8 rows"),
        ({"group": 48}, "groups of 32, 64, 128 or a whole row"),
        ({"bits": 8}, "4-bit weights only"),
        ({"sm": 70}, "compute capability 7.5"),
    ],
)
def test_what_a_kernel_does_not_multiply_it_refuses(
    library: Library, change: dict[str, int], says: str
) -> None:
    given = {"m": 1, "group": 32, "bits": 4, "sm": 75} | change
    weight = random_weight(given["bits"], 16, 192, given["group"], zeros=False, order=False, seed=0)
    x = activations(given["m"], 192, 0)
    with pytest.raises(Refused, match=says):
        library.multiply("decode_w4a16", weight, x, Device(given["sm"]))


@pytest.mark.parametrize("kernel", FAMILIES)
def test_a_launch_that_fails_is_told(library: Library, kernel: str) -> None:
    """Whichever of a product's launches it is: gathering, multiplying or adding shares of k."""
    family = FAMILIES[kernel]
    weight = random_weight(family.bits, 20, 1100, 128, zeros=False, order=True, seed=0)
    x = activations(3, 1100, 0)
    options = {"activations": family.activations}
    launched = library.multiply(kernel, weight, x, Device(), **options).launches
    assert len(launched) >= 2
    for n in range(len(launched)):
        library.calls.host_fail_launch(n, 719)
        with pytest.raises(AssertionError, match="status 719"):
            library.multiply(kernel, weight, x, Device(), **options)
        assert len(library.launches()) == n  # and nothing is launched after it
    library.multiply(kernel, weight, x, Device(), **options)


# What the checks above rest on: that they can fail.


@pytest.mark.parametrize("kernel", FAMILIES)
def test_one_wrong_bit_of_a_code_is_seen(library: Library, kernel: str) -> None:
    """The kernel multiplies with one weight, the oracle with another: the exact case must tell."""
    family = FAMILIES[kernel]
    int8 = family.activations == 8
    weight = random_weight(family.bits, 20, 1100, 128, zeros=False, order=False, seed=0)
    weight, x = equal_case(weight, 8, 0, int8=int8)
    codes = weight.codes.copy()
    row, column = 13, int(np.flatnonzero((np.abs(x) == 1).any(axis=0))[-1])
    codes[row, column] ^= 1
    y = library.multiply(kernel, weight, x, Device(), activations=family.activations).y
    right, wrong = weight.multiplied(x), replace(weight, codes=codes).multiplied(x)
    assert np.array_equal(y, right.astype(np.float16))
    assert not np.array_equal(y, wrong.astype(np.float16))


def test_a_wrong_scale_breaks_the_bound() -> None:
    weight = random_weight(4, 33, 512, 32, zeros=True, order=True, seed=0)
    x = activations(5, 512, 0)
    scales = weight.scales.copy()
    scales[7, 3] *= np.float16(1.5)
    y = replace(weight, scales=scales).multiplied(x).astype(np.float16)
    for sums in Sums:
        (bound,) = bounds(weight, x, sums, int8=False)
        assert bound.holds(weight.multiplied(x).astype(np.float16))
        assert not bound.near(y)[:, 7].all()
        assert np.delete(bound.near(y), 7, axis=1).all()


def test_a_nan_is_never_near() -> None:
    bound = Bound(np.zeros((1, 1)), np.full((1, 1), np.inf))
    assert bound.holds(np.float16([[65504]]))
    assert not bound.holds(np.float16([[np.nan]]))


def test_a_write_outside_of_an_array_is_seen(library: Library) -> None:
    from shim.library import Memory

    memory = Memory(library)
    out = memory.place(np.zeros(7, np.uint8), read_only=False)
    given = memory.place(np.zeros(7, np.uint8))
    memory.check()
    out.guards[1][0] = 0
    with pytest.raises(AssertionError, match="outside of its arrays"):
        memory.check()
    out.guards[1][0] = 0xFF
    given.view[3] = 1
    with pytest.raises(AssertionError, match="into its inputs"):
        memory.check()


def test_small_cases_reach_every_way_through_a_kernel() -> None:
    """More than one span, a rest, shares of k, gathered x: as sizes say, for the sanitizers."""
    for family in FAMILIES.values():
        cases = list(small_cases(family))
        assert {case.weight.k % 128 for case in cases} == {1, 1100 % 128}
        assert {case.m for case in cases} == set(family.rows[1::2])
        assert len({case.device for case in cases}) == 2
        assert any(case.weight.order is not None for case in cases)


def test_tiles_are_laid_as_the_header_says() -> None:
    """Words of the comment in ``csrc/cuda/layouts.h``, one by one."""
    weight = random_weight(4, 16, 64, 64, zeros=False, order=False, seed=0)
    words = tiles(weight).view(np.uint32).reshape(32, 4)
    for r in range(8):
        for q in range(4):
            lane = words[4 * r + q]
            for word, (row, first) in enumerate(
                [(r, 16 * q), (r, 16 * q + 8), (r + 8, 16 * q), (r + 8, 16 * q + 8)]
            ):
                for nibble, k in enumerate((0, 2, 4, 6, 1, 3, 5, 7)):
                    assert lane[word] >> 4 * nibble & 15 == weight.codes[row, first + k]
    weight = random_weight(8, 16, 32, 32, zeros=False, order=False, seed=0)
    lanes = tiles(weight).view(np.int8).reshape(32, 2, 8)
    for r in range(8):
        for q in range(4):
            for upper in range(2):
                expected = weight.codes[r + 8 * upper, 8 * q : 8 * q + 8]
                assert np.array_equal(lanes[4 * r + q, upper], expected)


def test_failures_are_told_by_the_case(library: Library) -> None:
    """A product with the bound of another arithmetic: the sweep's own checks speak up."""
    family = FAMILIES["decode_w4a16"]
    case = next(small_cases(family))
    assert list(failures(library, "decode_w4a16", case)) == []
    scales = case.weight.scales * np.float16(1.25)
    other = replace(case.weight, scales=scales)

    class Lying(Library):
        def multiply(self, kernel, weight, x, device, **options):  # type: ignore[no-untyped-def]
            return library.multiply(kernel, other, x, device, **options)

    said = list(failures(Lying.__new__(Lying), "decode_w4a16", case))
    assert any("out of bounds" in line for line in said)
    assert any("sums are exact" in line for line in said)
