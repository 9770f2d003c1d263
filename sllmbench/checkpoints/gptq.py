"""GPTQ's tensors ↔ :class:`~sllmbench.formats.QuantTensor`.

The weight that they hold is, for input channel i and output j,

    w[j, i] = scales[g, j] * (code[i, j] - zero[g, j]),   g = g_idx[i]

with codes packed along the input channels and zero points along the outputs. With act-order
("desc_act") the channels of a group lie apart; we sort them by group, so that groups are runs, and
keep the order to sort the activations by.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from sllmbench.checkpoints.words import check_scales, codes_of, word_count, words_of
from sllmbench.errors import InputError
from sllmbench.formats import (
    ROW,
    QuantTensor,
    check_array,
    integer_format,
    pack_nibbles,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

CheckpointFormat = Literal["gptq", "gptq_v2"]
_STORED_BELOW: dict[str, int] = {"gptq": 1, "gptq_v2": 0}
"""What is taken off a zero point when it is stored."""


class GptqTensors(NamedTuple):
    """A linear layer's tensors, under the names that they have in a checkpoint.

    Attributes:
        qweight: int32 [k * bits / 32, n].
        qzeros: int32 [groups, n * bits / 32].
        scales: float16 [groups, n].
        g_idx: int32 [k]: each input channel's group.
    """

    qweight: NDArray[Any]
    qzeros: NDArray[Any]
    scales: NDArray[Any]
    g_idx: NDArray[Any]


def from_gptq(
    stored: GptqTensors, bits: int = 4, checkpoint_format: CheckpointFormat = "gptq"
) -> QuantTensor:
    """Read a layer's tensors: ``int4-gG``, ``int4-gG-asym``, ``int8-gG`` or a row at a time.

    Args:
        stored: the tensors.
        bits: 4 or 8, which the checkpoint's configuration says.
        checkpoint_format: the same; ``gptq`` (v1) stores zero points minus one.

    Raises:
        InputError: shapes, types or groups that do not fit, or 8 bits with zero points other than
            128, which our kernels have not.
    """
    width = _checked_bits(bits)
    below = _stored_below(checkpoint_format)
    groups, n = check_scales(stored.scales)
    if stored.g_idx.ndim != 1 or stored.g_idx.size == 0:
        raise InputError(f"g_idx must be int32 [k], not {list(stored.g_idx.shape)}")
    k = stored.g_idx.shape[0]
    check_array("g_idx", stored.g_idx, (k,), np.int32)
    check_array("qweight", stored.qweight, (word_count("k", k, bits), n), np.int32)
    check_array("qzeros", stored.qzeros, (groups, word_count("n", n, bits)), np.int32)
    group_size, order = _runs(stored.g_idx, groups)
    codes = codes_of(stored.qweight.T, bits)
    if order is not None:
        codes = np.ascontiguousarray(codes[:, order])
    # 15 stored by v1 is 16: a step beyond the codes, but a zero point like any other.
    zeros = np.ascontiguousarray(codes_of(stored.qzeros, bits).astype(np.uint16).T + below)
    scales = np.ascontiguousarray(stored.scales.T)
    symmetric = bool((zeros == 1 << (bits - 1)).all())
    if bits == 8 and not symmetric:
        raise InputError(
            "8-bit zero points must all be 128 (symmetric): our int8 kernels have no others; "
            "quantise with sym=True"
        )
    return QuantTensor(
        integer_format(width, group_size, not symmetric),
        n,
        k,
        pack_nibbles(codes) if bits == 4 else (codes ^ 0x80).view(np.int8),
        scales,
        None if symmetric else zeros.astype(np.uint8),
        order=order,
    )


def to_gptq(weight: QuantTensor, checkpoint_format: CheckpointFormat = "gptq") -> GptqTensors:
    """Write a weight as a layer's tensors; the inverse of :func:`from_gptq`.

    Raises:
        InputError: a format that GPTQ has not, a shape that leaves words partly empty, or zero
            points that ``checkpoint_format`` cannot store.
    """
    below = _stored_below(checkpoint_format)
    fmt, n, k = weight.format, weight.n, weight.k
    if fmt.bits not in (4, 8) or fmt.offset == "minimum":
        raise InputError(f"GPTQ has no {fmt.name}: 4 or 8 bits, symmetric or with zero points")
    word_count("k", k, fmt.bits)
    word_count("n", n, fmt.bits)
    codes = weight.plain_codes().view(np.uint8) ^ np.uint8(0x80 if fmt.bits == 8 else 0)
    g_idx = (np.arange(k) // fmt.group_length(k)).astype(np.int32)
    if weight.order is not None:
        inverse = np.argsort(weight.order)
        codes, g_idx = codes[:, inverse], g_idx[inverse]
    offsets = weight.offsets
    if offsets is None:
        offsets = np.full(weight.scales.shape, 1 << (fmt.bits - 1), np.uint8)
    if (offsets < below).any() or (offsets >= below + (1 << fmt.bits)).any():
        last = below + (1 << fmt.bits) - 1
        raise InputError(f"{checkpoint_format} stores zero points of {below} to {last} only")
    return GptqTensors(
        np.ascontiguousarray(words_of(codes, fmt.bits).T),
        words_of((offsets - below).astype(np.uint8).T, fmt.bits),
        np.ascontiguousarray(weight.scales.T),
        g_idx,
    )


def _checked_bits(bits: int) -> Literal[4, 8]:
    if bits == 4:
        return 4
    if bits == 8:
        return 8
    raise InputError(f"GPTQ tensors of {bits} bits have no kernel here: 4 and 8 bits have")


def _stored_below(checkpoint_format: str) -> int:
    if checkpoint_format not in _STORED_BELOW:
        raise InputError(
            f"checkpoint_format must be {' or '.join(_STORED_BELOW)}, not {checkpoint_format!r}"
        )
    return _STORED_BELOW[checkpoint_format]


def _runs(g_idx: NDArray[np.int32], groups: int) -> tuple[int, NDArray[np.int32] | None]:
    """The group size, and the order that makes each group a run; None where they are runs."""
    if g_idx.min() < 0 or g_idx.max() >= groups:
        raise InputError(
            f"g_idx must lie in 0 to {groups - 1}, the groups of scales, "
            f"not in {g_idx.min()} to {g_idx.max()}"
        )
    lengths = np.bincount(g_idx, minlength=groups)
    if (lengths[:-1] != lengths[0]).any() or not 0 < lengths[-1] <= lengths[0]:
        raise InputError(
            "g_idx must give every group as many channels (the last one fewer at most), "
            f"not {lengths.min()} to {lengths.max()}"
        )
    size = ROW if groups == 1 else int(lengths[0])
    if (np.diff(g_idx) >= 0).all():
        return size, None
    return size, np.argsort(g_idx, kind="stable").astype(np.int32)
