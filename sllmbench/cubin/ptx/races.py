"""Races on shared memory: two threads, one place, at least one writes, and no barrier between."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from sllmbench.cubin.ptx.faults import Fault

if TYPE_CHECKING:
    from sllmbench.cubin.ptx.scalars import Array

_NOBODY, _SEVERAL = -1, -2
_UNDER_WAY = np.iinfo(
    np.int32
).max  # the time of a copy that has not landed: later than any barrier


class Races:
    """Who wrote and who read each granule of shared memory last, and when.

    Time is counted in barriers. Accesses of different warps are ordered by the block's barriers
    alone, those of one warp also by `bar.warp.sync`.
    """

    def __init__(self, granules: int, granule_bytes: int, lanes_per_block: int, lanes: int) -> None:
        """Of all blocks together: granules of shared memory, and lanes."""
        self._granule = granule_bytes
        self._lanes_per_block = lanes_per_block
        self._now = 1
        self._block_barrier = np.zeros(lanes // lanes_per_block, np.int32)  # the last one's time
        self._warp_barrier = np.zeros(lanes // 32, np.int32)
        self._write_time = np.zeros(granules, np.int32)
        self._writer = np.full(granules, _NOBODY, np.int32)  # a lane
        self._read_time = np.zeros(granules, np.int32)
        self._reader = np.full(granules, _NOBODY, np.int32)  # a lane, or several of a warp
        self._reading_warp = np.full(granules, _NOBODY, np.int32)  # a warp, or several

    def pass_block_barrier(self, blocks: Array) -> None:
        """All threads of these blocks have met."""
        self._block_barrier[blocks] = self._now
        self._now += 1

    def pass_warp_barrier(self, lanes: Array) -> None:
        """These lanes' warps have met."""
        self._warp_barrier[lanes >> 5] = self._now
        self._now += 1

    def read(self, lanes: Array, offsets: Array, width: int) -> None:
        """Lanes read `width` bytes each; Fault where that races with a write."""
        places, who = self._places(lanes, offsets, width)
        self._check_writes(places, who)
        since = self._read_time[places]
        warp = who >> 5
        recent = since > self._block_barrier[who // self._lanes_per_block]
        mixed = recent & (self._reading_warp[places] != warp)
        self._claim(self._reading_warp, places, np.where(mixed, _SEVERAL, warp))
        recent &= since > self._warp_barrier[warp]
        mixed = recent & (self._reader[places] != who)
        self._claim(self._reader, places, np.where(mixed, _SEVERAL, who))
        self._read_time[places] = self._now

    def write(self, lanes: Array, offsets: Array, width: int) -> None:
        """Lanes write `width` bytes each; Fault where that races with a read or a write."""
        places, who = self._places(lanes, offsets, width)
        self._check_writes(places, who)
        since, warp = self._read_time[places], who >> 5
        other_warp = self._reading_warp[places] != warp
        other_lane = (self._reader[places] != who) & (since > self._warp_barrier[warp])
        recent = since > self._block_barrier[who // self._lanes_per_block]
        self._fault_where(recent & (other_warp | other_lane), places, who, "read", self._reader)
        self._writer[places] = who
        self._fault_where(self._writer[places] != who, places, who, "written", self._writer)
        self._write_time[places] = self._now

    def begin_copy(self, lanes: Array, offsets: Array, width: int) -> None:
        """Lanes have started asynchronous copies: nobody may touch the places until they land."""
        self.write(lanes, offsets, width)
        places, _ = self._places(lanes, offsets, width)
        self._write_time[places] = _UNDER_WAY
        self._writer[places] = _NOBODY

    def land_copy(self, lanes: Array, offsets: Array, width: int) -> None:
        """The copies count as these lanes' writes, made now."""
        places, who = self._places(lanes, offsets, width)
        self._write_time[places] = self._now
        self._writer[places] = who

    def _places(self, lanes: Array, offsets: Array, width: int) -> tuple[Array, Array]:
        each = np.arange(width // self._granule)
        places = (offsets // self._granule)[:, None] + each
        return places, np.broadcast_to(lanes.astype(np.int32)[:, None], places.shape)

    def _check_writes(self, places: Array, who: Array) -> None:
        since, writer = self._write_time[places], self._writer[places]
        recent = since > self._block_barrier[who // self._lanes_per_block]
        other_warp = (writer >> 5) != (who >> 5)
        other_lane = (writer != who) & (since > self._warp_barrier[who >> 5])
        self._fault_where(recent & (other_warp | other_lane), places, who, "written", self._writer)

    @staticmethod
    def _claim(owners: Array, places: Array, claims: Array) -> None:
        """Note each place's owner; where lanes of one access differ, several."""
        owners[places] = claims
        owners[places[owners[places] != claims]] = _SEVERAL

    def _fault_where(
        self, race: Array, places: Array, who: Array, verb: str, others: Array
    ) -> None:
        if not race.any():
            return
        row, column = np.argwhere(race)[0]
        lane, other = int(who[row, column]), int(others[places[row, column]])
        by = {
            _NOBODY: "a copy that is still under way",
            _SEVERAL: "several threads",
        }.get(other, f"thread {other % self._lanes_per_block}")
        raise Fault(
            f"race on shared memory: thread {lane % self._lanes_per_block} of its block touches "
            f"what {by} has {verb}, with no barrier between"
        )
