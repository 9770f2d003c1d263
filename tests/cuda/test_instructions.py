"""The CPU's models of single instructions, against what NVIDIA documents of them."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from shim import fragments, probes
from shim.exact import FLOAT, HALF, rounded, scaled

if TYPE_CHECKING:
    from shim.build import Build
    from shim.library import Library
    from shim.probes import Probe

pytestmark = pytest.mark.slow  # g++ takes a minute over the kernels
NAN = 0x7FFF


def run(library: Library, probe: Probe) -> Any:
    return library.probe(*probe).y


def test_lop3_looks_up_every_truth_table(library: Library) -> None:
    probe = probes.truth_tables()
    d = run(library, probe).reshape(32, 256)
    assert np.array_equal(d[0] & 0xFF, np.arange(256))  # of 0xf0, 0xcc, 0xaa a table is itself
    a, b, c = probe.words
    bits = np.arange(32, dtype=np.uint32)
    which = (a[:, None] >> bits & 1) * 4 + (b[:, None] >> bits & 1) * 2 + (c[:, None] >> bits & 1)
    for table in range(256):
        expected = ((table >> which & 1) << bits).sum(axis=1)
        assert np.array_equal(d[:, table], expected)


def test_halves_round_once(library: Library) -> None:
    probe = probes.halves()
    a, b, c = (part.view(np.float16).astype(np.float64) for part in probe.words)
    d = run(library, probe).reshape(-1, 4)
    with np.errstate(invalid="ignore", over="ignore"):
        # 53 bits hold a product and its sum with c wherever that is near a tie.
        expected = [a + b, a - b, a * b, a * b + c]
    for i, values in enumerate(expected):
        got = np.ascontiguousarray(d[:, i]).view(np.uint16)
        with np.errstate(over="ignore"):
            halves = values.astype(np.float16).view(np.uint16)
        assert np.array_equal(got, np.where(np.isnan(values), NAN, halves))


def test_a_fused_product_is_exact_before_it_rounds(library: Library) -> None:
    """By integers, where float64 might have rounded first."""
    probe = probes.halves()
    d = run(library, probe).reshape(-1, 4)[:, 3]
    got = np.ascontiguousarray(d).view(np.float16)
    a, b, c = (part.view(np.float16) for part in probe.words)
    finite = np.flatnonzero(np.isfinite(a) & np.isfinite(b) & np.isfinite(c))
    for i in finite[::3]:
        x, y, z = (scaled(float(part[i]), -24) for part in (a, b, c))
        assert float(got[i]) == rounded(x * y + (z << 24), -48, HALF)


def test_conversions_round_to_even(library: Library) -> None:
    probe = probes.conversions()
    floats, every, integers = probe.words
    d = run(library, probe).reshape(-1, 3)
    with np.errstate(over="ignore", invalid="ignore"):
        halves = floats.view(np.float32).astype(np.float16)
        values = np.rint(integers.view(np.float32).astype(np.float64))
    expected = np.where(np.isnan(halves), NAN, halves.view(np.uint16))
    assert np.array_equal(d[:, 0], expected)
    wide = every.astype(np.uint16).view(np.float16).astype(np.float32)
    got = np.ascontiguousarray(d[:, 1]).view(np.float32)
    assert np.array_equal(got, wide, equal_nan=True)
    assert np.array_equal(np.signbit(got), np.signbit(wide))
    whole = np.clip(np.nan_to_num(values, nan=0), -(2**31), 2**31 - 1).astype(np.int64)
    assert np.array_equal(d[:, 2].view(np.int32), whole)


def test_words(library: Library) -> None:
    probe = probes.random_words()
    a, b, c = probe.words
    d = run(library, probe).reshape(-1, 4)
    left, right = (part.view(np.int8).reshape(-1, 4).astype(np.int64) for part in (a, b))
    sums = (left * right).sum(axis=1) + c.view(np.int32)
    assert np.array_equal(d[:, 0].view(np.int32), sums.astype(np.int32))
    both = a.astype(np.uint64) | b.astype(np.uint64) << np.uint64(32)
    for i in range(4):
        chosen = (c >> 4 * i & 7).astype(np.uint64)
        assert np.array_equal(d[:, 1] >> 8 * i & 0xFF, both >> 8 * chosen & np.uint64(0xFF))
    for x, y, z, got in zip(*(p.view(np.float32) for p in (a, b, c, d[:, 2].copy())), strict=True):
        if np.isfinite([x, y, z]).all():
            terms = [scaled(float(value), -149) for value in (x, y, z)]
            assert float(got) == rounded(terms[0] * terms[1] + (terms[2] << 149), -298, FLOAT)
    assert np.array_equal(d[:, 3].reshape(-1, 32), a.reshape(-1, 32)[:, np.arange(32) ^ 5])


@pytest.mark.parametrize("product", ["halves", "floats"])
def test_mma_m16n8k8_meets_each_element_with_each(library: Library, product: str) -> None:
    """A 1 in A and a 1 in B, everywhere: their product and nothing else, where it belongs."""
    a, b = probes.one_hot(16, 8, 8)
    if product == "halves":
        d = run(library, probes.halves_product(a, b, np.zeros((len(a), 16, 8))))
        assert np.array_equal(d.reshape(-1, 32, 2), fragments.c_m16n8k8(a @ b))
    else:
        d = run(library, probes.floats_product(a, b, np.zeros((len(a), 16, 8))))
        assert np.array_equal(d.reshape(-1, 32, 4), fragments.c_m16n8k8_floats(a @ b))


def test_mma_m8n8k16_meets_each_element_with_each(library: Library) -> None:
    a, b = probes.one_hot(8, 16, 8)
    d = run(library, probes.bytes_product(a, b, np.zeros((len(a), 8, 8))))
    assert np.array_equal(d.reshape(-1, 32, 2), fragments.c_m8n8k16(a @ b))


def test_mma_adds_c_where_it_lies(library: Library) -> None:
    c = np.arange(128.0).reshape(1, 16, 8)
    a, b = np.zeros((1, 16, 8)), np.zeros((1, 8, 8))
    d = run(library, probes.halves_product(a, b, c))
    assert np.array_equal(d.reshape(1, 32, 2), fragments.c_m16n8k8(c))
    d = run(library, probes.floats_product(a, b, c))
    assert np.array_equal(d.reshape(1, 32, 4), fragments.c_m16n8k8_floats(c))


def test_mma_of_halves_rounds_once(library: Library) -> None:
    a, b, c = probes.numbers(12, seed=5)
    exact = _exact_products(a, b, c)
    halves = np.vectorize(lambda value: rounded(value, -48, HALF))(exact)
    d = run(library, probes.halves_product(a, b, c)).reshape(-1, 32, 2)
    assert np.array_equal(d, fragments.c_m16n8k8(halves))
    floats = np.vectorize(lambda value: rounded(value, -48, FLOAT))(exact)
    d = run(library, probes.floats_product(a, b, c)).reshape(-1, 32, 4)
    assert np.array_equal(d, fragments.c_m16n8k8_floats(floats))
    assert (halves != exact.astype(np.float64) * 2.0**-48).mean() > 0.5  # it was put to the test


def _exact_products(a: Any, b: Any, c: Any) -> Any:
    """Integers in units of 2^-48."""
    whole = [np.vectorize(lambda v: scaled(v, -24), otypes=[object])(part) for part in (a, b, c)]
    return np.stack([x @ y + (z << 24) for x, y, z in zip(*whole, strict=True)])


def test_mma_of_floats_rounds_once_beside_any_c(library: Library) -> None:
    """c far above and far below the products: bits that three doubles must not lose."""
    a, b, _ = probes.numbers(12, seed=6)
    rng = np.random.default_rng(6)
    c = np.ldexp(rng.normal(size=(12, 16, 8)), rng.integers(-60, 50, (12, 16, 8)))
    c = c.astype(np.float32).astype(np.float64)
    whole = [np.vectorize(lambda v: scaled(v, -24), otypes=[object])(part) for part in (a, b)]
    added = np.vectorize(lambda v: scaled(v, -149), otypes=[object])(c)
    exact = np.stack([(x @ y << 101) + z for x, y, z in zip(*whole, added, strict=True)])
    expected = np.vectorize(lambda value: rounded(value, -149, FLOAT))(exact)
    d = run(library, probes.floats_product(a, b, c)).reshape(-1, 32, 4)
    assert np.array_equal(d, fragments.c_m16n8k8_floats(expected))


def test_mma_of_bytes_wraps(library: Library) -> None:
    rng = np.random.default_rng(7)
    a, b = rng.integers(-128, 128, (9, 8, 16)), rng.integers(-128, 128, (9, 16, 8))
    c = rng.integers(-(2**31), 2**31, (9, 8, 8))
    d = run(library, probes.bytes_product(a, b, c)).reshape(-1, 32, 2)
    assert np.array_equal(d, fragments.c_m8n8k16((a @ b + c).astype(np.int32)))


def test_copies_land_when_they_are_waited_for(library: Library) -> None:
    probe = probes.copies()
    a, b, valid = (np.asarray(part) for part in probe.words)
    d = run(library, probe).reshape(-1, 3, 4)
    assert np.array_equal(d[:, 0], a.reshape(-1, 4))
    assert np.array_equal(d[:, 1], a.reshape(-1, 4))
    assert np.array_equal(d[:, 2], np.where(valid[:, None] != 0, b.reshape(-1, 4), 0))


def test_before_they_are_waited_for_there_is_garbage(library: Library) -> None:
    a = np.arange(4 * 32, dtype=np.uint32)
    d = library.probe("probe_no_wait", 1, (a, a, a), 4 * 32).y
    assert (d == 0xFFFFFFFF).all()


def test_shared_memory_is_garbage_in_each_block(library: Library) -> None:
    nothing = np.zeros(1, np.uint32)
    d = library.probe("probe_unwritten", 16, (nothing,) * 3, 32 * 16).y
    assert set(d) == {0xFFFFFFFF, 0x7F7F7F7F}  # nobody's 7


@pytest.mark.parametrize(
    ("misuse", "says"),
    [
        ("misuse_barrier", "deadlock"),
        ("misuse_barriers", "different barriers"),
        ("misuse_mask", "different masks"),
        ("misuse_source", "a lane outside of the mask"),
        ("misuse_place", "at different places"),
        ("misuse_ended_lane", "ended"),
        ("misuse_alignment", "misaligned"),
        ("misuse_copy", "not inside of one shared array"),
    ],
)
def test_a_misuse_ends_the_process_with_its_place(
    plain_build: Build, misuse: str, says: str
) -> None:
    program = (
        "import sys, numpy as np; from shim.library import Library;"
        "words = np.zeros(1024, np.uint32);"
        "Library(sys.argv[1]).probe(sys.argv[2], 1, (words,) * 3, 1024, threads=64)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(plain_build.library), misuse],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == -6
    assert "cuda_host: " in done.stderr
    assert says in done.stderr
    assert misuse in done.stderr
    assert "probes.cu:" in done.stderr or "instructions.h:" in done.stderr
