"""Instructions → basic blocks → loops → the main one."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING

from sllmbench.cubin import access
from sllmbench.cubin.classes import is_tensor

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sllmbench.cubin.sass import Function, Instruction

_JUMPS = frozenset({"BRA", "JMP", "BRX", "JMX", "BRXU"})
_INDIRECT = frozenset({"BRX", "JMX", "BRXU"})
_ENDS = frozenset({"EXIT", "RET", "KILL", "BPT"})


@dataclass(frozen=True)
class Loop:
    """A natural loop: its blocks in the order of their addresses, those of inner loops included."""

    blocks: tuple[tuple[Instruction, ...], ...]
    header: int
    """The address that its back edges go to."""
    inner: tuple[Loop, ...]
    """The loops right inside it."""

    @cached_property
    def instructions(self) -> tuple[Instruction, ...]:
        """All of a trip, an inner loop's once."""
        return tuple(i for block in self.blocks for i in block)

    @property
    def own(self) -> tuple[Instruction, ...]:
        """Those that belong to no inner loop."""
        inner = {i.address for loop in self.inner for i in loop.instructions}
        return tuple(i for i in self.instructions if i.address not in inner)


def has_indirect_branches(function: Function) -> bool:
    """Whether a branch takes its target from a register, so that loops may be missed."""
    return any(i.name in _INDIRECT for i in function.instructions)


def find_loops(function: Function) -> list[Loop]:
    """Every loop of a function, outer before inner, in the order of their headers."""
    blocks = _blocks(function.instructions)
    after = _successors(blocks)
    dominators = _dominators(after)
    bodies: dict[int, set[int]] = {}
    for block in dominators:
        for header in after[block]:
            if header in dominators[block]:  # an edge back to where every way comes from
                bodies.setdefault(header, {header}).update(
                    _reaching(after, dominators, block, header)
                )
    outer_first = sorted(bodies, key=lambda header: (-len(bodies[header]), header))
    made: dict[int, Loop] = {}
    for header in reversed(outer_first):
        inside = [h for h in made if h != header and bodies[h] < bodies[header]]
        nested = [h for h in inside if not any(bodies[h] < bodies[other] for other in inside)]
        made[header] = Loop(
            blocks=tuple(blocks[b] for b in sorted(bodies[header])),
            header=blocks[header][0].address,
            inner=tuple(made[h] for h in sorted(nested)),
        )
    return sorted(made.values(), key=lambda loop: (loop.header, -len(loop.blocks)))


def main_loop(loops: Sequence[Loop]) -> Loop | None:
    """The loop that does a kernel's work, by what stands in it and in no inner loop.

    That is where most of these are, the first that any loop has: tensor instructions, bytes that
    are read once, bytes from global memory, instructions. An unrolled loop so wins over what is
    left of its trips.
    """
    return max(loops, key=lambda loop: _work(loop.own), default=None)


def _work(instructions: Sequence[Instruction]) -> tuple[int, int, int, int]:
    loads = [i for i in instructions if access.is_global_load(i)]
    return (
        sum(map(is_tensor, instructions)),
        sum(access.width_bytes(i) for i in loads if access.is_read_once(i)),
        sum(map(access.width_bytes, loads)),
        len(instructions),
    )


def _blocks(instructions: Sequence[Instruction]) -> list[tuple[Instruction, ...]]:
    if not instructions:
        return []
    starts = {instructions[0].address}
    for instruction, following in pairwise(instructions):
        if instruction.name in _JUMPS or instruction.name in _ENDS:
            starts.add(following.address)
            if instruction.target is not None:
                starts.add(instruction.target)
    blocks: list[list[Instruction]] = []
    for instruction in instructions:
        if instruction.address in starts:
            blocks.append([])
        blocks[-1].append(instruction)
    return [tuple(block) for block in blocks]


def _successors(blocks: Sequence[tuple[Instruction, ...]]) -> list[list[int]]:
    """Where each block may go on, by its index.

    A call returns, so it is no end. BRA.DIV leaves only where a warp has lost its common step: what
    it does there is outside the loop that it comes back to.
    """
    at = {block[0].address: index for index, block in enumerate(blocks)}
    after = []
    for index, block in enumerate(blocks):
        last = block[-1]
        jumps = last.name in _JUMPS
        rare = "DIV" in last.modifiers
        always = last.predicate in (None, "@PT") and not _condition(last)
        to = []
        if jumps and not rare and last.target in at:
            to.append(at[last.target])
        if (rare or not (always and (jumps or last.name in _ENDS))) and index + 1 < len(blocks):
            to.append(index + 1)
        after.append(to)
    return after


def _condition(branch: Instruction) -> bool:
    """Whether a branch has a predicate among its operands: ``BRA P1, 0x40`` or ``BRA !UP0, …``."""
    first = branch.operands.partition(",")[0].strip().lstrip("!~")
    return first.startswith(("P", "UP")) and first not in ("PT", "UPT")


def _dominators(after: Sequence[Sequence[int]]) -> dict[int, set[int]]:
    """For each block that can be reached, the blocks on every way to it, itself included."""
    if not after:
        return {}
    order = list(_reachable(after))
    before: dict[int, list[int]] = {block: [] for block in order}
    for block in order:
        for following in after[block]:
            before[following].append(block)
    found = {block: set(order) for block in order}
    found[0] = {0}
    changed = True
    while changed:
        changed = False
        for block in order[1:]:
            met = set.intersection(*(found[b] for b in before[block])) | {block}
            if met != found[block]:
                found[block], changed = met, True
    return found


def _reachable(after: Sequence[Sequence[int]]) -> Iterator[int]:
    seen, waiting = {0}, [0]
    while waiting:
        block = waiting.pop()
        yield block
        for following in after[block]:
            if following not in seen:
                seen.add(following)
                waiting.append(following)


def _reaching(
    after: Sequence[Sequence[int]], reachable: dict[int, set[int]], end: int, header: int
) -> set[int]:
    """The blocks that get to ``end`` without passing ``header``: the loop of that back edge."""
    body, waiting = {header, end}, [end] if end != header else []
    while waiting:
        block = waiting.pop()
        for earlier in reachable:
            if block in after[earlier] and earlier not in body:
                body.add(earlier)
                waiting.append(earlier)
    return body
