"""What the tests call besides products: whole weights as fp16, the rotation with its append."""

from __future__ import annotations

import ctypes
from ctypes import c_int64, c_void_p
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from shim.library import Library, Memory, Run
from shim.weights import by_row_blocks, tiles

if TYPE_CHECKING:
    from shim.weights import Weight


def dequantized(library: Library, weight: Weight, *, offset_bytes: int = 0) -> Run:
    """What the kernel makes of a weight, [n, k]; AssertionError where it writes elsewhere."""
    memory = Memory(library)
    place = memory.place
    zeros = None if weight.zeros is None else place(by_row_blocks(weight.zeros)).address
    order = None if weight.order is None else place(weight.order).address
    out = place(
        np.full((weight.n, weight.k), np.nan, np.float16),
        read_only=False,
        offset_bytes=offset_bytes,
    )
    library.calls.host_clear_launches()
    status = library.calls.host_dequantize(
        weight.bits,
        *(c_int64(length) for length in (weight.n, weight.k, weight.group)),
        c_void_p(place(tiles(weight)).address),
        c_void_p(place(by_row_blocks(weight.scales)).address),
        *(c_void_p(address) for address in (zeros, order, out.address)),
    )
    if status != 0:
        raise AssertionError(f"launched with status {status}")
    memory.check()
    values = out.view.view(np.float16).reshape(weight.n, weight.k)
    return Run(values, memory, library.launches())


LENGTHS = ("tokens", "query_heads", "kv_heads", "dim", "value_dim")


class RopeAppend(ctypes.Structure):
    """RopeAppend of ``cuda/rope.h``."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in LENGTHS),
        *((name, ctypes.c_void_p) for name in ("q", "k", "v")),
        *((name, ctypes.c_int64) for name in ("stride_q", "stride_k", "stride_v")),
        *((name, ctypes.c_void_p) for name in ("cos", "sin")),
        *((name, ctypes.c_int64) for name in ("table_positions", "table_pairs")),
        *((name, ctypes.c_void_p) for name in ("pairs", "positions", "slots")),
        *((name, ctypes.c_void_p) for name in ("k_cache", "v_cache")),
        ("capacity", ctypes.c_int64),
    )


@dataclass(frozen=True)
class Shape:
    """Of one call. ``full_dim`` is that of the head before pruning; ``gap`` lies between tokens."""

    tokens: int
    query_heads: int
    kv_heads: int
    dim: int
    value_dim: int
    full_dim: int
    gap: int = 0
    offset_bytes: int = 0
    capacity: int = 19


LLAMA = Shape(5, 32, 8, 64, 64, 64)
ROPE_SHAPES = (
    LLAMA,
    replace(LLAMA, tokens=1, gap=8),
    replace(LLAMA, offset_bytes=2),
    replace(LLAMA, gap=3),
    replace(LLAMA, dim=48, value_dim=40),
    replace(LLAMA, query_heads=8, dim=80, full_dim=128, value_dim=112),
    Shape(3, 3, 1, 6, 5, 10),
    Shape(2, 2, 2, 2, 1, 2),
)


class Call:
    """Random inputs of a shape, in memory with guards, and what should come of them."""

    def __init__(self, library: Library, shape: Shape, seed: int = 0) -> None:
        """Place everything."""
        self.library, self.shape, self.memory = library, shape, Memory(library)
        rng = np.random.default_rng(seed)
        heads, groups, half = shape.query_heads, shape.kv_heads, shape.dim // 2
        full = shape.full_dim // 2
        pruned = full != half
        self.q, self.k, self.v = (
            rng.normal(size=(shape.tokens, count, dim)).astype(np.float16)
            for count, dim in ((heads, shape.dim), (groups, shape.dim), (groups, shape.value_dim))
        )
        angles = rng.uniform(-np.pi, np.pi, (37, full))
        self.cos, self.sin = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
        kept = [np.sort(rng.permutation(full)[:half]) for _ in range(groups)]
        self.pairs = np.array(kept, np.uint8) if pruned else None
        self.positions = rng.integers(0, 37, shape.tokens)
        self.slots = rng.permutation(shape.capacity)[: shape.tokens].astype(np.int64)

        p = RopeAppend(shape.tokens, heads, groups, shape.dim, shape.value_dim)
        self.q_array = self._rows(self.q, read_only=False)
        p.q, p.k, p.v = (a.address for a in (self.q_array, self._rows(self.k), self._rows(self.v)))
        p.stride_q, p.stride_k, p.stride_v = (
            a[0].size + shape.gap for a in (self.q, self.k, self.v)
        )
        p.cos, p.sin = (self.memory.place(table).address for table in (self.cos, self.sin))
        p.table_positions, p.table_pairs = self.cos.shape
        p.pairs = self.memory.place(self.pairs).address if self.pairs is not None else None
        p.positions, p.slots = (
            self.memory.place(values).address for values in (self.positions, self.slots)
        )
        self.caches = [
            self.memory.place(
                np.full((groups, shape.capacity, dim), 7, np.float16), read_only=False
            )
            for dim in (shape.dim, shape.value_dim)
        ]
        p.k_cache, p.v_cache = (cache.address for cache in self.caches)
        p.capacity = shape.capacity
        self.p = p

    def refusal(self) -> str | None:
        """The launcher's."""
        self.library.calls.host_rope_append_refusal.restype = ctypes.c_char_p
        reason = self.library.calls.host_rope_append_refusal(ctypes.byref(self.p))
        return None if reason is None else str(reason.decode())

    def _rows(self, values: Any, *, read_only: bool = True) -> Any:
        tokens = len(values)
        rows = np.full((tokens, values[0].size + self.shape.gap), 7, np.float16)
        rows[:, : values[0].size] = values.reshape(tokens, -1)
        return self.memory.place(
            rows, read_only=read_only, defined=True, offset_bytes=self.shape.offset_bytes
        )

    def run(self) -> tuple[Any, Any, Any]:
        """q with what lies between its tokens, and both caches."""
        self.library.calls.host_clear_launches()
        status = self.library.calls.host_rope_append(ctypes.byref(self.p))
        if status != 0:
            raise AssertionError(f"launched with status {status}")
        self.memory.check()
        q = self.q_array.view.view(np.float16).reshape(self.shape.tokens, -1)
        k, v = (
            cache.view.view(np.float16).reshape(self.shape.kv_heads, self.shape.capacity, -1)
            for cache in self.caches
        )
        return q, k, v

    def replayable(self) -> Run:
        """The same as one call that can be launched again."""
        return Run(self.run(), self.memory, self.library.launches())

    def rotated(self, x: Any) -> tuple[Any, Any]:
        """Float64 [tokens, heads, dim], and the sum of both terms' magnitudes."""
        half = self.shape.dim // 2
        low, high = x[..., :half].astype(np.float64), x[..., half:].astype(np.float64)
        pairs = np.arange(half) if self.pairs is None else self.pairs
        pairs = np.broadcast_to(pairs, (self.shape.kv_heads, half))
        pairs = np.repeat(pairs, x.shape[1] // self.shape.kv_heads, axis=0)
        cos, sin = (t[self.positions][:, pairs].astype(np.float64) for t in (self.cos, self.sin))
        out = np.concatenate([low * cos - high * sin, high * cos + low * sin], -1)
        size = np.concatenate(
            [np.abs(low * cos) + np.abs(high * sin), np.abs(high * cos) + np.abs(low * sin)], -1
        )
        return out, size
