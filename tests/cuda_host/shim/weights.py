"""Quantised weights in NumPy, and ``csrc/cuda/layouts.h`` spelled a second time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

ROWS = 16
_NIBBLES = (0, 2, 4, 6, 1, 3, 5, 7)
"""The k of a 32-bit word, from its lowest nibble."""


@dataclass(frozen=True)
class Weight:
    """[n, k] codes (0 to 15, or int8), scales and zero points [n, groups], the order of x."""

    bits: int
    group: int
    codes: Any
    scales: Any
    zeros: Any = None
    order: Any = None

    @property
    def n(self) -> int:
        """Rows."""
        return int(self.codes.shape[0])

    @property
    def k(self) -> int:
        """Columns."""
        return int(self.codes.shape[1])

    @property
    def differences(self) -> Any:
        """code - zero point, int64 [n, k]."""
        zeros = 8 if self.bits == 4 else 0
        return self.codes.astype(np.int64) - (
            zeros if self.zeros is None else self._spread("zeros")
        )

    @property
    def values(self) -> Any:
        """float64 [n, k], columns as they are stored."""
        return self._spread("scales") * self.differences

    def multiplied(self, x: Any) -> Any:
        """The float64 oracle: x [m, k] as the caller has it, times the weight, [m, n]."""
        return self.in_order(x).astype(np.float64) @ self.values.T

    def in_order(self, x: Any) -> Any:
        """x with its columns as the weight's are stored."""
        return x if self.order is None else x[:, self.order]

    def _spread(self, name: str) -> Any:
        wide = np.float64 if name == "scales" else np.int64
        return np.repeat(getattr(self, name), self.group, axis=1)[:, : self.k].astype(wide)


def random_weight(
    bits: int, n: int, k: int, group: int, *, zeros: bool, order: bool, seed: int
) -> Weight:
    """Codes of the whole range, scales of both signs and of a few sizes; group 0 is a row."""
    rng = np.random.default_rng(seed)
    group = min(group, k) or k
    groups = -(-k // group)
    codes = rng.integers(0, 16, (n, k), np.uint8)
    if bits == 8:
        codes = rng.integers(-128, 128, (n, k)).astype(np.int8)
    scales = rng.uniform(0.5, 2, (n, groups)) / 64 * rng.choice([-1, 1], (n, groups))
    points = rng.integers(0, 17 if bits == 4 else 256, (n, groups)).astype(np.uint8)
    places = rng.permutation(k).astype(np.int32)
    return Weight(
        bits,
        group,
        codes,
        scales.astype(np.float16),
        points if zeros else None,
        places if order else None,
    )


def tiles(weight: Weight) -> Any:
    """The codes as bytes in their tiles; rows of padding hold codes that nobody may see."""
    length = 64 if weight.bits == 4 else 32
    blocks, along_k = -(-weight.n // ROWS), -(-weight.k // length)
    full = np.full((blocks * ROWS, along_k * length), 0x7 if weight.bits == 4 else 0x55, np.uint8)
    nothing = 8 if weight.bits == 4 else 0
    full[: weight.n] = nothing if weight.zeros is None else weight.zeros[:, -1:]
    full[: weight.n, : weight.k] = weight.codes.view(np.uint8)
    # [block, upper or lower half, row of the half, tile, quarter, k of a lane]
    parts = full.reshape(blocks, 2, 8, along_k, 4, length // 4)
    lanes = parts.transpose(0, 3, 2, 4, 1, 5)
    if weight.bits == 8:
        return np.ascontiguousarray(lanes).reshape(-1)
    words = lanes.reshape(*lanes.shape[:-1], 2, 8)[..., _NIBBLES] & 15
    return np.ascontiguousarray(words[..., 0::2] | words[..., 1::2] << 4).reshape(-1)


def by_row_blocks(values: Any) -> Any:
    """[n, groups] as [row blocks, groups, 16], rows of padding 0."""
    n, groups = values.shape
    full = np.zeros((-(-n // ROWS) * ROWS, groups), values.dtype)
    full[:n] = values
    return np.ascontiguousarray(full.reshape(-1, ROWS, groups).transpose(0, 2, 1))
