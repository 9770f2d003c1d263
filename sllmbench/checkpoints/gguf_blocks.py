"""GGUF's quantised blocks, read as they are stored into :class:`~sllmbench.formats.QuantTensor`.

And written: each block type's ``unpack`` stands beside its ``pack``.

Blocks of 32 or 256 values along k; what each holds is its ``np.dtype`` below. Nibbles lie 32 values
to 16 bytes (Q4_0, Q4_1, Q5_0) or 64 to 32 (the K-quants): first all low nibbles, then all high.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from sllmbench.errors import InputError
from sllmbench.formats import SUPER_LENGTH, QuantFormat, QuantTensor, pack_nibbles, parse_format

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from sllmbench.checkpoints.gguf_header import GgufTensor

    Arrays = dict[str, NDArray[Any]]
    Fields = dict[str, Any]

_CHUNK_BYTES = 4 << 20
"""Stored bytes at a time; unpacking them takes a few times as much."""
_PAIR_SHIFTS = np.arange(0, 8, 2, dtype=np.uint8)[:, None]
"""The four pairs of bits in a byte."""


@dataclass(frozen=True)
class BlockType:
    """A block type that our kernels multiply with as it is stored.

    Attributes:
        format: ours for it.
        block: what a block holds.
        unpack: [rows, blocks] of them → the arrays of a QuantTensor; each reshapes to [rows, ...].
        pack: codes [rows, blocks, length] and the tensor's other arrays → the block's fields; each
            reshapes to [rows, blocks, ...].
    """

    format: QuantFormat
    block: np.dtype[Any]
    unpack: Callable[[NDArray[Any]], Arrays]
    pack: Callable[[NDArray[Any], QuantTensor], Fields]

    @property
    def length(self) -> int:
        """Values of k in a block."""
        return SUPER_LENGTH if self.format.two_level else self.format.group_size

    @property
    def grid(self) -> str:
        """What its values lie on, in words, e.g. ``a 4-bit symmetric group-32 grid``."""
        fmt = self.format
        article = "an" if fmt.bits == 8 else "a"
        kind = "symmetric" if fmt.offset == "symmetric" else "asymmetric"
        scales = " with integer scales" if fmt.two_level else ""
        return f"{article} {fmt.bits}-bit {kind} group-{fmt.group_size} grid{scales}"


def read_blocks(file: Path, stored: GgufTensor, order: NDArray[np.intp] | None) -> QuantTensor:
    """Read a matrix whose block type is one of :data:`BLOCK_TYPES`.

    Args:
        file: the GGUF file.
        stored: which of its tensors.
        order: for each stored row its place in the result, None where they agree.

    Raises:
        InputError: NaN or infinite scales, or a file that has become shorter.
    """
    n, k = stored.shape
    kind = BLOCK_TYPES[stored.block_type]
    arrays: Arrays = {}
    for places, blocks in _row_blocks(file, stored, kind, order):
        for what, part in kind.unpack(blocks).items():
            rows = part.reshape(len(blocks), -1)
            if what not in arrays:
                arrays[what] = np.empty((n, rows.shape[1]), rows.dtype)
            arrays[what][places] = rows
    return QuantTensor(kind.format, n, k, **arrays)


def _row_blocks(
    file: Path, stored: GgufTensor, kind: BlockType, order: NDArray[np.intp] | None
) -> Iterator[tuple[NDArray[np.intp], NDArray[Any]]]:
    """The stored rows, some MiB at a time: where they go, and their blocks [rows, k / length]."""
    n, k = stored.shape
    places = np.arange(n, dtype=np.intp) if order is None else order
    count = k // kind.length
    step = max(1, _CHUNK_BYTES // (count * kind.block.itemsize))
    with file.open("rb") as stream:
        stream.seek(stored.offset)
        for start in range(0, n, step):
            rows = min(step, n - start)
            blocks = np.fromfile(stream, kind.block, rows * count)
            if blocks.size != rows * count:
                raise InputError(f"{file} has become shorter since it was opened")
            yield places[start : start + rows], blocks.reshape(rows, count)


def pack_blocks(tensor: QuantTensor) -> NDArray[np.uint8]:
    """The tensor as a GGUF file stores it, uint8 [n, bytes of a row].

    Raises:
        InputError: its format is no block type, its k is not in whole blocks, or it has an order.
    """
    kind = BLOCK_TYPES.get(tensor.format.name.upper())
    if kind is None or kind.format != tensor.format or tensor.order is not None:
        ordered = " in an order of its own" if tensor.order is not None else ""
        raise InputError(
            f"GGUF has no blocks of {tensor.format.name}{ordered}; it has {', '.join(BLOCK_TYPES)}"
        )
    if tensor.k % kind.length:
        raise InputError(f"{tensor.format.name} blocks hold {kind.length} values; k is {tensor.k}")
    blocks = np.empty((tensor.n, tensor.k // kind.length), kind.block)
    codes = tensor.plain_codes().reshape(*blocks.shape, kind.length)
    for what, part in kind.pack(codes, tensor).items():
        blocks[what] = part.reshape(blocks[what].shape)
    return blocks.view(np.uint8).reshape(tensor.n, -1)


def _nibbles(pairs: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """[..., bytes] → [..., 2, bytes]: low nibbles, then high ones."""
    return np.stack([pairs & 0x0F, pairs >> 4], axis=-2)


def _pairs(codes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """What :func:`_nibbles` undoes: the lower four bits of [..., 2, bytes] → [..., bytes]."""
    pairs: NDArray[np.uint8] = codes[..., 0, :] & np.uint8(0x0F) | codes[..., 1, :] << np.uint8(4)
    return pairs


def _packed(codes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A row's 4-bit codes as our nibbles, which hold neighbours."""
    return pack_nibbles(codes.reshape(len(codes), -1))


def _q4_0(blocks: NDArray[Any]) -> Arrays:
    return {"codes": _packed(_nibbles(blocks["codes"])), "scales": blocks["scale"]}


def _pack_q4_0(codes: NDArray[Any], tensor: QuantTensor) -> Fields:
    return {"codes": _pairs(codes.reshape(*codes.shape[:2], 2, 16)), "scale": tensor.scales}


def _q4_1(blocks: NDArray[Any]) -> Arrays:
    return _q4_0(blocks) | {"offsets": blocks["minimum"]}


def _pack_q4_1(codes: NDArray[Any], tensor: QuantTensor) -> Fields:
    return _pack_q4_0(codes, tensor) | {"minimum": _offsets(tensor)}


def _offsets(tensor: QuantTensor) -> NDArray[Any]:
    assert tensor.offsets is not None  # the format has minima
    return tensor.offsets


def _q5_0(blocks: NDArray[Any]) -> Arrays:
    fifth = np.unpackbits(blocks["high"], axis=-1, bitorder="little")  # bit i is value i's
    low = _nibbles(blocks["codes"]).reshape(fifth.shape)
    return {"codes": low | fifth << 4, "scales": blocks["scale"]}


def _pack_q5_0(codes: NDArray[Any], tensor: QuantTensor) -> Fields:
    high = np.packbits(codes >> 4, axis=-1, bitorder="little")
    return _pack_q4_0(codes, tensor) | {"high": high}


def _q5_1(blocks: NDArray[Any]) -> Arrays:
    return _q5_0(blocks) | {"offsets": blocks["minimum"]}


def _pack_q5_1(codes: NDArray[Any], tensor: QuantTensor) -> Fields:
    return _pack_q5_0(codes, tensor) | {"minimum": _offsets(tensor)}


def _q8_0(blocks: NDArray[Any]) -> Arrays:
    return {"codes": blocks["codes"], "scales": blocks["scale"]}


def _pack_q8_0(codes: NDArray[Any], tensor: QuantTensor) -> Fields:
    return {"codes": codes, "scale": tensor.scales}


def _six_bit_factors(blocks: NDArray[Any]) -> Arrays:
    """Factors of 8 groups' scales and minima from 12 bytes.

    Bytes 0-3 hold the first four scales, 4-7 the first four minima, 6 bits each; the upper two bits
    there, and the nibbles of 8-11 (low: scales, high: minima), make up the last four of each.
    """
    first, last = blocks["factors"][..., :8], blocks["factors"][..., 8:]
    upper = first >> 6 << 4
    scales = np.concatenate([first[..., :4] & 63, last & 0x0F | upper[..., :4]], axis=-1)
    minima = np.concatenate([first[..., 4:] & 63, last >> 4 | upper[..., 4:]], axis=-1)
    return {
        "scales": scales.view(np.int8),
        "offsets": minima,
        "super_scales": blocks["super_scale"],
        "super_minima": blocks["super_minimum"],
    }


def _pack_six_bit_factors(tensor: QuantTensor) -> Fields:
    scales = tensor.scales.view(np.uint8).reshape(tensor.n, -1, 8)
    minima = _offsets(tensor).reshape(tensor.n, -1, 8)
    first = np.concatenate([scales[..., :4], minima[..., :4]], axis=-1)
    last = np.concatenate([scales[..., 4:], minima[..., 4:]], axis=-1)
    nibbles = _pairs(last.reshape(*last.shape[:-1], 2, 4))
    return {
        "factors": np.concatenate([first | last >> 4 << 6, nibbles], axis=-1),
        "super_scale": tensor.super_scales,
        "super_minimum": tensor.super_minima,
    }


def _q2_k(blocks: NDArray[Any]) -> Arrays:
    # A half of the block has 32 bytes: pair of bits p of byte i belongs to value 32 p + i of it.
    return {
        "codes": blocks["codes"][..., None, :] >> _PAIR_SHIFTS & 3,
        "scales": (blocks["factors"] & 0x0F).view(np.int8),
        "offsets": blocks["factors"] >> 4,
        "super_scales": blocks["super_scale"],
        "super_minima": blocks["super_minimum"],
    }


def _pack_q2_k(codes: NDArray[Any], tensor: QuantTensor) -> Fields:
    return {
        "codes": _pair_bytes(codes),
        "factors": tensor.scales.view(np.uint8) | _offsets(tensor) << 4,
        "super_scale": tensor.super_scales,
        "super_minimum": tensor.super_minima,
    }


def _pair_bytes(codes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The lower two bits of [rows, blocks, 256] codes, as Q2_K and Q3_K keep them: 64 bytes."""
    pairs = (codes & 3).reshape(*codes.shape[:2], 2, 4, 32)
    together: NDArray[np.uint8] = np.bitwise_or.reduce(pairs << _PAIR_SHIFTS, axis=-2)
    return together


def _q3_k(blocks: NDArray[Any]) -> Arrays:
    # Bit b of byte i of the upper bits belongs to value 32 b + i of the block.
    upper = blocks["high"][..., None, :] >> np.arange(8, dtype=np.uint8)[:, None] & 1
    low = (blocks["codes"][..., None, :] >> _PAIR_SHIFTS & 3).reshape(upper.shape)
    # 16 factors of 6 bits, 32 too large: 8 bytes of low nibbles, then of high ones; in the last 4
    # pair of bits p of byte i belongs to factor 4 p + i.
    nibbles = _nibbles(blocks["factors"][..., :8]).reshape(*blocks.shape, 4, 4)
    pairs = blocks["factors"][..., None, 8:] >> _PAIR_SHIFTS & 3
    return {
        "codes": low | upper << 2,
        "scales": ((nibbles | pairs << 4) - np.uint8(32)).view(np.int8),
        "super_scales": blocks["super_scale"],
    }


def _pack_q3_k(codes: NDArray[Any], tensor: QuantTensor) -> Fields:
    upper = (codes >> 2).reshape(*codes.shape[:2], 8, 32)
    factors = (tensor.scales.view(np.uint8) + np.uint8(32)).reshape(*codes.shape[:2], 4, 4)
    nibbles = _pairs(factors.reshape(*codes.shape[:2], 2, 8))
    pairs = np.bitwise_or.reduce(factors >> 4 << _PAIR_SHIFTS, axis=-2)
    return {
        "codes": _pair_bytes(codes),
        "high": np.packbits(upper, axis=-2, bitorder="little"),
        "factors": np.concatenate([nibbles, pairs], axis=-1),
        "super_scale": tensor.super_scales,
    }


def _q4_k(blocks: NDArray[Any]) -> Arrays:
    return {"codes": _packed(_nibbles(blocks["codes"]))} | _six_bit_factors(blocks)


def _pack_q4_k(codes: NDArray[Any], tensor: QuantTensor) -> Fields:
    pairs = _pairs(codes.reshape(*codes.shape[:2], 4, 2, 32))
    return {"codes": pairs} | _pack_six_bit_factors(tensor)


def _q5_k(blocks: NDArray[Any]) -> Arrays:
    # Bit g of byte i belongs to value i of group g.
    fifth = blocks["high"][..., None, :] >> np.arange(8, dtype=np.uint8)[:, None] & 1
    low = _nibbles(blocks["codes"]).reshape(fifth.shape)
    return {"codes": low | fifth << 4} | _six_bit_factors(blocks)


def _pack_q5_k(codes: NDArray[Any], tensor: QuantTensor) -> Fields:
    fifth = (codes >> 4).reshape(*codes.shape[:2], 8, 32)
    high = np.packbits(fifth, axis=-2, bitorder="little")
    return _pack_q4_k(codes, tensor) | {"high": high}


def _q6_k(blocks: NDArray[Any]) -> Arrays:
    # A half of the block has 64 bytes of nibbles and 32 of upper pairs of bits: pair p of byte i
    # belongs to value 32 p + i of the half.
    upper = blocks["high"][..., None, :] >> _PAIR_SHIFTS & 3
    low = _nibbles(blocks["codes"]).reshape(upper.shape)
    return {
        "codes": low | upper << 4,
        "scales": blocks["scales"],
        "super_scales": blocks["super_scale"],
    }


def _pack_q6_k(codes: NDArray[Any], tensor: QuantTensor) -> Fields:
    upper = (codes >> 4).reshape(*codes.shape[:2], 2, 4, 32)
    return {
        "codes": _pairs(codes.reshape(*codes.shape[:2], 2, 2, 64)),
        "high": np.bitwise_or.reduce(upper << _PAIR_SHIFTS, axis=-2),
        "scales": tensor.scales,
        "super_scale": tensor.super_scales,
    }


_SUPER_FIELDS = [("super_scale", "<f2"), ("super_minimum", "<f2"), ("factors", "u1", 12)]
_FIELDS: dict[str, list[Any]] = {
    "q4_0": [("scale", "<f2"), ("codes", "u1", 16)],
    "q4_1": [("scale", "<f2"), ("minimum", "<f2"), ("codes", "u1", 16)],
    "q5_0": [("scale", "<f2"), ("high", "u1", 4), ("codes", "u1", 16)],
    "q5_1": [("scale", "<f2"), ("minimum", "<f2"), ("high", "u1", 4), ("codes", "u1", 16)],
    "q8_0": [("scale", "<f2"), ("codes", "i1", 32)],
    "q2_k": [
        ("factors", "u1", 16),
        ("codes", "u1", (2, 32)),
        ("super_scale", "<f2"),
        ("super_minimum", "<f2"),
    ],
    "q3_k": [
        ("high", "u1", 32),
        ("codes", "u1", (2, 32)),
        ("factors", "u1", 12),
        ("super_scale", "<f2"),
    ],
    "q4_k": [*_SUPER_FIELDS, ("codes", "u1", (4, 32))],
    "q5_k": [*_SUPER_FIELDS, ("high", "u1", 32), ("codes", "u1", (4, 32))],
    "q6_k": [
        ("codes", "u1", (2, 64)),
        ("high", "u1", (2, 32)),
        ("scales", "i1", 16),
        ("super_scale", "<f2"),
    ],
}
_CODERS: dict[str, tuple[Callable[..., Arrays], Callable[..., Fields]]] = {
    "q4_0": (_q4_0, _pack_q4_0),
    "q4_1": (_q4_1, _pack_q4_1),
    "q5_0": (_q5_0, _pack_q5_0),
    "q5_1": (_q5_1, _pack_q5_1),
    "q8_0": (_q8_0, _pack_q8_0),
    "q2_k": (_q2_k, _pack_q2_k),
    "q3_k": (_q3_k, _pack_q3_k),
    "q4_k": (_q4_k, _pack_q4_k),
    "q5_k": (_q5_k, _pack_q5_k),
    "q6_k": (_q6_k, _pack_q6_k),
}
BLOCK_TYPES = {
    name.upper(): BlockType(parse_format(name), np.dtype(_FIELDS[name]), unpack, pack)
    for name, (unpack, pack) in _CODERS.items()
}
"""By GGUF's name, e.g. ``Q4_K``."""
