"""Bytes that lanes read and write, with what is known of each: the base, and a GPU's own memory."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from sllmbench.cubin.ptx.faults import Fault

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from sllmbench.cubin.ptx.scalars import Array

_PAGE_BYTES = 256  # a buffer's copy keeps the buffer's address modulo this
_UNDEFINED, _GIVEN, _WRITTEN = 0, 1, 2


class Storage:
    """Bytes, and whether each has a value: to read one that has none is a fault."""

    def __init__(self, size_bytes: int) -> None:
        """Bytes without values."""
        self._data = np.zeros(size_bytes + -size_bytes % 16, np.uint8)
        self._state = np.full_like(self._data, _UNDEFINED)

    def _take(self, offsets: Array, dtype: np.dtype[Any], count: int) -> Array:
        """`count` numbers from each offset: [offsets, count]."""
        rows = offsets // (dtype.itemsize * count)
        undefined = (self._view(self._state, np.dtype(np.uint8), dtype.itemsize * count)[rows]) == 0
        if undefined.any():
            where = int(offsets[np.flatnonzero(undefined.any(axis=1))[0]])
            raise Fault(f"reads bytes that nobody has written, at {self._name(where)}")
        taken: Array = self._view(self._data, dtype, count)[rows]
        return taken

    def _put(self, offsets: Array, values: Array) -> None:
        """Rows of numbers, [offsets, count], to each offset."""
        count = values.shape[1]
        rows = offsets // (values.itemsize * count)
        self._view(self._data, values.dtype, count)[rows] = values
        self._view(self._state, np.dtype(np.uint8), values.itemsize * count)[rows] = _WRITTEN

    def _name(self, offset: int) -> str:
        return f"{offset:#x}"

    @staticmethod
    def _view(array: Array, dtype: np.dtype[Any], count: int) -> Array:
        view: Array = array.view(dtype).reshape(-1, count)
        return view


def check_alignment(addresses: Array, width: int) -> None:
    """Fault where an access of `width` bytes is not on a multiple of them."""
    off = addresses % np.asarray(width, addresses.dtype)
    if off.any():
        where = int(addresses[np.flatnonzero(off)[0]])
        raise Fault(f"misaligned access of {width} bytes at {where:#x}")


@dataclass(frozen=True)
class _Buffer:
    address: int
    size: int
    offset: int  # of its copy
    writable: bool


class Memory(Storage):
    """A GPU's memory: copies of buffers, at the addresses that kernels are given for them."""

    def __init__(self) -> None:
        """No buffer yet."""
        super().__init__(0)
        self._buffers: list[_Buffer] = []  # by address
        self._index()

    def register(
        self,
        address: int,
        buffer: bytes | bytearray | Array,
        *,
        writable: bool = True,
        defined: bool = True,
    ) -> None:
        """Put a copy of a buffer at an address; ValueError where it overlaps another.

        One that is not `defined` must be written before it is read.
        """
        data = (
            np.frombuffer(buffer, np.uint8)
            if isinstance(buffer, bytes | bytearray)
            else (np.ascontiguousarray(buffer).reshape(-1).view(np.uint8))
        )
        place = bisect_right([b.address for b in self._buffers], address)
        for other in self._buffers[max(place - 1, 0) : place + 1]:
            if address < other.address + other.size and other.address < address + len(data):
                raise ValueError(f"buffers at {address:#x} and {other.address:#x} overlap")
        offset = len(self._data) + (address - len(self._data)) % _PAGE_BYTES
        grown = offset + len(data)
        self._data = _grow(self._data, grown + -grown % 16)
        self._state = _grow(self._state, len(self._data))
        self._data[offset : offset + len(data)] = data
        self._state[offset : offset + len(data)] = _GIVEN if defined else _UNDEFINED
        self._buffers.insert(place, _Buffer(address, len(data), offset, writable))
        self._index()

    def read(self, address: int) -> NDArray[np.uint8]:
        """What the buffer registered at an address holds now, as bytes; KeyError if none is."""
        buffer = self._at(address)
        return self._data[buffer.offset : buffer.offset + buffer.size].copy()

    def written(self, address: int) -> NDArray[np.bool_]:
        """Which bytes of the buffer at an address a kernel has written; KeyError if none is."""
        buffer = self._at(address)
        written: NDArray[np.bool_] = (
            self._state[buffer.offset : buffer.offset + buffer.size] == _WRITTEN
        )
        return written

    def gather(self, lanes: Array, addresses: Array, dtype: np.dtype[Any], count: int) -> Array:
        """What lanes read: [lanes, count] numbers."""
        return self._take(self._locate(addresses, dtype.itemsize * count), dtype, count)

    def gather_constant(self, addresses: Array, dtype: np.dtype[Any], count: int) -> Array:
        """The same through the read-only cache (.nc), which does not see a kernel's own writes."""
        offsets = self._locate(addresses, dtype.itemsize * count)
        rows = offsets // (dtype.itemsize * count)
        state = self._view(self._state, np.dtype(np.uint8), dtype.itemsize * count)[rows]
        if (state == _WRITTEN).any():
            raise Fault("reads through the read-only cache what a kernel has written")
        return self._take(offsets, dtype, count)

    def scatter(self, lanes: Array, addresses: Array, values: Array) -> None:
        """Write [lanes, count] numbers."""
        width = values.itemsize * values.shape[1]
        self._put(self._locate(addresses, width, writes=True), values)

    def update(
        self, addresses: Array, values: Array, change: Callable[[Array, Array], Array]
    ) -> Array:
        """One lane after another, new = change(old, value); what each found: [lanes]."""
        offsets = self._locate(addresses, values.itemsize, writes=True)
        found = np.empty_like(values)
        for lane in range(len(offsets)):
            here, one = offsets[lane : lane + 1], slice(lane, lane + 1)
            found[one] = self._take(here, values.dtype, 1)[:, 0]
            self._put(here, change(found[one], values[one])[:, None])
        return found

    def seal(self) -> None:
        """What kernels have written so far is from now on given: the next launch may cache it."""
        self._state[self._state == _WRITTEN] = _GIVEN

    def _at(self, address: int) -> _Buffer:
        for buffer in self._buffers:
            if buffer.address == address:
                return buffer
        raise KeyError(f"no buffer is registered at {address:#x}")

    def _index(self) -> None:
        self._starts = np.array([b.address for b in self._buffers], np.uint64)
        self._sizes = np.array([b.size for b in self._buffers], np.int64)
        self._offsets = np.array([b.offset for b in self._buffers], np.int64)
        self._writable = np.array([b.writable for b in self._buffers], np.bool_)

    def _locate(self, addresses: Array, width: int, *, writes: bool = False) -> Array:
        """Where the copies of these addresses lie; Fault where no buffer holds the whole access."""
        check_alignment(addresses, width)
        which = np.searchsorted(self._starts, addresses, side="right").astype(np.int64) - 1
        if not len(self._buffers) or (which < 0).any():
            raise Fault(self._outside(int(addresses.min()), width))
        inside = (addresses - self._starts[which]).astype(np.int64)
        outside = (inside < 0) | (inside + width > self._sizes[which])
        if outside.any():
            raise Fault(self._outside(int(addresses[np.flatnonzero(outside)[0]]), width))
        if writes and not self._writable[which].all():
            raise Fault("writes to a buffer that is only to be read")
        located: Array = inside + self._offsets[which]
        return located

    def _outside(self, address: int, width: int) -> str:
        below = [b for b in self._buffers if b.address <= address]
        if not below:
            return f"out of bounds: {width} bytes at {address:#x}, below every buffer"
        past = address + width - below[-1].address - below[-1].size
        return (
            f"out of bounds: {width} bytes at {address:#x}, {past} bytes past the end of the "
            f"{below[-1].size} bytes at {below[-1].address:#x}"
        )

    def _name(self, offset: int) -> str:
        holds = next(b for b in self._buffers if b.offset <= offset < b.offset + b.size)
        return f"{holds.address + offset - holds.offset:#x}"


def _grow(array: Array, size: int) -> Array:
    grown = np.zeros(size, array.dtype)
    grown[: len(array)] = array
    return grown
