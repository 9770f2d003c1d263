"""Integers and bits."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from sllmbench.cubin.ptx.faults import Fault, UnknownInstructionError
from sllmbench.cubin.ptx.registry import Kind, decodes
from sllmbench.cubin.ptx.scalars import SCALARS, Array, Scalar
from sllmbench.cubin.ptx.syntax import Immediate

if TYPE_CHECKING:
    from collections.abc import Callable

    from sllmbench.cubin.ptx.state import Index, State, Step
    from sllmbench.cubin.ptx.syntax import Instruction

integer = partial(decodes, kind=Kind.INTEGER)


def apply(
    state: State, instruction: Instruction, function: Callable[..., Array], *types: Scalar
) -> Step:
    """destination = function(sources), with types: the destination's, then each source's."""
    target = state.target(instruction.operands[0], types[0])
    sources = [
        state.read(operand, scalar)
        for operand, scalar in zip(instruction.operands[1:], types[1:], strict=True)
    ]

    def step(index: Index) -> None:
        target[index] = function(*(source[index] for source in sources))

    return step


def divide(a: Array, b: Array) -> Array:
    """Integers' quotient, towards zero."""
    return (a - remainder(a, b)) // b


def remainder(a: Array, b: Array) -> Array:
    """What division towards zero leaves: it has the dividend's sign."""
    if (b == 0).any():
        raise Fault("divides integers by zero")
    left: Array = np.fmod(a, b)
    return left


_SIMPLE: dict[str, Callable[..., Array]] = {
    "add": np.add,
    "sub": np.subtract,
    "min": np.minimum,
    "max": np.maximum,
    "div": divide,
    "rem": remainder,
    "neg": np.negative,
    "abs": np.abs,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "xor": np.bitwise_xor,
    "not": np.invert,  # of predicates too
}


@integer(*_SIMPLE)
def _simple(state: State, i: Instruction) -> Step:
    return apply(state, i, _SIMPLE[i.opcode], *[i.types[0]] * len(i.operands))


@integer("mul", "mad", modifiers="lo hi wide")
def _multiply(state: State, i: Instruction) -> Step:
    """Both halves of a product, or one, and perhaps a sum with it."""
    scalar = i.types[0]
    result = SCALARS[f"{scalar.kind}{scalar.bits * 2}"] if "wide" in i.modifiers else scalar
    product: Callable[[Array, Array], Array]
    if "wide" in i.modifiers:
        product = partial(_product_wide, wide=result)
    else:
        product = _product_high if "hi" in i.modifiers else np.multiply
    if i.opcode == "mul":
        return apply(state, i, product, result, scalar, scalar)
    return apply(state, i, lambda a, b, c: product(a, b) + c, result, scalar, scalar, result)


def _product_wide(a: Array, b: Array, wide: Scalar) -> Array:
    product: Array = a.astype(wide.dtype) * b.astype(wide.dtype)
    return product


def _product_high(a: Array, b: Array) -> Array:
    bits = a.itemsize * 8
    if bits < 64:
        wide = np.dtype(f"{a.dtype.kind}{bits // 4}")
        product: Array = a.astype(wide) * b.astype(wide) >> np.asarray(bits, wide)
        return product.astype(a.dtype)
    unsigned = _product_high_unsigned(a.view(np.uint64), b.view(np.uint64))
    if a.dtype.kind == "u":
        return unsigned
    # Read as unsigned, a negative factor is 2**64 too large.
    return unsigned.view(np.int64) - np.where(a < 0, b, 0) - np.where(b < 0, a, 0)


def _product_high_unsigned(a: Array, b: Array) -> Array:
    half, low = np.uint64(32), np.uint64(0xFFFFFFFF)
    a_high, a_low, b_high, b_low = a >> half, a & low, b >> half, b & low
    middle = a_high * b_low + ((a_low * b_low) >> half)
    other = a_low * b_high + (middle & low)
    high: Array = a_high * b_high + (middle >> half) + (other >> half)
    return high


@integer("shl", "shr")
def _shift(state: State, i: Instruction) -> Step:
    """By more than there are bits, all of them go: zeros, or copies of the sign, come in."""
    scalar, shift = i.types[0], np.left_shift if i.opcode == "shl" else np.right_shift

    def shifted(a: Array, by: Array) -> Array:
        result: Array = shift(a, np.minimum(by, scalar.bits).astype(a.dtype))
        return result

    return apply(state, i, shifted, scalar, scalar, SCALARS["u32"])


@integer("shf", modifiers="l r wrap clamp")
def _funnel(state: State, i: Instruction) -> Step:
    """Shift 64 bits, b above a, and keep the half that bits go into."""
    word = SCALARS["b32"]

    def shifted(a: Array, b: Array, by: Array) -> Array:
        both = b.astype(np.uint64) << np.uint64(32) | a
        by = (np.minimum(by, 32) if "clamp" in i.modifiers else by & 31).astype(np.uint64)
        moved = both << by >> np.uint64(32) if "l" in i.modifiers else both >> by
        return moved.astype(np.uint32)

    return apply(state, i, shifted, word, word, word, SCALARS["u32"])


@integer("bfe")
def _extract(state: State, i: Instruction) -> Step:
    """A field of bits; above it zeros, or copies of its last bit that the number has."""
    scalar, u32 = i.types[0], SCALARS["u32"]

    def extract(a: Array, position: Array, length: Array) -> Array:
        position = np.minimum(position & 0xFF, scalar.bits).astype(np.uint64)
        length = (length & 0xFF).astype(np.uint64)
        kept = np.minimum(length, np.uint64(scalar.bits) - position)
        mask = (np.uint64(1) << kept) - np.uint64(1)
        bits = a.astype(np.uint64)
        field = (bits >> position) & mask
        if scalar.kind == "s":
            last = np.minimum(position + length - np.uint64(1), np.uint64(scalar.bits - 1))
            negative = (length > 0) & (bits >> last & np.uint64(1) == 1)
            field = np.where(negative, field | ~mask, field)
        return field.astype(a.dtype)

    return apply(state, i, extract, scalar, scalar, u32, u32)


@integer("bfi")
def _insert(state: State, i: Instruction) -> Step:
    """The low bits of a, laid over a field of b."""
    scalar, u32 = i.types[0], SCALARS["u32"]

    def insert(a: Array, b: Array, position: Array, length: Array) -> Array:
        position = np.minimum(position & 0xFF, scalar.bits).astype(a.dtype)
        length = np.minimum(length & 0xFF, scalar.bits).astype(a.dtype)
        one = np.asarray(1, a.dtype)
        mask = ((one << length) - one) << position
        inserted: Array = (b & ~mask) | (a << position & mask)
        return inserted

    return apply(state, i, insert, scalar, scalar, scalar, u32, u32)


@integer("lop3")
def _table(state: State, i: Instruction) -> Step:
    """Any function of three bits, given by its table of truth."""
    *_, last = i.operands
    if not isinstance(last, Immediate):
        raise UnknownInstructionError("a table that is no constant")
    table, word = last.bits, SCALARS["b32"]

    def look_up(a: Array, b: Array, c: Array, _: Array) -> Array:
        result = np.zeros_like(a)
        for row in range(8):
            if table >> row & 1:
                result |= (a if row & 4 else ~a) & (b if row & 2 else ~b) & (c if row & 1 else ~c)
        return result

    return apply(state, i, look_up, *[word] * 5)


@integer("prmt")
def _permute(state: State, i: Instruction) -> Step:
    """Four bytes picked out of eight, b's above a's; with a selector's bit 3, only its sign."""
    word = SCALARS["b32"]

    def permute(a: Array, b: Array, selectors: Array) -> Array:
        pool = (b.astype(np.uint64) << np.uint64(32) | a).reshape(-1, 1).view(np.uint8)
        selector = selectors[:, None] >> np.arange(0, 16, 4, dtype=np.uint32)
        picked = np.take_along_axis(pool, (selector & 7).astype(np.intp), axis=1)
        signs = (picked.view(np.int8) >> 7).view(np.uint8)
        chosen = np.where(selector & 8, signs, picked)
        return np.ascontiguousarray(chosen).view(np.uint32)[:, 0]

    return apply(state, i, permute, word, word, word, word)


@integer("popc", "clz")
def _count(state: State, i: Instruction) -> Step:
    """Bits that are 1, or zeros above the first that is."""

    def count(a: Array) -> Array:
        bits = np.unpackbits(
            np.ascontiguousarray(a).reshape(-1, 1).view(np.uint8), axis=1, bitorder="little"
        )
        if i.opcode == "popc":
            ones: Array = bits.sum(axis=1, dtype=np.uint32)
            return ones
        leading: Array = np.where(bits.any(axis=1), bits[:, ::-1].argmax(axis=1), bits.shape[1])
        return leading.astype(np.uint32)

    return apply(state, i, count, SCALARS["u32"], i.types[0])


@integer("dp4a")
def _dot_of_bytes(state: State, i: Instruction) -> Step:
    """c plus the products of four pairs of bytes."""
    kinds = [np.dtype(np.int8 if scalar.kind == "s" else np.uint8) for scalar in i.types]
    word, result = SCALARS["b32"], SCALARS["u32" if {t.kind for t in i.types} == {"u"} else "s32"]

    def dot(a: Array, b: Array, c: Array) -> Array:
        # Contiguous, so that each word is seen as its four bytes.
        left = np.ascontiguousarray(a).reshape(-1, 1).view(kinds[0]).astype(c.dtype)
        right = np.ascontiguousarray(b).reshape(-1, 1).view(kinds[1]).astype(c.dtype)
        total: Array = c + (left * right).sum(axis=1, dtype=c.dtype)
        return total

    return apply(state, i, dot, result, word, word, result)
