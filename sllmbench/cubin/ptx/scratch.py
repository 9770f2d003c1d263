"""Memory that is a block's (shared) or a thread's (local) own, and that starts without values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from sllmbench.cubin.ptx.faults import Fault
from sllmbench.cubin.ptx.memory import Storage, check_alignment
from sllmbench.cubin.ptx.races import Races

if TYPE_CHECKING:
    from sllmbench.cubin.ptx.scalars import Array
    from sllmbench.cubin.ptx.syntax import Variables


class Scratch(Storage):
    """The same variables for every owner; between them nobody may read or write."""

    def __init__(self, variables: Variables, owners: int, lanes_per_owner: int) -> None:
        """All owners' variables, without values."""
        self._size = variables.size + -variables.size % 16
        super().__init__(owners * self._size)
        self._lanes_per_owner = lanes_per_owner
        self._inside = np.zeros(self._size + 1, np.bool_)
        for variable in variables.by_name.values():
            self._inside[variable.offset : variable.offset + variable.size] = True

    def gather(self, lanes: Array, addresses: Array, dtype: np.dtype[Any], count: int) -> Array:
        """What lanes read: [lanes, count] numbers."""
        return self._take(self._locate(lanes, addresses, dtype.itemsize * count), dtype, count)

    def scatter(self, lanes: Array, addresses: Array, values: Array) -> None:
        """Write [lanes, count] numbers."""
        width = values.itemsize * values.shape[1]
        self._put(self._locate(lanes, addresses, width), values)

    def _locate(self, lanes: Array, addresses: Array, width: int) -> Array:
        check_alignment(addresses, width)
        first = addresses.astype(np.int64)
        end = first + width
        outside = (first < 0) | (end > self._size)
        # The gaps are wider than any access, so its two ends say where it is.
        if not outside.any():
            outside = ~(self._inside[first] & self._inside[end - 1])
        if outside.any():
            where = int(first[np.flatnonzero(outside)[0]])
            raise Fault(f"out of bounds: {width} bytes at {where:#x}, in no variable")
        located: Array = lanes // self._lanes_per_owner * self._size + first
        return located

    def _name(self, offset: int) -> str:
        return f"{offset % self._size:#x}"


@dataclass
class _Copy:
    lanes: Array
    offsets: Array
    values: Array  # [lanes, bytes]
    groups: Array  # of each lane's copies, the group it belongs to


class Shared(Scratch):
    """Shared memory: also checks for races, and holds asynchronous copies back until waited for."""

    def __init__(
        self, variables: Variables, blocks: int, lanes_per_block: int, granule_bytes: int
    ) -> None:
        """All blocks' variables; `granule_bytes`: the least that an instruction accesses."""
        super().__init__(variables, blocks, lanes_per_block)
        lanes = blocks * lanes_per_block
        granules = len(self._data) // granule_bytes
        self.races = Races(granules, granule_bytes, lanes_per_block, lanes)
        self._copies: list[_Copy] = []
        self._committed = np.zeros(lanes, np.int64)  # groups of each lane

    def gather(self, lanes: Array, addresses: Array, dtype: np.dtype[Any], count: int) -> Array:
        """What lanes read: [lanes, count] numbers."""
        width = dtype.itemsize * count
        offsets = self._locate(lanes, addresses, width)
        self.races.read(lanes, offsets, width)
        return self._take(offsets, dtype, count)

    def scatter(self, lanes: Array, addresses: Array, values: Array) -> None:
        """Write [lanes, count] numbers."""
        width = values.itemsize * values.shape[1]
        offsets = self._locate(lanes, addresses, width)
        self.races.write(lanes, offsets, width)
        self._put(offsets, values)

    def copy_later(self, lanes: Array, addresses: Array, values: Array) -> None:
        """Start copies of [lanes, bytes]; they belong to each lane's next group."""
        offsets = self._locate(lanes, addresses, values.shape[1])
        self.races.begin_copy(lanes, offsets, values.shape[1])
        self._copies.append(_Copy(lanes, offsets, values, self._committed[lanes]))

    def commit_copies(self, lanes: Array) -> None:
        """End these lanes' group."""
        self._committed[lanes] += 1

    def wait_for_copies(self, lanes: Array, pending: int) -> None:
        """Land these lanes' copies, all but those of the last `pending` groups.

        With -1, also those of no group yet.
        """
        waiting = np.zeros(len(self._committed), np.bool_)
        waiting[lanes] = True
        left = []
        for copy in self._copies:
            land = waiting[copy.lanes] & (copy.groups < self._committed[copy.lanes] - pending)
            if land.any():
                self.races.land_copy(copy.lanes[land], copy.offsets[land], copy.values.shape[1])
                self._put(copy.offsets[land], copy.values[land])
            if not land.all():
                keep = ~land
                left.append(
                    _Copy(
                        copy.lanes[keep], copy.offsets[keep], copy.values[keep], copy.groups[keep]
                    )
                )
        self._copies = left
