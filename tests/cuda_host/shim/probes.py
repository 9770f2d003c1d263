"""Inputs of ``probes.cu`` that cover an instruction, the hard numbers first."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from shim import fragments

HARD_HALVES = np.array(
    [
        *(0x0000, 0x8000, 0x0001, 0x8001, 0x03FF, 0x0400, 0x8400, 0x3C00, 0xBC00, 0x3C01),
        *(0x7BFF, 0xFBFF, 0x7C00, 0xFC00, 0x7E00, 0x4C00, 0x6400, 0x1400, 0x2C00, 0x3555),
    ],
    np.uint16,
)


class Probe(NamedTuple):
    """A kernel's name, how many blocks of a warp, its words, and how many it gives."""

    name: str
    blocks: int
    words: tuple[Any, Any, Any]
    given: int


def truth_tables() -> Probe:
    """All eight combinations of three bits in a word, 31 random words."""
    rng = np.random.default_rng(0)
    a, b, c = rng.integers(0, 1 << 32, (3, 32), np.uint32)
    a[0], b[0], c[0] = 0xF0, 0xCC, 0xAA
    return Probe("probe_lop3", 1, (a, b, c), 256 * 32)


def halves() -> Probe:
    """Each hard half with each other and a third; then random bits, and near cancellations."""
    rng = np.random.default_rng(1)
    count = len(HARD_HALVES)
    a, b, c = (
        part.reshape(-1)
        for part in np.broadcast_arrays(
            HARD_HALVES[:, None, None], HARD_HALVES[:, None], HARD_HALVES
        )
    )
    more = rng.integers(0, 1 << 16, (3, 32 * 512), np.uint16)
    # c close to -a b: what a product's low bits decide.
    near = rng.normal(size=(2, 32 * 256)).astype(np.float16)
    product = -(near[0].astype(np.float64) * near[1]).astype(np.float16)
    a = np.concatenate([a, more[0], near[0].view(np.uint16)])
    b = np.concatenate([b, more[1], near[1].view(np.uint16)])
    c = np.concatenate([c, more[2], product.view(np.uint16)])
    pad = -len(a) % 64
    assert count**3 + 32 * 768 == len(a)
    words = [np.ascontiguousarray(np.pad(part, (0, pad))).view(np.uint32) for part in (a, b, c)]
    return Probe("probe_half", len(words[0]) // 32, tuple(words), 4 * len(words[0]))


def conversions() -> Probe:
    """Every half; floats of any size, at ties of halves and beside them; floats near integers."""
    rng = np.random.default_rng(2)
    every = np.arange(1 << 16, dtype=np.uint32)
    finite = every.astype(np.uint16).view(np.float16).astype(np.float32)
    with np.errstate(invalid="ignore", over="ignore"):
        above = np.nextafter(finite.astype(np.float16), np.float16(np.inf))
        between = above.astype(np.float32)
        ties = ((finite.astype(np.float64) + between) / 2).astype(np.float32)
        floats = np.where(every % 3 == 0, ties, np.nextafter(ties, np.float32(0)))
        floats = np.where(every % 3 == 1, np.nextafter(ties, np.float32(np.inf)), floats)
    wide = rng.integers(0, 1 << 32, 1 << 16, np.uint32)
    floats = np.where(every % 16 == 15, wide.view(np.float32), floats).astype(np.float32)
    integers = (rng.integers(-300, 300, 1 << 16) / 2).astype(np.float32)
    integers[::64] = wide[::64].view(np.float32)
    words = (floats.view(np.uint32), every, integers.view(np.uint32))
    return Probe("probe_convert", (1 << 16) // 32, words, 3 << 16)


def random_words() -> Probe:
    """Bytes of every kind; a third of the floats are of usual sizes."""
    rng = np.random.default_rng(3)
    words = rng.integers(0, 1 << 32, (3, 32 * 64), np.uint32)
    words[:, ::3] = rng.normal(size=words[:, ::3].shape).astype(np.float32).view(np.uint32)
    words[:, 0] = 0x80808080
    return Probe("probe_words", 64, (words[0], words[1], words[2]), 4 * 32 * 64)


def copies() -> Probe:
    """Two groups of copies; a third of the second are not valid."""
    rng = np.random.default_rng(4)
    a, b = rng.integers(0, 1 << 32, (2, 4 * 32 * 4), np.uint32)
    return Probe("probe_copy_async", 4, (a, b, np.arange(32 * 4) % 3), 12 * 32 * 4)


def one_hot(rows: int, inner: int, columns: int) -> tuple[Any, Any]:
    """A [tiles, rows, inner] and B [tiles, inner, columns]: each element with each other."""
    left, right = rows * inner, inner * columns
    a = np.zeros((left, right, left))
    b = np.zeros((left, right, right))
    a[np.arange(left), :, np.arange(left)] = 1
    b[:, np.arange(right), np.arange(right)] = 1
    return a.reshape(-1, rows, inner), b.reshape(-1, inner, columns)


def halves_product(a: Any, b: Any, c: Any) -> Probe:
    """Tiles [16, 8] times [8, 8] plus [16, 8], in halves."""
    words = (fragments.a_m16n8k8(a), fragments.b_m16n8k8(b), fragments.c_m16n8k8(c))
    return Probe("probe_mma_f16", len(a), words, 64 * len(a))


def floats_product(a: Any, b: Any, c: Any) -> Probe:
    """The same with c in float32."""
    words = (fragments.a_m16n8k8(a), fragments.b_m16n8k8(b), fragments.c_m16n8k8_floats(c))
    return Probe("probe_mma_f32", len(a), words, 128 * len(a))


def bytes_product(a: Any, b: Any, c: Any) -> Probe:
    """Tiles [8, 16] times [16, 8] plus [8, 8], int8 into int32."""
    words = (fragments.a_m8n8k16(a), fragments.b_m8n8k16(b), fragments.c_m8n8k16(c))
    return Probe("probe_mma_s8", len(a), words, 64 * len(a))


def numbers(tiles: int, *, seed: int) -> tuple[Any, Any, Any]:
    """Halves of sizes that make every sum round: some tiles of one size, some of all."""
    rng = np.random.default_rng(seed)
    exponents = rng.integers(-10, 8, (3, tiles, 1, 1)) * (np.arange(tiles) % 2)[:, None, None]
    a, b, c = (
        np.ldexp(rng.normal(size=(tiles, rows, columns)), exponents[i])
        for i, (rows, columns) in enumerate([(16, 8), (8, 8), (16, 8)])
    )
    # Magnitudes within a tile differ too, up to subnormal products.
    a *= np.exp2(rng.integers(-12, 1, a.shape)) ** (np.arange(tiles) % 3 == 0)[:, None, None]
    return tuple(part.astype(np.float16).astype(np.float64) for part in (a, b, c))  # type: ignore[return-value]
