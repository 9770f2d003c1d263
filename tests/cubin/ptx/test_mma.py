"""The tensor instructions, element by element, against integers and fractions."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from sllmbench.cubin.ptx import Fault

Array = NDArray[Any]
Rounded = Callable[..., float]
RNG = np.random.default_rng(9)
LANES = [(lane // 4, lane % 4) for lane in range(32)]


def run(launch: Any, code: str, sources: list[Array], results: int, before: str = "") -> Array:
    """One warp: a lane's registers %r0 .. are the sources' columns, the results are %r16 on."""
    count = 0
    loads = ""
    for number, source in enumerate(sources, 1):
        launch.buffer(np.ascontiguousarray(source).view(np.uint32))
        loads += f"mad.wide.u32 %rd0, %tid, {4 * source.shape[1]}, %rd{20 + number};"
        for column in range(source.shape[1]):
            loads += f"ld.global.u32 %r{count}, [%rd0+{4 * column}];"
            count += 1
    stores = "".join(f"st.global.u32 [%rd1+{4 * i}], %r{16 + i};" for i in range(results))
    launch.run(
        f"mov.u32 %tid, %tid.x; {loads} {before} {code} mad.wide.u32 %rd1, %tid, "
        f"{4 * results}, %rd20; {stores}"
    )
    return launch.read(0, np.uint32).reshape(32, results)


def pack(halves: Array) -> Array:
    """[32, 2 n] float16 as [32, n] words."""
    return np.ascontiguousarray(halves.astype(np.float16)).view(np.uint32)


def fragments_of(a: Array, b: Array, c: Array) -> tuple[Array, Array, Array]:
    """By the manual: lane 4g + t has rows g and g + 8 of a and c, columns 2t and 2t + 1."""

    def by_rows(m: Array) -> Array:
        return np.array([[m[r, 2 * t + i] for r in (g, g + 8) for i in (0, 1)] for g, t in LANES])

    return by_rows(a), np.array([[b[2 * t + i, g] for i in (0, 1)] for g, t in LANES]), by_rows(c)


F16 = """mma.sync.aligned.m16n8k8.row.col.f16.f16.f16.f16
    {%r16, %r17}, {%r0, %r1}, {%r2}, {%r3, %r4};"""
F32 = """mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32
    {%r16, %r17, %r18, %r19}, {%r0, %r1}, {%r2}, {%r3, %r4, %r5, %r6};"""
S8 = "mma.sync.aligned.m8n8k16.row.col.s32.s8.s8.s32 {%r16, %r17}, {%r0}, {%r1}, {%r2, %r3};"


def multiply(launch: Any, a: Array, b: Array, c: Array) -> Array:
    """a [16, 8] b [8, 8] + c in c's type."""
    a_words, b_words, c_words = fragments_of(a, b, c)
    wide = c.dtype == np.float32
    start = c_words.astype(np.float32).view(np.uint32) if wide else pack(c_words)
    code, results = (F32, 4) if wide else (F16, 2)
    words = run(
        launch_with_output(launch, results), code, [pack(a_words), pack(b_words), start], results
    )
    numbers = words.view(c.dtype).reshape(32, 4)
    d = np.zeros((16, 8), c.dtype)
    for lane, (g, t) in enumerate(LANES):
        d[g, 2 * t : 2 * t + 2], d[g + 8, 2 * t : 2 * t + 2] = numbers[lane, :2], numbers[lane, 2:]
    return d


def launch_with_output(launch: Any, results: int) -> Any:
    launch.buffer(np.zeros((32, results), np.uint32))
    return launch


def of_any_size(shape: tuple[int, ...]) -> Array:
    """Of all magnitudes that float16 has, so that sums cancel and small parts decide."""
    bits = RNG.integers(0, 2**16, shape, np.uint16)
    values = bits.view(np.float16)
    return np.where(np.isfinite(values), values, np.float16(1))


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("size", ["usual", "any"])
def test_float_products_are_rounded_once(
    dtype: Any, size: str, launch: Any, rounded: Rounded
) -> None:
    make = of_any_size if size == "any" else lambda shape: RNG.standard_normal(shape)
    for _ in range(4):
        a, b = make((16, 8)).astype(np.float16), make((8, 8)).astype(np.float16)
        c = make((16, 8)).astype(dtype)
        d = multiply(type(launch)(), a, b, c)
        for row in range(16):
            for column in range(8):
                exact = Fraction(float(c[row, column])) + sum(
                    Fraction(float(x)) * Fraction(float(y))
                    for x, y in zip(a[row], b[:, column], strict=True)
                )
                assert d[row, column] == rounded(exact, dtype), (row, column)


def test_nothing_is_lost_where_all_but_the_smallest_cancels(launch: Any) -> None:
    a, b, c = np.zeros((16, 8)), np.zeros((8, 8)), np.zeros((16, 8), np.float16)
    tiny = 2.0**-24  # the least that float16 has
    a[0, :3], b[:3, 0] = (65504, 65504, tiny), (65504, -65504, 1)
    # 32784 lies between two float16; 2**-48 more decides, and float64 has no room for it.
    a[1, :2], b[:2, 1], c[1, 1] = (1, tiny), (32768, tiny), 16
    d = multiply(launch, a, b, c)
    assert d[0, 0] == tiny
    assert d[1, 1] == 32800


def test_zeros_infinities_and_nan(launch: Any) -> None:
    a, b, c = np.ones((16, 8)), np.zeros((8, 8)), np.zeros((16, 8), np.float16)
    b[:, 0], c[:, 0] = -0.0, -0.0
    b[:, 1] = -0.0
    b[0, 2] = np.inf
    b[:2, 3] = np.inf, -np.inf
    b[0, 4], c[:, 4] = np.nan, 1
    b[:2, 5] = 1, -1
    b[:, 6] = 65504
    d = multiply(launch, a, b, c)[0]
    assert d[0] == 0
    assert np.signbit(d[0])
    assert d[1] == 0
    assert not np.signbit(d[1])
    assert d[2] == np.inf
    assert np.isnan(d[[3, 4]]).all()
    assert d[5] == 0
    assert not np.signbit(d[5])
    assert d[6] == np.inf


def test_products_of_bytes(launch: Any) -> None:
    a, b = RNG.integers(-128, 128, (8, 16)), RNG.integers(-128, 128, (16, 8))
    a[0], b[:, 0] = -128, -128
    c = RNG.integers(-(2**31), 2**31, (8, 8))
    a_words = np.array([[a[g, 4 * t + i] for i in range(4)] for g, t in LANES], np.int8)
    b_words = np.array([[b[4 * t + i, g] for i in range(4)] for g, t in LANES], np.int8)
    c_words = np.array([[c[g, 2 * t + i] for i in (0, 1)] for g, t in LANES], np.int32)
    words = run(
        launch_with_output(launch, 2),
        S8,
        [a_words.view(np.uint32), b_words.view(np.uint32), c_words.view(np.uint32)],
        2,
    )
    want = (a @ b + c).astype(np.int32)  # wraps
    for lane, (g, t) in enumerate(LANES):
        assert words[lane].view(np.int32).tolist() == want[g, 2 * t : 2 * t + 2].tolist()


@pytest.mark.parametrize("transposed", ["", ".trans"])
@pytest.mark.parametrize("count", [1, 2, 4])
def test_matrices_are_loaded(count: int, transposed: str, launch: Any) -> None:
    matrices = RNG.integers(0, 2**16, (4, 8, 8), np.uint16)
    order = RNG.permutation(32)  # where each row lies in shared memory
    rows = np.zeros((32, 8), np.uint16)
    rows[order] = matrices.reshape(32, 8)
    targets = "{" + ", ".join(f"%r{16 + i}" for i in range(count)) + "}"
    before = """.shared .align 16 .b8 s[512]; mov.u32 %r8, s; mad.lo.u32 %r9, %tid, 16, %r8;
    st.shared.v4.u32 [%r9], {%r0, %r1, %r2, %r3}; mad.lo.u32 %r10, %r4, 16, %r8; bar.sync 0;"""
    words = run(
        launch_with_output(launch, count),
        f"ldmatrix.sync.aligned.m8n8.x{count}{transposed}.shared.b16 {targets}, [%r10];",
        [rows.view(np.uint32), order.astype(np.uint32)[:, None]],
        count,
        before,
    )
    for lane, (g, t) in enumerate(LANES):
        for matrix in range(count):
            m = matrices[matrix].T if transposed else matrices[matrix]
            assert words[lane, matrix] == int(m[g, 2 * t]) | int(m[g, 2 * t + 1]) << 16


@pytest.mark.parametrize("code", [F16, S8])
def test_a_missing_lane_is_a_fault(code: str, launch: Any) -> None:
    sources = [np.zeros((32, 5), np.uint32)]
    guarded = f"setp.ne.u32 %p0, %tid, 17; @%p0 {code}"
    with pytest.raises(Fault, match="some lanes of a warp do not take part"):
        run(launch_with_output(launch, 2), guarded, sources, 2)
