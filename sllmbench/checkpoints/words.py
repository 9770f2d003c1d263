"""The int32 words in which GPTQ's and AWQ's tensors hold their codes, the lowest bits first."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from sllmbench.errors import InputError
from sllmbench.formats import pack_nibbles, unpack_nibbles

if TYPE_CHECKING:
    from numpy.typing import NDArray


def codes_of(words: NDArray[np.int32], bits: int) -> NDArray[np.uint8]:
    """int32 [rows, count] → uint8 [rows, count * 32 / bits] codes of 4 or 8 bits."""
    octets = np.ascontiguousarray(words, "<i4").view(np.uint8)
    return octets if bits == 8 else unpack_nibbles(octets, 2 * octets.shape[1])


def words_of(codes: NDArray[np.uint8], bits: int) -> NDArray[np.int32]:
    """uint8 [rows, count * 32 / bits] codes of 4 or 8 bits → int32 [rows, count]."""
    octets = codes if bits == 8 else pack_nibbles(codes)
    return np.ascontiguousarray(octets).view("<i4").astype(np.int32)


def check_scales(scales: NDArray[Any]) -> tuple[int, int]:
    """The [groups, n] of the scales.

    Raises:
        InputError: not a non-empty float16 matrix.
    """
    if scales.ndim != 2 or 0 in scales.shape or scales.dtype != np.float16:
        raise InputError(
            f"scales must be float16 [groups, n], not {scales.dtype.name} {list(scales.shape)}"
        )
    return scales.shape[0], scales.shape[1]


def word_count(what: str, count: int, bits: int) -> int:
    """The words that ``count`` codes of ``bits`` fill.

    Raises:
        InputError: they leave one partly empty.
    """
    if count * bits % 32:
        raise InputError(f"{what} must be a multiple of {32 // bits}, not {count}")
    return count * bits // 32
