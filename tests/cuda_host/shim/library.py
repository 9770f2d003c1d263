"""The kernels' library through ctypes, on memory with guards around every array."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from shim.weights import Weight, by_row_blocks, tiles

if TYPE_CHECKING:
    from pathlib import Path

GUARD_BYTES = 256
GUARD = 0xFF  # NaN as fp16 and float32


class Product(ctypes.Structure):
    """HostProduct of ``entries.cpp``."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("n", "k", "group", "m", "stride_x")),
        *((name, ctypes.c_void_p) for name in ("tiles", "scales", "zeros", "order", "x")),
        *((name, ctypes.c_void_p) for name in ("y", "workspace")),
        *((name, ctypes.c_int32) for name in ("bits", "activations")),
        *((name, ctypes.c_int32) for name in ("sm", "has_tensor_cores", "multiprocessors")),
    )


@dataclass(frozen=True)
class Device:
    """What a launch is for."""

    sm: int = 75
    has_tensor_cores: bool = True
    multiprocessors: int = 40


@dataclass(frozen=True)
class Launch:
    """A kernel's mangled name, three lengths each of grid and block, each argument's bytes."""

    symbol: str
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    arguments: tuple[bytes, ...]


@dataclass
class Array:
    """Bytes between two guards; ``before`` is what they were at first."""

    address: int
    view: Any  # uint8
    guards: tuple[Any, Any]
    before: bytes
    read_only: bool
    defined: bool  # may be read before a kernel writes it
    buffer: Any


class Memory:
    """Arrays for one call. ``check`` says whether a kernel wrote where it must not."""

    def __init__(self, library: Library) -> None:
        """Nothing in it yet."""
        self._library, self.arrays = library, list[Array]()

    def place(
        self,
        values: Any,
        *,
        read_only: bool = True,
        defined: bool = False,
        offset_bytes: int = 0,
    ) -> Array:
        """A copy of an array, 256-byte aligned but for the offset."""
        data = np.ascontiguousarray(values).reshape(-1).view(np.uint8)
        buffer = np.full(len(data) + offset_bytes + 3 * GUARD_BYTES, GUARD, np.uint8)
        start = -buffer.ctypes.data % GUARD_BYTES + GUARD_BYTES + offset_bytes
        end = start + len(data)
        buffer[start:end] = data
        array = Array(
            buffer.ctypes.data + start,
            buffer[start:end],
            (buffer[:start], buffer[end:]),
            data.tobytes(),
            read_only,
            defined or read_only,
            buffer,
        )
        for guard in array.guards:
            self._library.calls.host_close(guard.ctypes.data, len(guard))
        self.arrays.append(array)
        return array

    def check(self) -> None:
        """AssertionError where a guard or what is only to be read has changed."""
        for array in self.arrays:
            for guard in array.guards:
                self._library.calls.host_open(guard.ctypes.data, len(guard))
                if (guard != GUARD).any():
                    raise AssertionError("a kernel wrote outside of its arrays")
            if array.read_only and array.view.tobytes() != array.before:
                raise AssertionError("a kernel wrote into its inputs")


@dataclass
class Run:
    """One call: its result ([m, n], or a probe's words), the memory it ran on, its launches."""

    y: Any
    memory: Memory
    launches: list[Launch]


class Refused(Exception):  # noqa: N818
    """The kernel's refusal."""


class Library:
    """One build of the kernels."""

    def __init__(self, path: Path) -> None:
        """Load it."""
        self.calls = ctypes.CDLL(str(path))
        self.calls.host_refusal.restype = ctypes.c_char_p
        self.calls.host_workspace_bytes.restype = ctypes.c_int64
        self.calls.host_launches.restype = ctypes.c_int64
        self.calls.host_launch_symbol.restype = ctypes.c_char_p
        self.calls.host_launch_arguments.restype = ctypes.c_int64
        self.calls.host_launch_argument.restype = ctypes.c_void_p
        for name in ("host_close", "host_open"):
            getattr(self.calls, name).argtypes = [ctypes.c_void_p, ctypes.c_size_t]

    def set_seed(self, seed: int) -> None:
        """The order in which blocks and threads run."""
        self.calls.host_set_seed(ctypes.c_uint64(seed))

    def launches(self) -> list[Launch]:
        """What was launched since they were last cleared."""
        return [self._launch(ctypes.c_int64(i)) for i in range(self.calls.host_launches())]

    def _launch(self, i: ctypes.c_int64) -> Launch:
        shape, size = (ctypes.c_uint * 6)(), ctypes.c_int64()
        self.calls.host_launch_shape(i, shape)
        arguments = []
        for j in range(self.calls.host_launch_arguments(i)):
            at = self.calls.host_launch_argument(i, ctypes.c_int64(j), ctypes.byref(size))
            arguments.append(ctypes.string_at(at, size.value))
        symbol = self.calls.host_launch_symbol(i).decode()
        x, y, z, a, b, c = shape
        return Launch(symbol, (x, y, z), (a, b, c), tuple(arguments))

    def probe(
        self,
        name: str,
        blocks: int,
        words: tuple[Any, Any, Any],
        given: int,
        *,
        threads: int = 32,
        seed: int = 0,
    ) -> Run:
        """Run a kernel of ``probes.cu``: uint32 a, b and c, and ``given`` words of d."""
        memory = Memory(self)
        inputs = [memory.place(np.ascontiguousarray(part, np.uint32)) for part in words]
        d = memory.place(np.full(given, 0xA5A5A5A5, np.uint32), read_only=False)
        self.set_seed(seed)
        self.calls.host_clear_launches()
        pointers = [ctypes.c_void_p(array.address) for array in (*inputs, d)]
        status = self.calls.host_probe(name.encode(), blocks, threads, *pointers)
        if status != 0:
            raise AssertionError(f"{name}: status {status}")
        memory.check()
        return Run(d.view.view(np.uint32), memory, self.launches())

    def product(
        self,
        memory: Memory,
        weight: Weight,
        x: Any,
        device: Device,
        *,
        activations: int = 16,
        offset_bytes: int = 0,
        gap: int = 0,
    ) -> Product:
        """A product of fp16 x [m, k] whose rows have ``gap`` NaN between them."""
        m, k = x.shape
        rows = np.full((m, k + gap), np.nan, np.float16)
        rows[:, :k] = x
        rows = rows.reshape(-1)[: (m - 1) * (k + gap) + k]  # the last has none behind it
        p = Product(weight.n, k, weight.group, m, k + gap, bits=weight.bits)
        p.activations, p.sm = activations, device.sm
        p.has_tensor_cores, p.multiprocessors = device.has_tensor_cores, device.multiprocessors
        p.tiles = memory.place(tiles(weight)).address
        p.scales = memory.place(by_row_blocks(weight.scales)).address
        if weight.zeros is not None:
            p.zeros = memory.place(by_row_blocks(weight.zeros)).address
        if weight.order is not None:
            p.order = memory.place(weight.order).address
        p.x = memory.place(rows, offset_bytes=offset_bytes).address
        return p

    def multiply(
        self, kernel: str, weight: Weight, x: Any, device: Device, *, seed: int = 0, **options: int
    ) -> Run:
        """Run a kernel; Refused, or AssertionError where it fails or writes what it must not."""
        memory, name = Memory(self), kernel.encode()
        p = self.product(memory, weight, x, device, **options)
        y = memory.place(np.full((len(x), weight.n), np.nan, np.float16), read_only=False)
        p.y = y.address
        if reason := self.calls.host_refusal(name, ctypes.byref(p)):
            raise Refused(reason.decode())
        bytes_ = self.calls.host_workspace_bytes(name, ctypes.byref(p))
        p.workspace = memory.place(np.full(bytes_, GUARD, np.uint8), read_only=False).address
        self.set_seed(seed)
        self.calls.host_clear_launches()
        status = self.calls.host_multiply(name, ctypes.byref(p))
        if status != 0:
            raise AssertionError(f"launched with status {status}")
        memory.check()
        return Run(y.view.view(np.float16).reshape(len(x), weight.n), memory, self.launches())
