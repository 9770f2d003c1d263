"""Every format and arithmetic of one instruction set against the float64 oracle, on odd shapes.

A program of its own, so that an illegal instruction is an ordinary failure: `SLLMBENCH_ISA=avx2
python tests/native_sweep.py`. Prints one JSON object: the ISA, the cases done, what failed.

Bounds, with u = 2^-24, T = |scale (code - zero)| + |offset| the terms of a weight, step = a block's
activation scale:

- exact: a float32 sum of k products, in any order: (k + 8) u sum |x| T
- int8, against the activations as quantised (by the same float32 operations in NumPy): blocks are
  exact in int32, so one rounding for each fold: (blocks + 8) u sum |x| T
- int8, against the true product: the same plus step / 2 for each activation: sum step / 2 |w|

At large k these let one wrong code bit pass, so some products are chosen to come out exactly, and
must be equal: see equal_case.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from sllmbench import _native
from sllmbench.formats import (
    FORMAT_NAMES,
    SUPER_LENGTH,
    QuantFormat,
    QuantTensor,
    matmul_float64,
    pack_nibbles,
    parse_format,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

BLOCK, LONG_GROUP_BLOCK = 128, 32  # as in csrc/formats.h
UNIT = 2.0**-24
SMALLEST = 1e-30  # the int8 kernels take smaller activations for 0
GUARD = 64
SENTINEL = np.float32(12345.5)

FORMATS = [
    *(parse_format(name) for name in FORMAT_NAMES),
    QuantFormat("groups of 20", 4, 20, "zero_point"),
    QuantFormat("groups of 7", 4, 7, "minimum"),
    QuantFormat("groups of 200", 4, 200),
    *(parse_format(name) for name in ("int2-g32", "int2-row-asym", "int3-g20-asym", "int3-g200")),
    QuantFormat("8 bits, groups of 6", 8, 6),
    QuantFormat("8 bits, groups of 130", 8, 130),
    QuantFormat("5 bits, groups of 20", 5, 20, "zero_point"),
    QuantFormat("5 bits, groups of 200", 5, 200, "minimum"),
    QuantFormat("6 bits, groups of 7", 6, 7),
    QuantFormat("two levels, groups of 8", 5, 8, two_level=True),
    QuantFormat("two levels, groups of 64", 8, 64, two_level=True),
    QuantFormat("two levels, groups of 256", 4, 256, "minimum", two_level=True),
]
ORDERED = [
    parse_format(name)
    for name in ("int3-g64", "int4-g32", "int4-g128-asym", "int4-row", "int8-g128")
]
SHAPES = [(1, 1), (3, 5), (33, 77), (31, 129), (77, 1000), (1000, 77), (65, 256)]
ROWS = [1, 2, 3, 4, 5, 8, 17, 33, 128]
REAL_SHAPE, REAL_ROWS = (576, 1536), [1, 4, 33, 128]
EQUAL_SHAPES, EQUAL_ROWS = [(576, 1536), (77, 1000)], [1, 2, 3, 4, 7, 14]


class Bounds(NamedTuple):
    """What a result is held against: [m, n] references and the errors they allow."""

    reference: NDArray[np.float64]
    allowed: NDArray[np.float64]


def columns(fmt: QuantFormat, k: int) -> int:
    """The smallest number of columns from ``k`` on that the format can have."""
    return -(-k // SUPER_LENGTH) * SUPER_LENGTH if fmt.two_level else k


def make_weight(
    fmt: QuantFormat, n: int, k: int, seed: int = 0, extreme: bool = False
) -> QuantTensor:
    rng = np.random.default_rng(seed)
    groups = fmt.groups(k)
    low, high = (-128, 128) if fmt.bits == 8 else (0, 1 << fmt.bits)
    codes: NDArray[Any] = rng.integers(low, high, (n, k))
    if extreme:
        codes = np.where(rng.random((n, k)) < 0.5, low, high - 1)
    stored = codes.astype(np.int8 if fmt.bits == 8 else np.uint8)
    packed = pack_nibbles(stored) if fmt.bits == 4 else stored
    if fmt.two_level:
        return QuantTensor(fmt, n, k, packed, **two_level_scales(fmt, n, k, rng))
    scales = (rng.uniform(0.5, 2.0, (n, groups)) / 64 * rng.choice([-1, 1], (n, groups))).astype(
        np.float16
    )
    offsets: NDArray[Any] | None = None
    if fmt.offset == "zero_point":
        offsets = rng.integers(0, 256, (n, groups)).astype(np.uint8)
    elif fmt.offset == "minimum":
        offsets = (rng.normal(size=(n, groups)) / 8).astype(np.float16)
    return QuantTensor(fmt, n, k, packed, scales, offsets)


def two_level_scales(
    fmt: QuantFormat, n: int, k: int, rng: np.random.Generator
) -> dict[str, NDArray[Any]]:
    """Factors of their whole range and super scales of about 2^-10, of both signs."""
    groups, supers = (n, fmt.groups(k)), (n, fmt.super_groups(k))
    end = fmt.factor_max + 1
    if fmt.offset == "symmetric":
        factors = {"scales": rng.integers(-end, end, groups).astype(np.int8)}
    else:
        factors = {
            "scales": rng.integers(0, end, groups).astype(np.int8),
            "offsets": rng.integers(0, end, groups).astype(np.uint8),
            "super_minima": (rng.normal(size=supers) / 256).astype(np.float16),
        }
    return factors | {"super_scales": (rng.normal(size=supers) / 1024).astype(np.float16)}


def shuffled(weight: QuantTensor, seed: int = 0) -> QuantTensor:
    """The weight with columns that belong to input channels in random order."""
    order = np.random.default_rng(seed).permutation(weight.k).astype(np.int32)
    return replace(weight, order=order)


def in_stored_order(
    x: NDArray[np.float32], weight: QuantTensor
) -> tuple[NDArray[np.float32], QuantTensor]:
    """The same product with the activations sorted as the codes are."""
    if weight.order is None:
        return x, weight
    return x[:, weight.order], replace(weight, order=None)


def weight_terms(weight: QuantTensor) -> NDArray[np.float64]:
    """T of the module's docstring, [n, k], columns as they are stored."""
    k, fmt = weight.k, weight.format
    scales, added = (
        np.repeat(part, fmt.group_length(k), axis=1)[:, :k] for part in weight.group_terms()
    )
    codes = weight.plain_codes().astype(np.float64)
    if weight.offsets is None:
        return np.abs(scales * (codes - fmt.zero))
    return np.abs(scales * codes) + np.abs(added)


def constant_weight(fmt: QuantFormat, n: int, k: int, code: int) -> QuantTensor:
    """Every code the same, offsets 0: nothing cancels, the sums are as large as they can be."""
    weight = make_weight(fmt, n, k)
    filled = np.full_like(weight.codes, 17 * code if fmt.bits == 4 else code)
    offsets = None if weight.offsets is None else np.zeros_like(weight.offsets)
    return replace(weight, codes=filled, offsets=offsets)


def subnormal_scales(weight: QuantTensor) -> QuantTensor:
    """The weight with scales (and minima) that are subnormal in float16, or 0."""
    rng = np.random.default_rng(7)
    two_level = weight.format.two_level
    scales = "super_scales" if two_level else "scales"
    magnitudes = rng.integers(0, 1024, getattr(weight, scales).shape).astype(np.uint16)
    magnitudes[rng.random(magnitudes.shape) < 0.25] = 0
    magnitudes |= rng.choice(np.array([0, 0x8000], np.uint16), magnitudes.shape)
    changed = {scales: magnitudes.view(np.float16)}
    if weight.format.offset == "minimum":
        minima = "super_minima" if two_level else "offsets"
        changed[minima] = np.ascontiguousarray(magnitudes[::-1]).view(np.float16)
    return replace(weight, **changed)  # type: ignore[arg-type]


def equal_case(fmt: QuantFormat, n: int, k: int) -> tuple[QuantTensor, NDArray[np.float32]]:
    """Weights and activations whose product float32 holds exactly, whatever the order of the sums.

    Scales are powers of two, offsets and activations small integers, so every partial sum is a
    multiple of 1/2 far below 2^23. Every block has an activation of 127 or -127, which makes its
    int8 step 1.
    """
    rng = np.random.default_rng(11)
    k = columns(fmt, k)
    weight = make_weight(fmt, n, k)
    powers = np.array([-2, -1, -0.5, 0.5, 1, 2], np.float16)
    if fmt.two_level:
        # Factors are small: otherwise sums would grow beyond float32's 24 bits.
        changed: dict[str, Any] = {
            "scales": (weight.scales % 3 + 1).astype(np.int8),
            "super_scales": rng.choice(powers, (n, fmt.super_groups(k))),
        }
        if fmt.offset == "minimum":
            changed["super_minima"] = rng.choice(powers, (n, fmt.super_groups(k)))
    else:
        changed = {"scales": rng.choice(powers, weight.scales.shape)}
        if fmt.offset == "minimum":
            changed["offsets"] = rng.integers(-8, 9, weight.scales.shape).astype(np.float16)
    x = rng.choice(np.array([-3, -2, -1, 1, 2, 3], np.float32), (max(EQUAL_ROWS), k))
    for block in blocks(fmt, k):
        x[:, block.start] = rng.choice(np.array([-127, 127], np.float32), len(x))
    return replace(weight, **changed), x


def equal_bounds(x: NDArray[np.float32], weight: QuantTensor) -> list[Bounds]:
    true = matmul_float64(x, weight)
    return [Bounds(true, np.zeros_like(true))]


def blocks(fmt: QuantFormat, k: int) -> Iterator[slice]:
    """Where activations share a scale: in a group, a long one cut finer."""
    length = fmt.group_length(k)
    for start in range(0, k, length):
        end = min(start + length, k)
        step = LONG_GROUP_BLOCK if end - start > BLOCK else BLOCK
        for first in range(start, end, step):
            yield slice(first, min(first + step, end))


def quantised_activations(
    x: NDArray[np.float32], fmt: QuantFormat
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """x as int8 arithmetic sees it, and each value's step, both [m, k]."""
    seen, steps = np.zeros(x.shape), np.zeros(x.shape)
    for block in blocks(fmt, x.shape[1]):
        largest = np.abs(x[:, block]).max(axis=1, keepdims=True)
        counts = largest > np.float32(SMALLEST)
        inverse = np.where(counts, np.float32(127) / np.where(counts, largest, 1), 0)
        scale = largest / np.float32(127)
        codes = np.rint(x[:, block] * inverse.astype(np.float32))
        seen[:, block] = codes.astype(np.float64) * scale
        steps[:, block] = scale
    return seen, steps


def bounds(x: NDArray[np.float32], weight: QuantTensor, arithmetic: str) -> list[Bounds]:
    x, weight = in_stored_order(x, weight)
    terms = weight_terms(weight)
    tiny = SMALLEST * terms.sum(axis=1)
    true = matmul_float64(x, weight)
    if arithmetic == "exact":
        return [Bounds(true, (weight.k + 8) * UNIT * (np.abs(x) @ terms.T) + tiny)]
    seen, steps = quantised_activations(x, weight.format)
    folds = len(list(blocks(weight.format, weight.k))) + 8
    rounding = folds * UNIT * (np.abs(seen) @ terms.T) + tiny
    weights = np.abs(weight._values())
    # 1 + 2^-12: the product with the rounded 127 / amax can pass a half by 127 * 2u.
    quantising = steps / 2 * (1 + 2.0**-12) @ weights.T
    return [
        Bounds(matmul_float64(seen, weight), rounding),
        Bounds(true, rounding + quantising),
    ]


def within(out: NDArray[np.float32], bound: Bounds) -> bool:
    """Whether every value is near enough; a NaN is not."""
    return bool((np.abs(out - bound.reference) <= bound.allowed).all())


def misaligned(shape: tuple[int, int], fill: float) -> tuple[NDArray[np.float32], Any]:
    """A float32 array one byte off, and the buffer around it: GUARD sentinels on both sides."""
    count = shape[0] * shape[1]
    raw = np.zeros(4 * (count + 2 * GUARD) + 1, np.uint8)
    around = raw[1:].view(np.float32)
    around[:] = SENTINEL
    inner = around[GUARD : GUARD + count]
    inner[:] = fill
    return inner.reshape(shape), around


def multiply(
    x: NDArray[np.float32], weight: QuantTensor, arithmetic: str, **options: Any
) -> tuple[NDArray[np.float32], tuple[str, str]]:
    """Call the kernel on misaligned arrays, out full of NaN, NaN around x; check the guards."""
    out, around_out = misaligned((x.shape[0], weight.n), float("nan"))
    given, around_x = misaligned((x.shape[0], x.shape[1]), 0.0)
    around_x[:GUARD] = around_x[-GUARD:] = np.nan
    given[:] = x
    ran = _native.matmul(given, weight.native, out, arithmetic=arithmetic, **options)  # type: ignore[arg-type]
    if not ((around_out[:GUARD] == SENTINEL).all() and (around_out[-GUARD:] == SENTINEL).all()):
        raise AssertionError("wrote outside out")
    return np.array(out), ran


def expected_kernel(isa: str, arithmetic: str, m: int) -> tuple[str, str]:
    """The kernel that runs on a level, and whose it is: some levels borrow another's."""
    if arithmetic == "exact":
        isa = {"avx512_vnni": "avx512", "amx_int8": "avx512"}.get(isa, isa)
    elif m <= 4 and isa == "amx_int8":
        isa = "avx512_vnni"
    return ("fused-gemv" if m <= 4 else "fused-gemm"), isa


def check(
    x: NDArray[np.float32],
    weight: QuantTensor,
    arithmetic: str,
    rows: list[int],
    limits: list[Bounds],
) -> list[int]:
    """Multiply the first m rows of x for each m of ``rows``; return the m that failed."""
    failed = []
    for m in rows:
        out, ran = multiply(x[:m], weight, arithmetic)
        good = ran == expected_kernel(_native.active_isa(), arithmetic, m)
        for limit in limits:
            good = good and within(out, Bounds(limit.reference[:m], limit.allowed[:m]))
        if not good:
            failed.append(m)
    return failed


def activations(m: int, k: int, seed: int) -> NDArray[np.float32]:
    """Normal values with outliers, as real activations have, and a few rows of special sizes."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(m, k)).astype(np.float32)
    x[:, rng.random(k) < 0.01] *= 50
    if m > 3:
        x[1] *= np.float32(1e-37)
        x[2] = 0
        x[3] *= np.float32(1e30)
    return x


def cases() -> Iterator[tuple[str, QuantTensor, NDArray[np.float32], list[int]]]:
    for fmt in FORMATS:
        for seed, (n, k) in enumerate((n, columns(fmt, k)) for n, k in SHAPES):
            name = f"{fmt.name}, {n}x{k}"
            yield name, make_weight(fmt, n, k, seed), activations(max(ROWS), k, seed), ROWS
        n, k = REAL_SHAPE
        yield f"{fmt.name}, {n}x{k}", make_weight(fmt, n, k), activations(128, k, 9), REAL_ROWS
        # Nothing may saturate: largest codes times activations of one size.
        k = columns(fmt, 2100)
        signs = np.random.default_rng(5).choice(np.array([-1, 1], np.float32), (6, k))
        extreme = make_weight(fmt, 40, k, extreme=True)
        yield f"{fmt.name}, extreme values", extreme, signs, [1, 4, 6]
        # ... and without cancelling, which hides an overflow.
        for code in (127, -128) if fmt.bits == 8 else ((1 << fmt.bits) - 1,):
            for sign in (1, -1):
                full = constant_weight(fmt, 40, k, code)
                name = f"{fmt.name}, every code {code} times {sign}"
                yield name, full, np.full((6, k), sign, np.float32), [1, 2, 3, 4, 6]
        name, k = f"{fmt.name}, subnormal scales", columns(fmt, 300)
        yield name, subnormal_scales(make_weight(fmt, 77, k)), activations(7, k, 4), [1, 4, 7]
    for fmt in ORDERED:
        for seed, (n, k) in enumerate([*SHAPES, REAL_SHAPE]):
            weight = shuffled(make_weight(fmt, n, k, seed), seed)
            yield f"{fmt.name} in order, {n}x{k}", weight, activations(128, k, seed), REAL_ROWS
    # More rows than are prepared at once.
    yield "a long prompt", make_weight(FORMATS[0], 40, 72), activations(515, 72, 3), [512, 513, 515]


def main() -> None:
    done, failed = 0, []
    for name, weight, x, rows in cases():
        for arithmetic in ("exact", "int8"):
            limits = bounds(x, weight, arithmetic)
            wrong = check(x, weight, arithmetic, rows, limits)
            failed += [f"{name}, {arithmetic}, m={m}" for m in wrong]
            done += len(rows)
    for fmt in FORMATS:
        for n, k in EQUAL_SHAPES:
            weight, x = equal_case(fmt, n, k)
            for arithmetic in ("exact", "int8"):
                wrong = check(x, weight, arithmetic, EQUAL_ROWS, equal_bounds(x, weight))
                failed += [f"{fmt.name}, {n}x{k} to equal, {arithmetic}, m={m}" for m in wrong]
                done += len(EQUAL_ROWS)
    json.dump({"isa": _native.active_isa(), "done": done, "failed": failed}, sys.stdout)


if __name__ == "__main__":
    main()
