"""AWQ's tensors in their GEMM layout ↔ :class:`~sllmbench.formats.QuantTensor`.

The weight that they hold is, for input channel i and output j,

    w[j, i] = scales[g, j] * (code[i, j] - zero[g, j]),   g = i // group_size

with codes and zero points packed along the outputs, eight to a word: nibble p, from the lowest, of
word c is that of output ``8 c + (0, 2, 4, 6, 1, 3, 5, 7)[p]``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from sllmbench.checkpoints.words import check_scales, codes_of, word_count, words_of
from sllmbench.errors import InputError
from sllmbench.formats import ROW, QuantTensor, check_array, integer_format, pack_nibbles

if TYPE_CHECKING:
    from numpy.typing import NDArray

_BITS = 4
_OUTPUTS = np.array([0, 2, 4, 6, 1, 3, 5, 7])


class AwqTensors(NamedTuple):
    """A linear layer's tensors, under the names that they have in a checkpoint.

    Attributes:
        qweight: int32 [k, n / 8].
        qzeros: int32 [groups, n / 8].
        scales: float16 [groups, n].
    """

    qweight: NDArray[Any]
    qzeros: NDArray[Any]
    scales: NDArray[Any]


def from_awq(stored: AwqTensors) -> QuantTensor:
    """Read a layer's tensors: ``int4-gG-asym``, or ``int4-row-asym`` where there is one group.

    Raises:
        InputError: shapes or types that do not fit.
    """
    groups, n = check_scales(stored.scales)
    words = word_count("n", n, _BITS)
    if stored.qweight.ndim != 2 or stored.qweight.size == 0:
        raise InputError(f"qweight must be int32 [k, n / 8], not {list(stored.qweight.shape)}")
    k = stored.qweight.shape[0]
    check_array("qweight", stored.qweight, (k, words), np.int32)
    check_array("qzeros", stored.qzeros, (groups, words), np.int32)
    if k % groups:
        raise InputError(f"k = {k} cannot be shared by {groups} groups of scales")
    return QuantTensor(
        integer_format(4, ROW if groups == 1 else k // groups, asymmetric=True),
        n,
        k,
        pack_nibbles(_outputs(stored.qweight)),
        np.ascontiguousarray(stored.scales.T),
        _outputs(stored.qzeros),
    )


def to_awq(weight: QuantTensor) -> AwqTensors:
    """Write a weight as a layer's tensors; the inverse of :func:`from_awq`.

    Raises:
        InputError: a format that AWQ has not, or a shape that leaves words partly empty.
    """
    fmt, k = weight.format, weight.k
    offsets = weight.offsets
    if fmt.bits != _BITS or offsets is None or fmt.offset != "zero_point":
        raise InputError(f"AWQ has no {fmt.name}: 4 bits with zero points")
    if weight.order is not None:
        raise InputError("AWQ has no act-order")
    if k % fmt.group_length(k):
        raise InputError(f"AWQ has no short group: k = {k}, groups of {fmt.group_length(k)}")
    if (offsets > 15).any():
        raise InputError("AWQ stores zero points of 0 to 15 only")
    word_count("n", weight.n, _BITS)
    return AwqTensors(
        _words(weight.plain_codes().view(np.uint8)),
        _words(offsets.astype(np.uint8)),
        np.ascontiguousarray(weight.scales.T),
    )


def _outputs(words: NDArray[np.int32]) -> NDArray[np.uint8]:
    """int32 [rows, n / 8] → uint8 [n, rows]."""
    nibbles = codes_of(words, _BITS).reshape(len(words), -1, 8)
    outputs = np.empty_like(nibbles)
    outputs[..., _OUTPUTS] = nibbles
    return np.ascontiguousarray(outputs.reshape(len(words), -1).T)


def _words(outputs: NDArray[np.uint8]) -> NDArray[np.int32]:
    """uint8 [n, rows] → int32 [rows, n / 8]."""
    rows = outputs.shape[1]
    nibbles = outputs.T.reshape(rows, -1, 8)[..., _OUTPUTS]
    return words_of(nibbles.reshape(rows, -1), _BITS)
