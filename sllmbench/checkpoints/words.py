"""The int32 words in which checkpoints hold their codes: a stream of bits, the lowest first."""

from __future__ import annotations

from math import gcd
from typing import TYPE_CHECKING, Any

import numpy as np

from sllmbench.errors import InputError
from sllmbench.formats import pack_nibbles, unpack_nibbles

if TYPE_CHECKING:
    from numpy.typing import NDArray


def codes_of(words: NDArray[np.int32], bits: int) -> NDArray[np.uint8]:
    """int32 [rows, count] → uint8 [rows, count * 32 / bits] codes, which may straddle words."""
    octets = np.ascontiguousarray(words, "<i4").view(np.uint8)
    if bits == 8:
        return octets
    if bits == 4:
        return unpack_nibbles(octets, 2 * octets.shape[1])
    each = np.unpackbits(octets, axis=1, bitorder="little")
    codes = each[:, : each.shape[1] // bits * bits].reshape(len(octets), -1, bits)
    return np.packbits(codes, axis=2, bitorder="little")[..., 0]


def words_of(codes: NDArray[np.uint8], bits: int) -> NDArray[np.int32]:
    """uint8 [rows, count * 32 / bits] codes → int32 [rows, count]; the inverse of codes_of."""
    if bits == 8:
        octets = codes
    elif bits == 4:
        octets = pack_nibbles(codes)
    else:
        each = np.unpackbits(codes[..., None], axis=2, count=bits, bitorder="little")
        octets = np.packbits(each.reshape(len(codes), -1), axis=1, bitorder="little")
    return np.ascontiguousarray(octets).view("<i4").astype(np.int32)


def exact_half(what: str, scales: NDArray[Any]) -> NDArray[np.float16]:
    """Scales as float16, which our formats hold.

    Raises:
        InputError: one of them is no float16 number.
    """
    with np.errstate(over="ignore"):  # what overflows differs from its origin below
        halves = scales.astype(np.float16)
    if not np.array_equal(halves.astype(scales.dtype), scales):
        raise InputError(f"{what} hold {scales.dtype.name} values that float16 cannot hold exactly")
    return halves


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
        raise InputError(f"{what} must be a multiple of {32 // gcd(32, bits)}, not {count}")
    return count * bits // 32
