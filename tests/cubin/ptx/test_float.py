from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from sllmbench.cubin.ptx import UnknownInstructionError

Array = NDArray[Any]
Evaluate = Callable[..., Array]
Rounded = Callable[..., float]
RNG = np.random.default_rng(6)
HYPOTHESIS = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
TYPES = {"f16": np.float16, "f32": np.float32}


def of_bits(bits: list[int], dtype: Any) -> Array:
    return np.array(bits, f"u{np.dtype(dtype).itemsize}").view(dtype)


def some(dtype: Any, count: int) -> Array:
    """Edges, and any bits: subnormal numbers, infinities and NaN among them."""
    info = np.finfo(dtype)
    edges = [0.0, -0.0, 1.0, -1.0, 3.0, info.max, -info.max, info.tiny, info.smallest_subnormal]
    edges += [np.inf, -np.inf, np.nan, 1 + info.eps, 0.1]
    bits = RNG.integers(0, 2 ** (8 * np.dtype(dtype).itemsize), count, np.uint64)
    return np.concatenate([np.array(edges, dtype), of_bits(bits.tolist(), dtype)])


def assert_same(got: Array, want: Array) -> None:
    """Bit for bit, but that any NaN is like another."""
    strange = np.isnan(want)
    assert (np.isnan(got) == strange).all()
    whole = f"u{got.itemsize}"
    different = (got.view(whole) != want.astype(got.dtype).view(whole)) & ~strange
    assert not different.any(), (got[different], want[different])


@pytest.fixture
def exactly(rounded: Rounded) -> Callable[..., Array]:
    """Of finite numbers, where the result is not 0: the exact result, rounded once."""

    def exactly(name: str, operation: Callable[..., Fraction], *sources: Array) -> Array:
        values = [
            operation(*(Fraction(float(x)) for x in row)) for row in zip(*sources, strict=True)
        ]
        return np.array([rounded(value, TYPES[name]) for value in values], TYPES[name])

    return exactly


@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize("operation", ["add", "sub", "mul"])
def test_one_operation_is_rounded_once(
    name: str, operation: str, evaluate: Evaluate, exactly: Callable[..., Array]
) -> None:
    a, b = some(TYPES[name], 400), some(TYPES[name], 400)[::-1]
    got = evaluate(f"{operation}.rn.{name} %d, %a, %b;", TYPES[name], a=a, b=b)
    exact = {"add": Fraction.__add__, "sub": Fraction.__sub__, "mul": Fraction.__mul__}[operation]
    usual = np.isfinite(a) & np.isfinite(b) & (got != 0)
    assert usual.sum() > 300
    assert_same(got[usual], exactly(name, exact, a[usual], b[usual]))
    # Of 0 and what is not finite, IEEE's rules, which Python's own floats follow.
    python = {"add": float.__add__, "sub": float.__sub__, "mul": float.__mul__}[operation]
    with np.errstate(over="ignore", under="ignore"):
        want = [python(float(x), float(y)) for x, y in zip(a, b, strict=True)]
        assert_same(got[~usual], np.array(want)[~usual].astype(TYPES[name]))


BITS_16, BITS_32 = st.integers(0, 2**16 - 1), st.integers(0, 2**32 - 1)


def check_fused(
    name: str, rows: list[tuple[int, int, int]], evaluate: Evaluate, rounded: Rounded
) -> None:
    a, b, c = (of_bits(list(column), TYPES[name]) for column in zip(*rows, strict=True))
    got = evaluate(f"fma.rn.{name} %d, %a, %b, %c;", TYPES[name], a=a, b=b, c=c)
    for x, y, z, d in zip(a.tolist(), b.tolist(), c.tolist(), got.tolist(), strict=True):
        if not all(map(math.isfinite, (x, y, z))):
            want = np.float64(x) * np.float64(y) + np.float64(z)
        else:
            exact = Fraction(x) * Fraction(y) + Fraction(z)
            want = rounded(exact, TYPES[name]) if exact else x * y + z
        assert d == want or (math.isnan(d) and math.isnan(want)), (x, y, z)


@HYPOTHESIS
@given(st.lists(st.tuples(BITS_32, BITS_32, BITS_32), min_size=1, max_size=60))
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_fma_of_float32_is_rounded_once(
    evaluate: Evaluate, rounded: Rounded, rows: list[tuple[int, int, int]]
) -> None:
    check_fused("f32", rows, evaluate, rounded)


@HYPOTHESIS
@given(st.lists(st.tuples(BITS_16, BITS_16, BITS_16), min_size=1, max_size=60))
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_fma_of_float16_is_rounded_once(
    evaluate: Evaluate, rounded: Rounded, rows: list[tuple[int, int, int]]
) -> None:
    check_fused("f16", rows, evaluate, rounded)


def test_fma_is_right_where_two_roundings_are_not(evaluate: Evaluate, rounded: Rounded) -> None:
    # The product lies in the middle of two floats. What is added decides, and float64 loses it.
    a, c = np.array([1 + 2.0**-12], np.float32), np.array([1.5 * 2.0**-60], np.float32)
    got = evaluate("fma.rn.f32 %d, %a, %a, %c;", np.float32, a=a, c=c)
    exact = Fraction(float(a[0])) ** 2 + Fraction(float(c[0]))
    assert got[0] == rounded(exact, np.float32)
    assert got[0] != np.float32(float(a[0]) ** 2 + float(c[0])), "no such case after all"


def test_pairs_are_two_numbers(evaluate: Evaluate, exactly: Callable[..., Array]) -> None:
    a, b, c = (RNG.standard_normal((300, 2)).astype(np.float16) for _ in range(3))
    words = [x.view(np.uint32)[:, 0] for x in (a, b, c)]
    for operation, want in (
        ("add", a + b),
        ("sub", a - b),
        ("mul", a * b),
    ):
        got = evaluate(f"{operation}.f16x2 %d, %a, %b;", np.uint32, a=words[0], b=words[1])
        assert_same(got.view(np.float16), want.reshape(-1))
    got = evaluate("fma.rn.f16x2 %d, %a, %b, %c;", np.uint32, a=words[0], b=words[1], c=words[2])
    want = exactly("f16", lambda x, y, z: x * y + z, a.reshape(-1), b.reshape(-1), c.reshape(-1))
    assert_same(got.view(np.float16), want)


@pytest.mark.parametrize("name", TYPES)
def test_minimum_and_maximum_prefer_numbers(name: str, evaluate: Evaluate) -> None:
    a = np.array([1, 2, np.nan, 3, np.nan, 0.0, -0.0, np.inf], TYPES[name])
    b = np.array([2, 1, 3, np.nan, np.nan, -0.0, 0.0, -np.inf], TYPES[name])
    least = evaluate(f"min.{name} %d, %a, %b;", TYPES[name], a=a, b=b)
    assert_same(least, np.array([1, 1, 3, 3, np.nan, -0.0, -0.0, -np.inf], TYPES[name]))
    most = evaluate(f"max.{name} %d, %a, %b;", TYPES[name], a=a, b=b)
    assert_same(most, np.array([2, 2, 3, 3, np.nan, 0.0, 0.0, np.inf], TYPES[name]))
    strict = evaluate(f"max.NaN.{name} %d, %a, %b;", TYPES[name], a=a, b=b)
    assert np.isnan(strict).tolist() == [False, False, True, True, True, False, False, False]


@pytest.mark.parametrize("name", TYPES)
def test_signs(name: str, evaluate: Evaluate) -> None:
    a = some(TYPES[name], 50)
    assert_same(evaluate(f"neg.{name} %d, %a;", TYPES[name], a=a), -a)
    assert_same(evaluate(f"abs.{name} %d, %a;", TYPES[name], a=a), abs(a))


@pytest.mark.parametrize("form", ["rn", "full", "approx"])
def test_division(form: str, evaluate: Evaluate, exactly: Callable[..., Array]) -> None:
    a, b = some(np.float32, 300), some(np.float32, 300)[::-1]
    got = evaluate(f"div.{form}.f32 %d, %a, %b;", np.float32, a=a, b=b)
    usual = np.isfinite(a) & np.isfinite(b) & (b != 0) & (got != 0)
    assert usual.sum() > 200
    assert_same(got[usual], exactly("f32", Fraction.__truediv__, a[usual], b[usual]))


FUNCTIONS: dict[str, Callable[[float], float]] = {
    "rcp.approx": lambda x: 1 / x,
    "rcp.rn": lambda x: 1 / x,
    "sqrt.rn": math.sqrt,
    "sqrt.approx": math.sqrt,
    "rsqrt.approx": lambda x: 1 / math.sqrt(x),
    "ex2.approx": lambda x: 2.0**x,
    "lg2.approx": math.log2,
    "sin.approx": math.sin,
    "cos.approx": math.cos,
    "tanh.approx": math.tanh,
}


@pytest.mark.parametrize("operation", FUNCTIONS)
def test_functions_are_exact_to_float32(operation: str, evaluate: Evaluate) -> None:
    a = RNG.uniform(0.01, 20, 200).astype(np.float32)
    got = evaluate(f"{operation}.f32 %d, %a;", np.float32, a=a)
    assert got.tolist() == [float(np.float32(FUNCTIONS[operation](x))) for x in a.tolist()]


def test_ftz_flushes_what_goes_in_and_comes_out(evaluate: Evaluate) -> None:
    tiny = np.finfo(np.float32).tiny
    a = np.array([tiny, tiny / 2, -tiny / 2, tiny, 1], np.float32)
    b = np.array([1, 2, 2, 0.5, 1], np.float32)
    assert_same(
        evaluate("mul.ftz.f32 %d, %a, %b;", np.float32, a=a, b=b),
        np.array([tiny, 0, -0.0, 0, 1], np.float32),
    )
    assert_same(
        evaluate("mul.f32 %d, %a, %b;", np.float32, a=a, b=b),
        np.array([tiny, tiny, -tiny, tiny / 2, 1], np.float32),
    )


def test_sat_clamps(evaluate: Evaluate) -> None:
    a = np.array([-1, 0.25, 0.75, np.nan], np.float32)
    got = evaluate("add.sat.f32 %d, %a, %a;", np.float32, a=a)
    assert_same(got, np.array([0, 0.5, 1, 0], np.float32))


def test_what_would_be_rounded_otherwise_is_refused(evaluate: Evaluate) -> None:
    a = np.ones(1, np.float32)
    with pytest.raises(UnknownInstructionError, match=r"add\.rz\.f32 .*not with \.rz"):
        evaluate("add.rz.f32 %d, %a, %a;", np.float32, a=a)
    with pytest.raises(UnknownInstructionError, match=r"fma\.rn\.f64.*not in float64"):
        evaluate("fma.rn.f64 %d, %a, %a, %a;", np.float64, a=a.astype(np.float64))
