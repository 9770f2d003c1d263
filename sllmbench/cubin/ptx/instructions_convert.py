"""Moves and conversions: mov, cvta, cvt."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from sllmbench.cubin.ptx.faults import UnknownInstructionError
from sllmbench.cubin.ptx.instructions_integer import apply
from sllmbench.cubin.ptx.registry import Kind, decodes
from sllmbench.cubin.ptx.rounding import flush, narrow, saturate
from sllmbench.cubin.ptx.scalars import SCALARS, Array, Scalar
from sllmbench.cubin.ptx.state import LOCAL_WINDOW, SHARED_WINDOW
from sllmbench.cubin.ptx.syntax import Vector

if TYPE_CHECKING:
    from collections.abc import Callable

    from sllmbench.cubin.ptx.state import Index, State, Step
    from sllmbench.cubin.ptx.syntax import Instruction

_TO_WHOLE: dict[str, Callable[[Array], Array]] = {
    "rni": np.rint,
    "rzi": np.trunc,
    "rmi": np.floor,
    "rpi": np.ceil,
}
_ROUNDINGS = ("rn", "rz", "rm", "rp")


@decodes("mov", kind=Kind.MOVE)
def _move(state: State, i: Instruction) -> Step:
    """A copy; or several registers packed into one, or one unpacked."""
    target, source = i.operands
    scalar = i.types[0]
    if not isinstance(target, Vector) and not isinstance(source, Vector):
        return apply(state, i, lambda value: value, scalar, scalar)
    vector = target if isinstance(target, Vector) else source
    assert isinstance(vector, Vector)
    part = SCALARS[f"b{scalar.bits // len(vector.elements)}"]
    whole = SCALARS[f"b{scalar.bits}"]
    if vector is target:
        targets = [state.target(element, part) for element in vector.elements]
        return _unpack(targets, state.read(source, whole), part)
    pieces = [state.read(element, part) for element in vector.elements]
    packed = state.target(target, whole)

    def pack(index: Index) -> None:
        columns = np.stack([piece[index] for piece in pieces], axis=1)
        packed[index] = columns.view(whole.dtype)[:, 0]

    return pack


def _unpack(targets: list[Array], source: Array, part: Scalar) -> Step:
    def unpack(index: Index) -> None:
        values = np.ascontiguousarray(source[index]).reshape(-1, 1).view(part.dtype)
        for column, target in enumerate(targets):
            target[index] = values[:, column]

    return unpack


@decodes("cvta", kind=Kind.MOVE, modifiers="to global shared local const")
def _convert_address(state: State, i: Instruction) -> Step:
    """Between addresses of a state space and generic ones."""
    window = 0
    if "shared" in i.modifiers:
        window = SHARED_WINDOW
    elif "local" in i.modifiers:
        window = LOCAL_WINDOW
    shift = np.uint64(-window & (1 << 64) - 1 if "to" in i.modifiers else window)
    return apply(state, i, lambda address: address + shift, i.types[0], i.types[0])


@decodes("cvt", kind=Kind.CONVERT, modifiers=" ".join([*_ROUNDINGS, *_TO_WHOLE, "ftz", "sat"]))
def _convert(state: State, i: Instruction) -> Step:
    to, of = i.types
    if to.name == "f16x2":
        # The first source goes into the upper half.
        return apply(
            state,
            i,
            lambda a, b: np.stack([_convert_floats(i, b, to), _convert_floats(i, a, to)], axis=1),
            to,
            of,
            of,
        )
    if to.kind == "f":
        convert = _convert_floats if of.kind == "f" else _integers_to_floats
        return apply(state, i, lambda a: convert(i, a, to), to, of)
    if of.kind == "f":
        return apply(state, i, lambda a: _floats_to_integers(i, a, to), to, of)
    return apply(state, i, lambda a: _convert_integers(i, a, to), to, of)


def _rounding(i: Instruction) -> str:
    return next((part for part in i.modifiers if part in _ROUNDINGS), "rn")


def _to_whole(i: Instruction) -> Callable[[Array], Array] | None:
    return next((_TO_WHOLE[part] for part in i.modifiers if part in _TO_WHOLE), None)


def _convert_floats(i: Instruction, a: Array, to: Scalar) -> Array:
    if "ftz" in i.modifiers and a.dtype == np.float32:
        a = flush(a)
    if whole := _to_whole(i):
        a = whole(a)
    result = narrow(a.astype(np.float64), to.dtype, _rounding(i))
    if "ftz" in i.modifiers and to.name == "f32":
        result = flush(result)
    return saturate(result) if "sat" in i.modifiers else result


def _integers_to_floats(i: Instruction, a: Array, to: Scalar) -> Array:
    mode = _rounding(i)
    if a.itemsize < 8 or to.name == "f64":
        if a.itemsize == 8 and mode != "rn":
            raise UnknownInstructionError("not rounded so")
        result = narrow(a.astype(np.float64), to.dtype, mode)
    elif mode == "rn" and to.name == "f32":
        result = a.astype(np.float32)  # C's conversion, rounded once
    else:
        raise UnknownInstructionError("not rounded so")
    return saturate(result) if "sat" in i.modifiers else result


def _floats_to_integers(i: Instruction, a: Array, to: Scalar) -> Array:
    """Out of range, the nearest in it; no number becomes 0, or 2**63 where 64 bits take part."""
    whole = _to_whole(i)
    if whole is None:
        raise UnknownInstructionError("without a rounding to whole numbers")
    strange = np.isnan(a)
    of_64_bits = a.itemsize == 8 or to.bits == 64
    a = whole((flush(a) if "ftz" in i.modifiers else a).astype(np.float64))
    info = np.iinfo(to.dtype)
    # Of 64 bits float64 has no largest integer, only the power of two above it.
    above, below = a >= float(info.max) + (to.bits < 64), a < float(info.min)
    inside = np.where(strange | above | below, 0, a).astype(to.dtype)
    instead = np.array(1 << (to.bits - 1), f"u{to.bytes}").astype(to.dtype) if of_64_bits else 0
    result = np.where(above, info.max, np.where(below, info.min, inside))
    return np.where(strange, instead, result).astype(to.dtype)


def _convert_integers(i: Instruction, a: Array, to: Scalar) -> Array:
    if "sat" in i.modifiers:
        mine, theirs = np.iinfo(a.dtype), np.iinfo(to.dtype)
        a = np.clip(a, max(mine.min, theirs.min), min(mine.max, theirs.max))
    return a.astype(to.dtype)
