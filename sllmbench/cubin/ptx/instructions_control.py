"""Where to go on: branches, ends, barriers."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from sllmbench.cubin.ptx.faults import Fault, UnknownInstructionError
from sllmbench.cubin.ptx.instructions_warp import check_members
from sllmbench.cubin.ptx.registry import Kind, decodes
from sllmbench.cubin.ptx.scalars import SCALARS
from sllmbench.cubin.ptx.syntax import Immediate, Symbol

if TYPE_CHECKING:
    from sllmbench.cubin.ptx.state import Index, State, Step
    from sllmbench.cubin.ptx.syntax import Instruction

control = partial(decodes, kind=Kind.CONTROL)

# Behind these, lanes need not go on together; so the code is cut there.
PARTING = ("bra", "ret", "exit", "bar", "barrier")


@control("bra", modifiers="uni")
def _branch(state: State, i: Instruction) -> Step:
    label = i.operands[0]
    if not isinstance(label, Symbol) or label.name not in state.entry.labels:
        raise UnknownInstructionError("to no label of the kernel")
    to = state.entry.labels[label.name]
    return lambda index: state.flow.go(index, to)


@control("ret", "exit", modifiers="uni")
def _leave(state: State, i: Instruction) -> Step:
    return state.flow.leave


@control("trap")
def _trap(state: State, i: Instruction) -> Step:
    def trap(index: Index) -> None:
        raise Fault("the kernel gives up")

    return trap


@control("bar", "barrier", modifiers="sync aligned cta warp")
def _meet(state: State, i: Instruction) -> Step:
    if "warp" in i.modifiers:
        return _meet_in_warp(state, i)
    barrier, *count = i.operands
    if not isinstance(barrier, Immediate) or not all(isinstance(c, Immediate) for c in count):
        raise UnknownInstructionError("a barrier that is no constant")
    if any(isinstance(c, Immediate) and c.bits != state.threads_per_block for c in count):
        raise UnknownInstructionError("a barrier of a part of the block")
    number = barrier.bits
    return lambda index: state.flow.wait(index, i.number + 1, number)


def _meet_in_warp(state: State, i: Instruction) -> Step:
    mask = state.read(i.operands[0], SCALARS["b32"])

    def meet(index: Index) -> None:
        check_members(state, index, mask[index])
        state.shared.races.pass_warp_barrier(state.lanes[index])

    return meet
