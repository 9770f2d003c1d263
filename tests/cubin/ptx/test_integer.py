from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

Array = NDArray[Any]
Evaluate = Callable[..., Array]
RNG = np.random.default_rng(6)
TYPES = ["u16", "s16", "u32", "s32", "u64", "s64"]


def dtype_of(name: str) -> np.dtype[Any]:
    return np.dtype(f"{'i' if name[0] == 's' else 'u'}{int(name[1:]) // 8}")


def numbers(name: str) -> list[int]:
    """The type's edges, and some between."""
    info = np.iinfo(dtype_of(name))
    edges = {
        info.min,
        info.min + 1,
        0,
        1,
        2,
        3,
        7,
        8,
        31,
        32,
        info.max // 3,
        info.max - 1,
        info.max,
    }
    edges |= {-1, -2, -7} if info.min < 0 else set()
    return [*edges, *RNG.integers(info.min, info.max, 8, dtype_of(name), endpoint=True).tolist()]


def wrap(value: int, name: str) -> int:
    bits = int(name[1:])
    value &= (1 << bits) - 1
    return value - (1 << bits) if name[0] == "s" and value >> (bits - 1) else value


def pairs(name: str) -> tuple[Array, Array]:
    every = [(a, b) for a in numbers(name) for b in numbers(name)]
    a, b = zip(*every, strict=True)
    return np.array(a, dtype_of(name)), np.array(b, dtype_of(name))


def towards_zero(a: int, b: int) -> int:
    return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)


BINARY: dict[str, Callable[[int, int], int]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul.lo": lambda a, b: a * b,
    "min": min,
    "max": max,
}


@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize("operation", BINARY)
def test_arithmetic_wraps(operation: str, name: str, evaluate: Evaluate) -> None:
    a, b = pairs(name)
    got = evaluate(f"{operation}.{name} %d, %a, %b;", dtype_of(name), a=a, b=b)
    want = [
        wrap(BINARY[operation](x, y), name) for x, y in zip(a.tolist(), b.tolist(), strict=True)
    ]
    assert got.tolist() == want


@pytest.mark.parametrize("name", TYPES)
def test_the_upper_half_of_a_product(name: str, evaluate: Evaluate) -> None:
    a, b = pairs(name)
    got = evaluate(f"mul.hi.{name} %d, %a, %b;", dtype_of(name), a=a, b=b)
    want = [x * y >> int(name[1:]) for x, y in zip(a.tolist(), b.tolist(), strict=True)]
    assert got.tolist() == want


@pytest.mark.parametrize("name", ["u16", "s16", "u32", "s32"])
def test_a_wide_product_and_sum(name: str, evaluate: Evaluate) -> None:
    a, b = pairs(name)
    wide = f"{name[0]}{int(name[1:]) * 2}"
    c = RNG.integers(0, 1000, len(a)).astype(dtype_of(wide))
    got = evaluate(f"mad.wide.{name} %d, %a, %b, %c;", dtype_of(wide), a=a, b=b, c=c)
    want = [
        wrap(x * y + z, wide) for x, y, z in zip(a.tolist(), b.tolist(), c.tolist(), strict=True)
    ]
    assert got.tolist() == want


@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize("operation", ["div", "rem"])
def test_division_is_towards_zero(operation: str, name: str, evaluate: Evaluate) -> None:
    a, b = pairs(name)
    lowest = np.iinfo(dtype_of(name)).min
    defined = (b != 0) & ~((a == lowest) & (b == -1 if lowest < 0 else False))
    a, b = a[defined], b[defined]
    got = evaluate(f"{operation}.{name} %d, %a, %b;", dtype_of(name), a=a, b=b)
    for x, y, d in zip(a.tolist(), b.tolist(), got.tolist(), strict=True):
        quotient = towards_zero(x, y)
        assert d == (quotient if operation == "div" else x - quotient * y), (x, y)


@pytest.mark.parametrize("bits", [16, 32, 64])
def test_logic(bits: int, evaluate: Evaluate) -> None:
    a, b = pairs(f"u{bits}")
    for operation, want in (("and", a & b), ("or", a | b), ("xor", a ^ b)):
        got = evaluate(f"{operation}.b{bits} %d, %a, %b;", a.dtype, a=a, b=b)
        assert got.tolist() == want.tolist()
    assert evaluate(f"not.b{bits} %d, %a;", a.dtype, a=a).tolist() == [
        (1 << bits) - 1 - x for x in a.tolist()
    ]


@pytest.mark.parametrize("name", ["s32", "s64"])
def test_neg_and_abs(name: str, evaluate: Evaluate) -> None:
    a = np.array(numbers(name), dtype_of(name))
    for operation, function in (("neg", lambda x: -x), ("abs", abs)):
        got = evaluate(f"{operation}.{name} %d, %a;", a.dtype, a=a)
        assert got.tolist() == [wrap(function(x), name) for x in a.tolist()]


@pytest.mark.parametrize("name", TYPES)
def test_shifts_by_any_number(name: str, evaluate: Evaluate) -> None:
    bits, amounts = int(name[1:]), [0, 1, 7, 15, 16, 31, 32, 33, 63, 64, 65, 200, 2**32 - 1]
    every = [(x, n) for x in numbers(name) for n in amounts]
    a = np.array([x for x, _ in every], dtype_of(name))
    by = np.array([n for _, n in every], np.uint32)
    left = evaluate(f"shl.b{bits} %d, %a, %b;", dtype_of(name), a=a, b=by)
    assert left.tolist() == [wrap(x << min(n, 64), name) for x, n in every]
    right = evaluate(f"shr.{name} %d, %a, %b;", dtype_of(name), a=a, b=by)
    assert right.tolist() == [x >> min(n, 64) for x, n in every]


WORD = st.integers(0, 2**32 - 1)
HYPOTHESIS = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@HYPOTHESIS
@given(st.lists(st.tuples(WORD, WORD, st.integers(0, 80)), min_size=1, max_size=40))
def test_funnel_shifts(evaluate: Evaluate, rows: list[tuple[int, int, int]]) -> None:
    a, b, c = (np.array(column, np.uint32) for column in zip(*rows, strict=True))
    for mode, amount in (("wrap", lambda n: n & 31), ("clamp", lambda n: min(n, 32))):
        for side in "lr":
            got = evaluate(f"shf.{side}.{mode}.b32 %d, %a, %b, %c;", np.uint32, a=a, b=b, c=c)
            for low, high, n, d in zip(
                a.tolist(), b.tolist(), c.tolist(), got.tolist(), strict=True
            ):
                both = high << 32 | low
                want = (both << amount(n)) >> 32 if side == "l" else both >> amount(n)
                assert d == want & 0xFFFFFFFF


def extract(a: int, position: int, length: int, name: str) -> int:
    """As the manual's loop over bits says."""
    bits = int(name[1:])
    msb, position, length = bits - 1, position & 0xFF, length & 0xFF
    sign = 0 if name[0] == "u" or length == 0 else a >> min(position + length - 1, msb) & 1
    result = 0
    for i in range(bits):
        bit = a >> (position + i) & 1 if i < length and position + i <= msb else sign
        result |= bit << i
    return wrap(result, name)


@pytest.mark.parametrize("name", ["u32", "s32", "u64", "s64"])
def test_bit_fields_are_extracted(name: str, evaluate: Evaluate) -> None:
    bits = int(name[1:])
    every = [
        (x, p, n)
        for x in (0, 0x12345678, 0xDEADBEEF87654321, 2**63, 2**31, 2**64 - 1)
        for p in (0, 1, 5, 31, 32, 63, 64, 255, 257)
        for n in (0, 1, 4, 31, 32, 33, 64, 255)
    ]
    a = np.array([x & (1 << bits) - 1 for x, _, _ in every], f"u{bits // 8}")
    b, c = (np.array([row[i] for row in every], np.uint32) for i in (1, 2))
    got = evaluate(f"bfe.{name} %d, %a, %b, %c;", dtype_of(name), a=a, b=b, c=c)
    want = [extract(int(x), p, n, name) for x, (_, p, n) in zip(a, every, strict=True)]
    assert got.tolist() == want


@pytest.mark.parametrize("bits", [32, 64])
def test_bit_fields_are_inserted(bits: int, evaluate: Evaluate) -> None:
    every = [(p, n) for p in (0, 1, 8, 31, 32, 63, 64, 255) for n in (0, 1, 7, 32, 64, 255)]
    a = RNG.integers(0, 2**bits, len(every), f"u{bits // 8}")
    b = RNG.integers(0, 2**bits, len(every), f"u{bits // 8}")
    c, n = (np.array(column, np.uint32) for column in zip(*every, strict=True))
    got = evaluate(f"bfi.b{bits} %d, %a, %b, %c, %n;", a.dtype, a=a, b=b, c=c, n=n)
    for field, base, d, (position, length) in zip(
        a.tolist(), b.tolist(), got.tolist(), every, strict=True
    ):
        want = base
        for i in range(length):
            if position + i < bits:
                want = want & ~(1 << (position + i)) | (field >> i & 1) << (position + i)
        assert d == want


@pytest.mark.parametrize("table", [0x00, 0xEA, 0x96, 0xF8, 0x1D, 0xFF])
def test_any_function_of_three_bits(table: int, evaluate: Evaluate) -> None:
    # Each lane's bits 0 to 7 hold the eight rows of the table of truth.
    a, b, c = (np.full(3, value, np.uint32) for value in (0xF0, 0xCC, 0xAA))
    got = evaluate(f"lop3.b32 %d, %a, %b, %c, {table};", np.uint32, a=a, b=b, c=c)
    assert (got & 0xFF).tolist() == [table] * 3


@HYPOTHESIS
@given(st.lists(st.tuples(WORD, WORD, WORD), min_size=1, max_size=40))
def test_bytes_are_permuted(evaluate: Evaluate, rows: list[tuple[int, int, int]]) -> None:
    a, b, c = (np.array(column, np.uint32) for column in zip(*rows, strict=True))
    got = evaluate("prmt.b32 %d, %a, %b, %c;", np.uint32, a=a, b=b, c=c)
    for low, high, selector, d in zip(
        a.tolist(), b.tolist(), c.tolist(), got.tolist(), strict=True
    ):
        pool = low.to_bytes(4, "little") + high.to_bytes(4, "little")
        want = []
        for i in range(4):
            nibble = selector >> 4 * i & 15
            byte = pool[nibble & 7]
            want.append((0xFF if byte & 0x80 else 0) if nibble & 8 else byte)
        assert d.to_bytes(4, "little") == bytes(want)


@pytest.mark.parametrize("bits", [32, 64])
def test_bits_are_counted(bits: int, evaluate: Evaluate) -> None:
    a = np.array(numbers(f"u{bits}"), f"u{bits // 8}")
    ones = evaluate(f"popc.b{bits} %d, %a;", np.uint32, a=a)
    assert ones.tolist() == [x.bit_count() for x in a.tolist()]
    zeros = evaluate(f"clz.b{bits} %d, %a;", np.uint32, a=a)
    assert zeros.tolist() == [bits - x.bit_length() for x in a.tolist()]


@pytest.mark.parametrize("left", ["s32", "u32"])
@pytest.mark.parametrize("right", ["s32", "u32"])
def test_dot_products_of_bytes(left: str, right: str, evaluate: Evaluate) -> None:
    a, b, c = RNG.integers(0, 2**32, (3, 200), np.uint32)
    a[:2], b[:2] = 0x80808080, (0x80808080, 0x7F7F7F7F)
    got = evaluate(f"dp4a.{left}.{right} %d, %a, %b, %c;", np.uint32, a=a, b=b, c=c)
    for x, y, z, d in zip(a.tolist(), b.tolist(), c.tolist(), got.tolist(), strict=True):
        pairs_of_bytes = zip(x.to_bytes(4, "little"), y.to_bytes(4, "little"), strict=True)
        total = z + sum(
            (u - 256 if left[0] == "s" and u > 127 else u)
            * (v - 256 if right[0] == "s" and v > 127 else v)
            for u, v in pairs_of_bytes
        )
        assert d == total & 0xFFFFFFFF
