"""Matrices as the lanes of a warp hold them, as the PTX ISA's chapter on ``mma`` draws them."""

from __future__ import annotations

from typing import Any

import numpy as np

LANES = np.arange(32)
GROUP, THREAD = LANES // 4, LANES % 4
"""The chapter's groupID and threadID_in_group."""


def _pairs(low: Any, high: Any) -> Any:
    """Halves as words, the first in the lower bits."""
    bits = [part.astype(np.float16).view(np.uint16).astype(np.uint32) for part in (low, high)]
    return bits[0] | bits[1] << 16


def a_m16n8k8(a: Any) -> Any:
    """A [tiles, 16, 8] as [tiles, 32 lanes, 2] words: rows g, g + 8; columns 2t, 2t + 1."""
    return np.stack(
        [
            _pairs(a[:, GROUP + row, 2 * THREAD], a[:, GROUP + row, 2 * THREAD + 1])
            for row in (0, 8)
        ],
        axis=2,
    )


def b_m16n8k8(b: Any) -> Any:
    """B [tiles, 8, 8] as [tiles, 32]: rows 2t, 2t + 1; column g."""
    return _pairs(b[:, 2 * THREAD, GROUP], b[:, 2 * THREAD + 1, GROUP])


c_m16n8k8 = a_m16n8k8
"""C and D [tiles, 16, 8] of halves lie as A does."""


def c_m16n8k8_floats(c: Any) -> Any:
    """C and D [tiles, 16, 8] of floats as [tiles, 32, 4] words."""
    return np.stack(
        [
            np.ascontiguousarray(c[:, GROUP + row, 2 * THREAD + i].astype(np.float32)).view(
                np.uint32
            )
            for row in (0, 8)
            for i in (0, 1)
        ],
        axis=2,
    )


def a_m8n8k16(a: Any) -> Any:
    """A [tiles, 8, 16] of int8 as [tiles, 32]: row g, columns 4t to 4t + 3, the first lowest."""
    byte = a.astype(np.int8).view(np.uint8).astype(np.uint32)
    words = np.zeros((len(a), 32), np.uint32)
    for i in range(4):
        words |= byte[:, GROUP, 4 * THREAD + i] << 8 * i
    return words


def b_m8n8k16(b: Any) -> Any:
    """B [tiles, 16, 8] as [tiles, 32]: rows 4t to 4t + 3, column g."""
    return a_m8n8k16(b.transpose(0, 2, 1))


def c_m8n8k16(c: Any) -> Any:
    """C and D [tiles, 8, 8] of int32 as [tiles, 32, 2]: row g, columns 2t, 2t + 1."""
    parts = [c[:, GROUP, 2 * THREAD + i].astype(np.int32) for i in (0, 1)]
    return np.stack(parts, axis=2).view(np.uint32)
