"""Comparisons and choices: setp, set, selp."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from sllmbench.cubin.ptx.faults import UnknownInstructionError
from sllmbench.cubin.ptx.registry import Kind, decodes
from sllmbench.cubin.ptx.rounding import flush
from sllmbench.cubin.ptx.scalars import SCALARS
from sllmbench.cubin.ptx.syntax import Pair

if TYPE_CHECKING:
    from collections.abc import Callable

    from sllmbench.cubin.ptx.scalars import Array, Scalar
    from sllmbench.cubin.ptx.state import Index, State, Step
    from sllmbench.cubin.ptx.syntax import Instruction

compare = partial(decodes, kind=Kind.COMPARE)

_ORDERED: dict[str, Callable[[Any, Any], Any]] = {
    "eq": np.equal,
    "ne": np.not_equal,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
    "lo": np.less,
    "ls": np.less_equal,
    "hi": np.greater,
    "hs": np.greater_equal,
}
_JOINED: dict[str, Callable[[Any, Any], Any]] = {
    "and": np.logical_and,
    "or": np.logical_or,
    "xor": np.logical_xor,
}
_UNORDERED = ("equ", "neu", "ltu", "leu", "gtu", "geu", "num", "nan")
_MODIFIERS = " ".join([*_ORDERED, *_UNORDERED, *_JOINED, "ftz"])


def _comparison(i: Instruction, scalar: Scalar) -> Callable[[Array, Array], Array]:
    """The one that a modifier names. Those in u also hold where one side is no number."""
    name = next(part for part in i.modifiers if part in _ORDERED or part in _UNORDERED)
    flushing = "ftz" in i.modifiers

    def holds(a: Array, b: Array) -> Array:
        result: Array
        if scalar.kind != "f":
            result = _ORDERED[name](a, b)
            return result
        if flushing:
            a, b = flush(a), flush(b)
        strange = np.isnan(a) | np.isnan(b)
        if name in ("num", "nan"):
            result = strange if name == "nan" else ~strange
        elif name in _UNORDERED:
            result = strange | _ORDERED[name[:2]](a, b)
        else:
            result = ~strange & _ORDERED[name](a, b)
        return result

    return holds


@compare("setp", modifiers=_MODIFIERS)
def _set_predicate(state: State, i: Instruction) -> Step:
    """p = compared, q = not, each perhaps joined with c; of float16 pairs, one of each half."""
    scalar = i.types[-1]
    holds = _comparison(i, scalar)
    a, b = (state.read(operand, scalar) for operand in i.operands[1:3])
    join = next((_JOINED[part] for part in i.modifiers if part in _JOINED), None)
    other = state.predicate(i.operands[3]) if join else None
    pair = i.operands[0] if isinstance(i.operands[0], Pair) else None
    first = state.target(pair.first if pair else i.operands[0], SCALARS["pred"])
    second = state.target(pair.second, SCALARS["pred"]) if pair else None

    def step(index: Index) -> None:
        p = holds(a[index], b[index])
        q = ~p
        if scalar.parts > 1:
            p, q = p[:, 0], p[:, 1]
        if join and other:
            c = other(index)
            p, q = join(p, c), join(q, c)
        first[index] = p
        if second is not None:
            second[index] = q

    return step


@compare("set", "set.f", modifiers=_MODIFIERS)
def _set_number(state: State, i: Instruction) -> Step:
    """All bits, or 1.0, where the comparison holds."""
    result, scalar = i.types
    if {"and", "or", "xor"} & set(i.modifiers):
        raise UnknownInstructionError("not with a predicate to join")
    holds = _comparison(i, scalar)
    target = state.target(i.operands[0], result)
    a, b = (state.read(operand, scalar) for operand in i.operands[1:3])
    true = np.asarray(1.0 if result.kind == "f" else np.array(-1).astype(result.dtype))

    def step(index: Index) -> None:
        target[index] = np.where(holds(a[index], b[index]), true, 0)

    return step


@compare("selp")
def _select(state: State, i: Instruction) -> Step:
    scalar = i.types[0]
    target = state.target(i.operands[0], scalar)
    a, b = (state.read(operand, scalar) for operand in i.operands[1:3])
    condition = state.predicate(i.operands[3])

    def step(index: Index) -> None:
        target[index] = np.where(condition(index), a[index], b[index])

    return step
