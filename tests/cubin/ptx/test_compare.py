from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

Array = NDArray[Any]
Evaluate = Callable[..., Array]
ORDERED: dict[str, Callable[[Any, Any], bool]] = {
    "eq": operator.eq,
    "ne": operator.ne,
    "lt": operator.lt,
    "le": operator.le,
    "gt": operator.gt,
    "ge": operator.ge,
}
UNSIGNED = {"lo": "lt", "ls": "le", "hi": "gt", "hs": "ge"}
SET = "setp.{} %p0, %a, %b; selp.u32 %d, 1, 0, %p0;"


@pytest.mark.parametrize(
    ("comparison", "name"),
    [(c, name) for c in ORDERED for name in ("s32", "u32", "s64", "u16")]
    + [(c, name) for c in UNSIGNED for name in ("u32", "u16")],
)
def test_integers(comparison: str, name: str, evaluate: Evaluate) -> None:
    dtype = np.dtype(f"{'i' if name[0] == 's' else 'u'}{int(name[1:]) // 8}")
    every = [-3, -1, 0, 1, 2, 100] if name[0] == "s" else [0, 1, 2, 100, 2 ** int(name[1:]) - 1]
    a, b = (np.array(x, dtype) for x in zip(*[(x, y) for x in every for y in every], strict=True))
    holds = ORDERED[UNSIGNED.get(comparison, comparison)]
    got = evaluate(SET.format(f"{comparison}.{name}"), np.uint32, a=a, b=b)
    assert got.tolist() == [holds(x, y) for x, y in zip(a.tolist(), b.tolist(), strict=True)]


@pytest.mark.parametrize("comparison", [*ORDERED, *(f"{c}u" for c in ORDERED), "num", "nan"])
@pytest.mark.parametrize("name", ["f32", "f16"])
def test_floats(comparison: str, name: str, evaluate: Evaluate) -> None:
    every = [-1.0, -0.0, 0.0, 2.0, math.inf, math.nan]
    dtype = np.dtype(f"f{int(name[1:]) // 8}")
    a, b = (np.array(x, dtype) for x in zip(*[(x, y) for x in every for y in every], strict=True))
    got = evaluate(SET.format(f"{comparison}.{name}"), np.uint32, a=a, b=b)
    for x, y, d in zip(a.tolist(), b.tolist(), got.tolist(), strict=True):
        strange = math.isnan(x) or math.isnan(y)
        if comparison in ("num", "nan"):
            want = strange == (comparison == "nan")
        elif strange:
            want = comparison.endswith("u") and comparison not in ORDERED
        else:
            want = ORDERED[comparison[:2]](x, y)
        assert d == want, (x, y)


def test_a_second_result_is_the_opposite(evaluate: Evaluate) -> None:
    a = np.array([1, 2, 3], np.int32)
    code = "setp.lt.s32 %p0|%p1, %a, 2; selp.u32 %r0, 1, 0, %p0; selp.u32 %r1, 2, 0, %p1;"
    got = evaluate(f"{code} add.u32 %d, %r0, %r1;", np.uint32, a=a)
    assert got.tolist() == [1, 2, 2]


@pytest.mark.parametrize(
    ("join", "want"),
    [("and", [0, 0, 0, 1]), ("or", [0, 1, 1, 1]), ("xor", [0, 1, 1, 0])],
)
def test_results_join_with_a_predicate(join: str, want: list[int], evaluate: Evaluate) -> None:
    a, b = np.array([0, 0, 1, 1], np.int32), np.array([0, 1, 0, 1], np.int32)
    first = "setp.ne.s32 %p1, %b, 0; "
    got = evaluate(
        f"{first}setp.ne.{join}.s32 %p0, %a, 0, %p1; selp.u32 %d, 1, 0, %p0;", np.uint32, a=a, b=b
    )
    assert got.tolist() == want
    negated = evaluate(
        f"{first}setp.ne.{join}.s32 %p0, %a, 0, !%p1; selp.u32 %d, 1, 0, %p0;", np.uint32, a=a, b=b
    )
    assert negated.tolist() == {"and": [0, 0, 1, 0], "or": [1, 0, 1, 1], "xor": [1, 0, 0, 1]}[join]


def test_pairs_are_compared_half_by_half(evaluate: Evaluate) -> None:
    a = np.array([[1, 4], [2, 1]], np.float16).view(np.uint32)[:, 0]
    b = np.array([[2, 3], [1, 2]], np.float16).view(np.uint32)[:, 0]
    code = "setp.lt.f16x2 %p0|%p1, %a, %b; selp.u32 %r0, 1, 0, %p0; selp.u32 %r1, 2, 0, %p1;"
    assert evaluate(f"{code} add.u32 %d, %r0, %r1;", np.uint32, a=a, b=b).tolist() == [1, 2]


def test_set_gives_all_bits_or_one(evaluate: Evaluate) -> None:
    a, b = np.array([1, 2], np.float32), np.array([2, 1], np.float32)
    got = evaluate("set.lt.u32.f32 %d, %a, %b;", np.uint32, a=a, b=b)
    assert got.tolist() == [2**32 - 1, 0]
    assert evaluate("set.gt.f32.f32 %d, %a, %b;", np.float32, a=a, b=b).tolist() == [0, 1]


def test_predicates_are_logic_too(evaluate: Evaluate) -> None:
    a = np.array([0, 1, 2, 3], np.int32)
    code = """setp.gt.s32 %p0, %a, 0; setp.lt.s32 %p1, %a, 3; and.pred %p2, %p0, %p1;
    not.pred %p3, %p2; selp.u32 %d, 1, 0, %p3;"""
    assert evaluate(code, np.uint32, a=a).tolist() == [1, 0, 0, 1]


def test_a_guard_decides_lane_by_lane(evaluate: Evaluate) -> None:
    a = np.array([0, 1, 2, 3], np.int32)
    code = "setp.gt.s32 %p0, %a, 1; mov.u32 %d, 7; @%p0 mov.u32 %d, 8; @!%p0 add.u32 %d, %d, 10;"
    assert evaluate(code, np.uint32, a=a).tolist() == [17, 17, 8, 8]
