from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

Array = NDArray[Any]
Evaluate = Callable[..., Array]
Rounded = Callable[..., float]
RNG = np.random.default_rng(7)
INTEGERS = ["u8", "s8", "u16", "s16", "u32", "s32", "u64", "s64"]
WHOLE: dict[str, Callable[[float], float]] = {
    "rni": round,
    "rzi": math.trunc,
    "rmi": math.floor,
    "rpi": math.ceil,
}


def dtype_of(name: str) -> np.dtype[Any]:
    kind = {"u": "u", "s": "i", "f": "f"}[name[0]]
    return np.dtype(f"{kind}{int(name[1:]) // 8}")


def integers(name: str) -> Array:
    info = np.iinfo(dtype_of(name))
    edges = [info.min, info.min + 1, 0, 1, 100, 127, 128, 255, info.max - 1, info.max]
    inside = [x for x in edges if info.min <= x <= info.max]
    return np.array(
        inside + RNG.integers(info.min, info.max, 20, dtype_of(name)).tolist(), dtype_of(name)
    )


@pytest.mark.parametrize("to", INTEGERS)
@pytest.mark.parametrize("of", INTEGERS)
def test_integers_are_cut_or_extended_or_clamped(to: str, of: str, evaluate: Evaluate) -> None:
    a = integers(of)
    result = dtype_of(to) if int(to[1:]) > 8 else np.dtype(f"{dtype_of(to).kind}2")
    bits = int(to[1:])

    def wrapped(x: int) -> int:
        x &= (1 << bits) - 1
        return x - (1 << bits) if to[0] == "s" and x >> (bits - 1) else x

    got = evaluate(f"cvt.{to}.{of} %d, %a;", result, a=a)
    assert got.tolist() == [wrapped(x) for x in a.tolist()]
    info = np.iinfo(dtype_of(to))
    clamped = evaluate(f"cvt.sat.{to}.{of} %d, %a;", result, a=a)
    assert clamped.tolist() == [min(max(x, int(info.min)), int(info.max)) for x in a.tolist()]


@pytest.mark.parametrize("mode", WHOLE)
@pytest.mark.parametrize("to", ["s8", "u8", "s16", "u16", "s32", "u32", "s64", "u64"])
@pytest.mark.parametrize("of", ["f16", "f32"])
def test_floats_become_integers(mode: str, to: str, of: str, evaluate: Evaluate) -> None:
    values = [
        0.5,
        1.5,
        2.5,
        -0.5,
        -1.5,
        -2.5,
        0.49,
        126.5,
        127.5,
        300,
        -300,
        65504,
        np.inf,
        -np.inf,
    ]
    values += [] if of == "f16" else [2.0**31, -(2.0**31), 2.0**32, 2.0**63, 2.0**64, 1e30, -1e30]
    a = np.array(values, dtype_of(of))
    result = dtype_of(to) if int(to[1:]) > 8 else np.dtype(f"{dtype_of(to).kind}2")
    got = evaluate(f"cvt.{mode}.{to}.{of} %d, %a;", result, a=a)
    info = np.iinfo(dtype_of(to))
    for x, d in zip(a.tolist(), got.tolist(), strict=True):
        whole = x if math.isinf(x) else WHOLE[mode](x)
        assert d == min(max(whole, int(info.min)), int(info.max)), x


def test_no_number_becomes_zero_or_with_64_bits_the_sign_alone(evaluate: Evaluate) -> None:
    nothing = np.array([np.nan], np.float32)
    assert evaluate("cvt.rni.s32.f32 %d, %a;", np.int32, a=nothing).tolist() == [0]
    assert evaluate("cvt.rni.s64.f32 %d, %a;", np.int64, a=nothing).tolist() == [-(2**63)]


@pytest.mark.parametrize("mode", ["rn", "rz", "rm", "rp"])
@pytest.mark.parametrize(
    ("to", "of"),
    [
        ("f16", "f32"),
        ("f32", "f64"),
        ("f16", "f64"),
        ("f32", "s32"),
        ("f32", "u32"),
        ("f16", "s16"),
    ],
)
def test_narrowing_rounds_as_asked(
    mode: str, to: str, of: str, evaluate: Evaluate, rounded: Rounded
) -> None:
    if of[0] == "f":
        near = RNG.standard_normal(200) * 10.0 ** RNG.uniform(-9, 6, 200)
        middles = [1 + 2.0**-11, 1 + 3 * 2.0**-11, 1 + 2.0**-24, 65519.9, 65520, -65520, 2.0**-25]
        a = np.concatenate([near, middles]).astype(dtype_of(of))
    else:
        a = np.concatenate([integers(of), [16777217, 16777219, 2049, 2051]]).astype(dtype_of(of))
    got = evaluate(f"cvt.{mode}.{to}.{of} %d, %a;", dtype_of(to), a=a)
    for x, d in zip(a.tolist(), got.tolist(), strict=True):
        assert d == rounded(Fraction(x), dtype_of(to), mode), x


def test_widening_changes_nothing(evaluate: Evaluate) -> None:
    every = np.arange(2**16, dtype=np.uint16).view(np.float16)
    got = evaluate("cvt.f32.f16 %d, %a;", np.float32, a=every)
    assert np.array_equal(got, every.astype(np.float32), equal_nan=True)
    assert (np.signbit(got) == np.signbit(every))[~np.isnan(every)].all()


def test_large_integers_are_rounded_once(evaluate: Evaluate, rounded: Rounded) -> None:
    a = np.array([2**62 + 2**38 + 1, 2**63 - 1, -(2**61) - 2**37 - 1, 5], np.int64)
    got = evaluate("cvt.rn.f32.s64 %d, %a;", np.float32, a=a)
    assert got.tolist() == [rounded(Fraction(x), np.float32) for x in a.tolist()]


def test_two_floats_become_a_pair_the_first_above(evaluate: Evaluate) -> None:
    a, b = RNG.standard_normal((2, 50)).astype(np.float32)
    got = evaluate("cvt.rn.f16x2.f32 %d, %a, %b;", np.uint32, a=a, b=b).view(np.float16)
    assert got[0::2].tolist() == b.astype(np.float16).tolist()
    assert got[1::2].tolist() == a.astype(np.float16).tolist()


def test_floats_are_rounded_to_whole_floats(evaluate: Evaluate) -> None:
    a = np.array([0.5, 1.5, -2.5, 3.7], np.float32)
    for mode, function in WHOLE.items():
        got = evaluate(f"cvt.{mode}.f32.f32 %d, %a;", np.float32, a=a)
        assert got.tolist() == [function(x) for x in a.tolist()]


def test_moves_pack_and_unpack(evaluate: Evaluate) -> None:
    a, b = np.array([0x1234], np.uint16), np.array([0xABCD], np.uint16)
    assert evaluate("mov.b32 %d, {%a, %b};", np.uint32, a=a, b=b).tolist() == [0xABCD1234]
    word = np.array([0xABCD1234], np.uint32)
    unpack = "mov.b32 {%h0, %h1}, %a; mov.b16 %d, "
    assert evaluate(f"{unpack}%h0;", np.uint16, a=word).tolist() == [0x1234]
    assert evaluate(f"{unpack}%h1;", np.uint16, a=word).tolist() == [0xABCD]
    assert evaluate("mov.b32 {_, %d}, %a;", np.uint16, a=word).tolist() == [0xABCD]
    wide = np.array([0x0011223344556677], np.uint64)
    code = "mov.b64 {%r0, %r1}, %a; mov.b64 %d, {%r1, %r0};"
    assert evaluate(code, np.uint64, a=wide).tolist() == [0x4455667700112233]


def test_constants(evaluate: Evaluate) -> None:
    a = np.zeros(1, np.uint32)
    assert evaluate("mov.f32 %d, 0fC0490FDB;", np.float32, a=a)[0] == np.float32(-np.pi)
    assert evaluate("mov.f64 %d, 0dC00921FB54442D18;", np.float64, a=a)[0] == -np.pi
    assert evaluate("add.s32 %d, %a, -7;", np.int32, a=a)[0] == -7
    assert evaluate("mov.u32 %d, 0xFFFFFFFFU;", np.uint32, a=a)[0] == 2**32 - 1
    assert evaluate("mov.u32 %d, WARP_SZ;", np.uint32, a=a)[0] == 32
