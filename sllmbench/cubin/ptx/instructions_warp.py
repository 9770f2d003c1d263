"""What the lanes of a warp do together: shuffles, votes, and meeting."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from sllmbench.cubin.ptx.faults import Fault
from sllmbench.cubin.ptx.registry import Kind, decodes
from sllmbench.cubin.ptx.scalars import SCALARS
from sllmbench.cubin.ptx.syntax import Pair

if TYPE_CHECKING:
    from collections.abc import Callable

    from sllmbench.cubin.ptx.scalars import Array
    from sllmbench.cubin.ptx.state import Index, State, Step
    from sllmbench.cubin.ptx.syntax import Instruction

warp = partial(decodes, kind=Kind.WARP)

_BITS = np.uint32(1) << np.arange(32, dtype=np.uint32)


def check_members(state: State, index: Index, members: Array) -> None:
    """Fault unless all lanes that a mask names are here, and those here are named."""
    lanes = state.lanes[index]
    here = (state.executing(index) * _BITS).sum(axis=1, dtype=np.uint32)[lanes >> 5]
    missing = members & ~here
    if missing.any():
        at = int(np.flatnonzero(missing)[0])
        raise Fault(
            f"the mask {int(members[at]):#010x} names lanes that do not take part: "
            f"{int(missing[at]):#010x}"
        )
    if (members & _BITS[lanes & 31] == 0).any():
        raise Fault("a lane takes part that the mask does not name")


@warp("shfl", modifiers="sync up down bfly idx")
def _shuffle(state: State, i: Instruction) -> Step:
    word = SCALARS["b32"]
    pair = i.operands[0] if isinstance(i.operands[0], Pair) else None
    target = state.target(pair.first if pair else i.operands[0], word)
    in_range = state.target(pair.second, SCALARS["pred"]) if pair else None
    value, b, c, mask = (state.read(operand, word) for operand in i.operands[1:5])
    mode = next(part for part in i.modifiers if part != "sync")

    def shuffle(index: Index) -> None:
        check_members(state, index, mask[index])
        lanes = state.lanes[index]
        lane = lanes & 31
        source, valid = _source(mode, lane, b[index].astype(np.int64), c[index].astype(np.int64))
        source = lanes - lane + np.where(valid, source, lane)
        if not state.executing(index).reshape(-1)[source].all():
            raise Fault("reads from a lane that does not take part")
        target[index] = value[source]
        if in_range is not None:
            in_range[index] = valid

    return shuffle


def _source(mode: str, lane: Array, b: Array, c: Array) -> tuple[Array, Array]:
    """The lane to read from, and whether it is within the segment."""
    by, clamp, segment = b & 31, c & 31, c >> 8 & 31
    last = (lane & segment) | (clamp & ~segment)
    if mode == "up":
        return lane - by, lane - by >= last
    if mode == "down":
        return lane + by, lane + by <= last
    if mode == "bfly":
        return lane ^ by, (lane ^ by) <= last
    source = (lane & segment) | (by & ~segment)
    return source, source <= last


@warp("vote", modifiers="sync all any uni ballot")
def _vote(state: State, i: Instruction) -> Step:
    scalar = i.types[0]
    target = state.target(i.operands[0], scalar)
    holds = state.predicate(i.operands[1])
    mask = state.read(i.operands[2], SCALARS["b32"])
    decide: dict[str, Callable[[Array, Array], Array]] = {
        "ballot": lambda votes, members: votes,
        "any": lambda votes, members: votes != 0,
        "all": lambda votes, members: votes == members,
        "uni": lambda votes, members: (votes == members) | (votes == 0),
    }
    mode = next(part for part in i.modifiers if part in decide)

    def vote(index: Index) -> None:
        check_members(state, index, mask[index])
        votes = np.zeros(state.lane_count, np.uint32)
        votes[index] = holds(index)
        ballots = (votes.reshape(-1, 32) * _BITS).sum(axis=1, dtype=np.uint32)
        target[index] = decide[mode](ballots[state.lanes[index] >> 5] & mask[index], mask[index])

    return vote


@warp("activemask")
def _active_mask(state: State, i: Instruction) -> Step:
    target = state.target(i.operands[0], SCALARS["b32"])

    def active(index: Index) -> None:
        here = (state.executing(index) * _BITS).sum(axis=1, dtype=np.uint32)
        target[index] = here[state.lanes[index] >> 5]

    return active
