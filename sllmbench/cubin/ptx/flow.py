"""Where each thread stands: its program counter, or that it waits at a barrier, or has left."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from sllmbench.cubin.ptx.faults import Fault

if TYPE_CHECKING:
    from sllmbench.cubin.ptx.scalars import Array
    from sllmbench.cubin.ptx.state import Index

_WAITING = 1 << 30  # in the place of a program counter, and above all of them
_GONE = _WAITING + 1


class Flow:
    """The program counters of some blocks' lanes."""

    def __init__(self, exists: Array, lanes_per_block: int) -> None:
        """Lanes that exist start at the first instruction."""
        self._lanes_per_block = lanes_per_block
        self._pc = np.where(exists, 0, _GONE)
        self._resume = np.zeros_like(self._pc)  # of those that wait: where they go on
        self._barrier = np.zeros_like(self._pc)  # and the barrier's number

    def next(self) -> tuple[int, Index] | None:
        """The lowest program counter of those that can run, and who is there; None if none can."""
        pc = int(self._pc.min())
        if pc >= _WAITING:
            return None
        here = np.flatnonzero(self._pc == pc)
        return pc, slice(None) if len(here) == len(self._pc) else here

    def go(self, index: Index, pc: int) -> None:
        """These lanes go on at a place."""
        self._pc[index] = pc

    def leave(self, index: Index) -> None:
        """These lanes have ended."""
        self._pc[index] = _GONE

    def wait(self, index: Index, resume: int, barrier: int) -> None:
        """These lanes go on at a place when all others of their blocks have come to the barrier."""
        self._pc[index] = _WAITING
        self._resume[index] = resume
        self._barrier[index] = barrier

    def release(self) -> Array:
        """Let those go on that wait, now that nobody can run: their blocks' numbers, or none.

        A warp's lanes must wait at the same instruction, a block's at the same barrier.
        """
        waits = self._pc == _WAITING
        lanes = np.flatnonzero(waits)
        blocks: Array = np.unique(lanes // self._lanes_per_block)
        for per_group, values, what in (
            (32, self._resume, "lanes of one warp wait at different instructions"),
            (self._lanes_per_block, self._barrier, "threads of one block wait at two barriers"),
        ):
            groups = values.reshape(-1, per_group)
            waiting = waits.reshape(-1, per_group)
            least = np.where(waiting, groups, _GONE).min(axis=1)
            most = np.where(waiting, groups, -1).max(axis=1)
            if (waiting.any(axis=1) & (least != most)).any():
                raise Fault(f"a barrier that is not met by all: {what}")
        self._pc[lanes] = self._resume[lanes]
        return blocks
