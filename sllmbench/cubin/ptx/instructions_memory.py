"""Loads, stores, atomics, asynchronous copies, fences."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from sllmbench.cubin.ptx.faults import Fault, UnknownInstructionError
from sllmbench.cubin.ptx.registry import Kind, decodes
from sllmbench.cubin.ptx.scalars import SCALARS
from sllmbench.cubin.ptx.state import (
    CONSTANTS_ADDRESS,
    LOCAL_WINDOW,
    SHARED_WINDOW,
    WINDOW_BYTES,
    access_bytes,
    elements,
)
from sllmbench.cubin.ptx.syntax import Immediate

if TYPE_CHECKING:
    from collections.abc import Callable

    from sllmbench.cubin.ptx.scalars import Array
    from sllmbench.cubin.ptx.state import Index, State, Step
    from sllmbench.cubin.ptx.syntax import Instruction

memory = partial(decodes, kind=Kind.MEMORY)

_ORDERS = "weak volatile relaxed acquire release acq_rel cta gpu sys"
_HINTS = (
    "L1::no_allocate L1::evict_last L1::evict_first L2::64B L2::128B L2::256B ca cg cs lu cv wb wt"
)
_SPACES = "global shared shared::cta local const param"


class Space(Protocol):
    """A memory that lanes read and write."""

    def gather(self, lanes: Array, addresses: Array, dtype: np.dtype[Any], count: int) -> Array:
        """What lanes read: [lanes, count] numbers."""

    def scatter(self, lanes: Array, addresses: Array, values: Array) -> None:
        """Write [lanes, count] numbers."""


class _Generic:
    """All spaces behind one address: each access goes to the one whose window holds it."""

    def __init__(self, state: State) -> None:
        self._windows: list[tuple[int, int, Space]] = [
            (SHARED_WINDOW, WINDOW_BYTES, state.shared),
            (LOCAL_WINDOW, WINDOW_BYTES, state.local),
        ]
        self._memory = state.memory
        self._constants = state.constants

    def _split(self, addresses: Array) -> list[tuple[Array, int, Space]]:
        """Which lanes go where, and what to take off their addresses."""
        rest = np.ones(len(addresses), np.bool_)
        parts: list[tuple[Array, int, Space]] = []
        for start, size, space in self._windows:
            here = (addresses >= np.uint64(start)) & (addresses < np.uint64(start + size))
            parts.append((here, start, space))
            rest &= ~here
        constant = rest & (addresses >= np.uint64(CONSTANTS_ADDRESS))
        parts.append((constant, 0, self._constants))
        parts.append((rest & ~constant, 0, self._memory))
        return [part for part in parts if part[0].any()]

    def gather(self, lanes: Array, addresses: Array, dtype: np.dtype[Any], count: int) -> Array:
        values = np.empty((len(lanes), count), dtype)
        for here, start, space in self._split(addresses):
            values[here] = space.gather(
                lanes[here], addresses[here] - np.uint64(start), dtype, count
            )
        return values

    def scatter(self, lanes: Array, addresses: Array, values: Array) -> None:
        for here, start, space in self._split(addresses):
            space.scatter(lanes[here], addresses[here] - np.uint64(start), values[here])


class _ReadOnlyCache:
    def __init__(self, state: State) -> None:
        self._memory = state.memory

    def gather(self, lanes: Array, addresses: Array, dtype: np.dtype[Any], count: int) -> Array:
        return self._memory.gather_constant(addresses, dtype, count)

    def scatter(self, lanes: Array, addresses: Array, values: Array) -> None:
        raise AssertionError("no instruction stores through the read-only cache")


def _space(state: State, i: Instruction) -> Space:
    if "shared" in i.modifiers or "shared::cta" in i.modifiers:
        return state.shared
    if "local" in i.modifiers:
        return state.local
    if "const" in i.modifiers:
        return state.constants
    if "param" in i.modifiers:
        return state.parameters
    if "nc" in i.modifiers:
        return _ReadOnlyCache(state)
    # A module's variables are global too, and lie elsewhere than buffers.
    if "global" in i.modifiers and not state.entry.constants.by_name:
        return state.memory
    return _Generic(state)


def _observer(state: State, i: Instruction) -> Callable[[Array, Array], None]:
    space = next((part for part in ("global", "shared") if part in i.modifiers), None)
    if space is None or state.observe is None:
        return lambda lanes, addresses: None
    return partial(state.observe, i, space, access_bytes(i))


@memory("ld", modifiers=f"{_SPACES} {_ORDERS} {_HINTS} nc v2 v4")
def _load(state: State, i: Instruction) -> Step:
    scalar = i.types[-1]
    targets = [state.target(element, scalar) for element in elements(i.operands[0])]
    space, address = _space(state, i), state.addresses(i.operands[1])
    observe = _observer(state, i)

    def load(index: Index) -> None:
        lanes, addresses = state.lanes[index], address(index)
        values = space.gather(lanes, addresses, scalar.dtype, len(targets))
        observe(lanes, addresses)
        for column, target in enumerate(targets):
            target[index] = values[:, column]

    return load


@memory("st", modifiers=f"{_SPACES} {_ORDERS} {_HINTS} v2 v4")
def _store(state: State, i: Instruction) -> Step:
    scalar = i.types[-1]
    space, address = _space(state, i), state.addresses(i.operands[0])
    sources = [state.read(element, scalar) for element in elements(i.operands[1])]
    observe = _observer(state, i)

    def store(index: Index) -> None:
        lanes, addresses = state.lanes[index], address(index)
        values = np.stack([source[index] for source in sources], axis=1)
        space.scatter(lanes, addresses, values)
        observe(lanes, addresses)

    return store


_UPDATES: dict[str, Callable[[Array, Array], Array]] = {
    "add": np.add,
    "min": np.minimum,
    "max": np.maximum,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "exch": lambda old, new: new,
    "inc": lambda old, most: np.where(old >= most, 0, old + 1).astype(old.dtype),
}


@memory("atom", "red", modifiers=f"global {_ORDERS} {' '.join(_UPDATES)}")
def _atomic(state: State, i: Instruction) -> Step:
    """One lane after another, in rising order. Only on global memory."""
    scalar = i.types[-1]
    name = next(part for part in i.modifiers if part in _UPDATES)
    if scalar.kind == "f" and name != "add":
        raise UnknownInstructionError("only add of floats")
    place, value = i.operands[-2:]
    address, source = state.addresses(place), state.read(value, scalar)
    target = state.target(i.operands[0], scalar) if i.opcode == "atom" else None

    def update(index: Index) -> None:
        found = state.memory.update(address(index), source[index], _UPDATES[name])
        if target is not None:
            target[index] = found

    return update


@memory(
    "cp",
    modifiers=f"async ca cg shared shared::cta global commit_group wait_group wait_all {_HINTS}",
)
def _copy(state: State, i: Instruction) -> Step:
    """Asynchronous copies: they land where the lane waits for them, and nobody may look before."""
    if "async" not in i.modifiers:
        raise UnknownInstructionError("not asynchronous")
    if "commit_group" in i.modifiers:
        return lambda index: state.shared.commit_copies(state.lanes[index])
    if "wait_all" in i.modifiers:
        return lambda index: state.shared.wait_for_copies(state.lanes[index], -1)
    if "wait_group" in i.modifiers:
        pending = i.operands[0]
        if not isinstance(pending, Immediate):
            raise UnknownInstructionError("a number of groups that is no constant")
        return lambda index: state.shared.wait_for_copies(state.lanes[index], pending.bits)
    return _start_copy(state, i)


def _start_copy(state: State, i: Instruction) -> Step:
    to, of = (state.addresses(operand) for operand in i.operands[:2])
    width = access_bytes(i)
    size = state.read(i.operands[3], SCALARS["u32"]) if len(i.operands) > 3 else None
    byte = np.dtype(np.uint8)

    def copy(index: Index) -> None:
        lanes = state.lanes[index]
        given = np.full(len(lanes), width) if size is None else size[index]
        if not ((given == 0) | (given == width)).all():
            raise Fault(f"copies a part of {width} bytes, which is not modelled")
        values, reads = np.zeros((len(lanes), width), byte), given > 0
        if reads.any():
            values[reads] = state.memory.gather(lanes[reads], of(index)[reads], byte, width)
        state.shared.copy_later(lanes, to(index), values)
        if state.observe:
            state.observe(i, "global", width, lanes[reads], of(index)[reads])

    return copy


@memory("membar", "fence", modifiers=f"gl sc {_ORDERS}")
def _fence(state: State, i: Instruction) -> Step:
    """Nothing: every access here is seen by all lanes at once."""
    return lambda index: None
