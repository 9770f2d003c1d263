"""Floats: float32, float16 and pairs of float16, and float64 where one rounding is NumPy's own."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from sllmbench.cubin.ptx.faults import UnknownInstructionError
from sllmbench.cubin.ptx.instructions_integer import apply
from sllmbench.cubin.ptx.registry import Kind, decodes
from sllmbench.cubin.ptx.rounding import flush, fused, saturate

if TYPE_CHECKING:
    from collections.abc import Callable

    from sllmbench.cubin.ptx.scalars import Array
    from sllmbench.cubin.ptx.state import State, Step
    from sllmbench.cubin.ptx.syntax import Instruction

floating = partial(decodes, kind=Kind.FLOAT)


def _shaped(state: State, i: Instruction, function: Callable[..., Array]) -> Step:
    """The function between what .ftz does to its sources and result, and .sat to its result."""
    scalar = i.types[-1]

    def shaped(*sources: Array) -> Array:
        if "ftz" in i.modifiers:
            sources = tuple(flush(source) for source in sources)
        result = function(*sources)
        if "ftz" in i.modifiers:
            result = flush(result)
        return saturate(result) if "sat" in i.modifiers else result

    return apply(state, i, shaped, *[scalar] * len(i.operands))


# NumPy rounds each of these once; of float16 by way of float32, which has more than twice its bits
# and so changes no result.
_ARITHMETIC: dict[str, Callable[..., Array]] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
}


@floating("add.f", "sub.f", "mul.f", modifiers="rn ftz sat")
def _arithmetic(state: State, i: Instruction) -> Step:
    return _shaped(state, i, _ARITHMETIC[i.opcode])


@floating("fma.f", "mad.f", modifiers="rn ftz sat")
def _fused(state: State, i: Instruction) -> Step:
    if i.types[-1].bits == 64:
        raise UnknownInstructionError("not in float64")
    return _shaped(state, i, fused)


@floating("div.f", modifiers="rn approx full ftz")
def _divide(state: State, i: Instruction) -> Step:
    return _shaped(state, i, np.divide)


@floating("neg.f", "abs.f", modifiers="ftz")
def _sign(state: State, i: Instruction) -> Step:
    return _shaped(state, i, np.negative if i.opcode == "neg" else np.abs)


@floating("min.f", "max.f", modifiers="ftz NaN")
def _extreme(state: State, i: Instruction) -> Step:
    """Of a number and no number, the number, unless .NaN asks otherwise; +0 is above -0."""
    least = i.opcode == "min"
    function: Callable[[Array, Array], Array]
    if "NaN" in i.modifiers:
        function = np.minimum if least else np.maximum
    else:
        function = np.fmin if least else np.fmax

    def extreme(a: Array, b: Array) -> Array:
        # Equal numbers differ in the sign of zero at most, and both ways of minimum and maximum
        # are what is wanted of the two signs.
        whole = np.dtype(f"u{a.itemsize}")
        left, right = np.ascontiguousarray(a).view(whole), np.ascontiguousarray(b).view(whole)
        tied = (left | right if least else left & right).view(a.dtype)
        return np.where(a == b, tied, function(a, b))

    return _shaped(state, i, extreme)


# Where a GPU approximates, here is the exact result rounded to float32.
_FUNCTIONS: dict[str, Callable[[Array], Array]] = {
    "rcp": np.reciprocal,
    "sqrt": np.sqrt,
    "rsqrt": lambda x: 1 / np.sqrt(x),
    "ex2": np.exp2,
    "lg2": np.log2,
    "sin": np.sin,
    "cos": np.cos,
    "tanh": np.tanh,
}


@floating(*(f"{name}.f" for name in _FUNCTIONS), modifiers="approx rn ftz")
def _function(state: State, i: Instruction) -> Step:
    if i.types[-1].name != "f32":
        raise UnknownInstructionError("only in float32")
    function = _FUNCTIONS[i.opcode]
    return _shaped(state, i, lambda x: function(x.astype(np.float64)).astype(np.float32))
