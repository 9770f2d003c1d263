"""Tensor cores: products of small matrices that a warp's lanes hold together."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from sllmbench.cubin.ptx.faults import Fault, UnknownInstructionError
from sllmbench.cubin.ptx.registry import Kind, decodes
from sllmbench.cubin.ptx.rounding import sum_of_three_to_odd
from sllmbench.cubin.ptx.scalars import SCALARS
from sllmbench.cubin.ptx.state import elements

if TYPE_CHECKING:
    from collections.abc import Callable

    from sllmbench.cubin.ptx.scalars import Array, Scalar
    from sllmbench.cubin.ptx.state import Index, State, Step
    from sllmbench.cubin.ptx.syntax import Instruction, Operand

mma = partial(decodes, kind=Kind.MMA)

# Lane 4g + t holds row g of what is spread over rows, and of its columns those from width * t on.
_G, _T = np.arange(32) >> 2, np.arange(32) & 3


def whole_warps(state: State, index: Index) -> Array:
    """The numbers of the warps that execute; Fault where one has not all its lanes here."""
    executing = state.executing(index)
    warps = np.flatnonzero(executing.any(axis=1))
    if not executing[warps].all():
        raise Fault("some lanes of a warp do not take part")
    return warps


class _Fragments:
    """A matrix's registers in all lanes, each seen as the numbers that it packs."""

    def __init__(self, state: State, operand: Operand, scalar: Scalar, count: int) -> None:
        registers = elements(operand)
        if len(registers) != count:
            raise UnknownInstructionError(f"{len(registers)} registers where there are {count}")
        self._registers = [state.read(register, SCALARS["b32"]) for register in registers]
        self._dtype = scalar.dtype

    def read(self, warps: Array) -> Array:
        """[warps, lanes, registers, numbers of a register]."""
        words = np.stack([r.reshape(-1, 32)[warps] for r in self._registers], axis=2)
        numbers: Array = words[..., None].view(self._dtype)
        return numbers


@mma("mma", modifiers="sync aligned m16n8k8 m8n8k16 row col satfinite")
def _multiply(state: State, i: Instruction) -> Step:
    shape = next((part for part in i.modifiers if part.startswith("m")), "")
    types = ".".join(scalar.name for scalar in i.types)
    known: dict[tuple[str, str], Callable[[State, Instruction], Step]] = {
        ("m16n8k8", "f16.f16.f16.f16"): _multiply_f16,
        ("m16n8k8", "f32.f16.f16.f32"): _multiply_f16,
        ("m8n8k16", "s32.s8.s8.s32"): _multiply_s8,
    }
    if (shape, types) not in known or i.modifiers[3:] != ("row", "col"):
        raise UnknownInstructionError("not with this shape, these types or layouts")
    return known[shape, types](state, i)


def _targets(state: State, operand: Operand) -> list[Array]:
    return [state.target(e, SCALARS["b32"]).reshape(-1, 32) for e in elements(operand)]


def _multiply_s8(state: State, i: Instruction) -> Step:
    """d[8][8] = a[8][16] b[16][8] + c. A lane's a: row g, b: column g, four numbers from 4t on."""
    s8, s32 = SCALARS["s8"], SCALARS["s32"]
    left = _Fragments(state, i.operands[1], s8, 1)
    right = _Fragments(state, i.operands[2], s8, 1)
    start = _Fragments(state, i.operands[3], s32, 2)
    targets = _targets(state, i.operands[0])

    def multiply(index: Index) -> None:
        warps = whole_warps(state, index)
        a = left.read(warps).reshape(-1, 8, 16).astype(np.int32)
        b = right.read(warps).reshape(-1, 8, 16).astype(np.int32)
        product = a @ b.transpose(0, 2, 1)
        c = start.read(warps)
        for column, target in enumerate(targets):
            d = product[:, _G, 2 * _T + column] + c[:, :, column, 0]
            target[warps] = d.view(np.uint32)

    return multiply


def _multiply_f16(state: State, i: Instruction) -> Step:
    """d[16][8] = a[16][8] b[8][8] + c: the exact sum, rounded once to the type of d.

    A lane's a: rows g and g + 8, columns 2t and 2t + 1; b: these rows of column g; c, d as a. What
    a GPU sums is said to be less exact, in ways that are not published.
    """
    f16, sums = SCALARS["f16"], i.types[0]
    count = 2 if sums.bits == 16 else 4
    left = _Fragments(state, i.operands[1], f16, 2)
    right = _Fragments(state, i.operands[2], f16, 1)
    start = _Fragments(state, i.operands[3], sums, count)
    targets = _targets(state, i.operands[0])

    def multiply(index: Index) -> None:
        warps = whole_warps(state, index)
        a = _rows(left.read(warps))
        b = right.read(warps).reshape(-1, 8, 8)  # [warps, column, k]
        # [warps, lanes, registers, numbers] of float32 is [.., 4, 1], of float16 [.., 2, 2].
        c = _rows(start.read(warps).reshape(len(warps), 32, 2, 2))
        products = a.astype(np.float64)[:, :, None, :] * b.astype(np.float64)[:, None, :, :]
        d = _exact_sum(products, c.astype(np.float64)).astype(sums.dtype)
        spread = np.stack([d[:, _G[:, None] + 8 * half, _COLUMNS] for half in (0, 1)], axis=2)
        words = np.ascontiguousarray(spread).reshape(len(warps), 32, 4).view(np.uint32)
        for register, target in enumerate(targets):
            target[warps] = words[:, :, register]

    return multiply


_COLUMNS = 2 * _T[:, None] + np.arange(2)


def _rows(fragments: Array) -> Array:
    """[warps, lanes, halves, 2] numbers as [warps, 16, 8]."""
    spread = fragments.reshape(-1, 8, 4, 2, 2).transpose(0, 3, 1, 2, 4)
    return spread.reshape(-1, 16, 8)


def _exact_sum(products: Array, c: Array) -> Array:
    """Products summed over the last axis, plus c: exact, then rounded to odd in float64.

    A product of two float16 is a multiple of 2**-48 below 2**32. Cut at 2**-8, either part of each
    has at most 41 bits, so that eight of them sum exactly.
    """
    upper = np.rint(products * 256) / 256
    lower = products - upper
    if not np.isfinite(products).all():
        lower = np.where(np.isfinite(products), lower, 0)
    total = sum_of_three_to_odd(upper.sum(axis=-1), lower.sum(axis=-1), c)
    # Zeros sum to -0 where none of them is +0; numbers that cancel, to +0.
    zero = np.nonzero(total == 0)
    negative = np.signbit(products[zero]).all(axis=-1) & np.signbit(c[zero])
    total[zero] = np.where(negative, -0.0, 0.0)
    return total


@mma("ldmatrix", modifiers="sync aligned m8n8 x1 x2 x4 trans shared shared::cta")
def _load_matrix(state: State, i: Instruction) -> Step:
    """8x8 matrices of 16-bit numbers: lane 8q + r names the address of row r of matrix q.

    Lane 4g + t gets row g, columns 2t and 2t + 1; with .trans, column g of these rows.
    """
    count = next(int(part[1]) for part in i.modifiers if part in ("x1", "x2", "x4"))
    transposed = "trans" in i.modifiers
    address, targets = state.addresses(i.operands[1]), _targets(state, i.operands[0])
    if len(targets) != count or not {"shared", "shared::cta"} & set(i.modifiers):
        raise UnknownInstructionError("not with these registers, or not from shared memory")
    half = np.dtype(np.uint16)

    def load(index: Index) -> None:
        warps = whole_warps(state, index)
        addresses = address(index).reshape(-1, 32)[:, : 8 * count].reshape(-1)
        lanes = (warps[:, None] * 32 + np.arange(8 * count)).reshape(-1)
        rows = state.shared.gather(lanes, addresses, half, 8).reshape(-1, count, 8, 8)
        if state.observe:
            state.observe(i, "shared", 16, lanes, addresses)
        if transposed:
            rows = rows.transpose(0, 1, 3, 2)
        words = np.ascontiguousarray(rows).view(np.uint32)  # [warps, matrices, 8, 4]
        for matrix, target in enumerate(targets):
            target[warps] = words[:, matrix].reshape(-1, 32)

    return load
