"""AWQ's tensors in their GEMM layout ↔ :class:`~sllmbench.formats.QuantTensor`.

The weight that they hold is, for input channel i and output j,

    w[j, i] = scales[g, j] * (code[i, j] - zero[g, j]),   g = i // group_size

with codes and zero points packed along the outputs, eight to a word: nibble p, from the lowest, of
word c is that of output ``8 c + (0, 2, 4, 6, 1, 3, 5, 7)[p]``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

import numpy as np

from sllmbench.checkpoints.scheme import (
    SCALE_TYPES,
    Scheme,
    check_fit,
    flag_of,
    integer_of,
    matrix_of,
)
from sllmbench.checkpoints.words import check_scales, codes_of, exact_half, word_count, words_of
from sllmbench.errors import InputError
from sllmbench.formats import ROW, QuantTensor, check_array, integer_format, pack_nibbles

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

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


@dataclass(frozen=True)
class AwqScheme(Scheme):
    """AWQ in its GEMM layout: 4 bits with zero points."""

    method = "awq"
    title = "AWQ"
    parts: ClassVar = {"qweight": ("I32",), "qzeros": ("I32",), "scales": SCALE_TYPES}

    @property
    def label(self) -> str:
        """AWQ is always asymmetric."""
        return super().label.removesuffix(" asymmetric")

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Read transformers' keys or AutoAWQ's older ones.

        Raises:
            InputError: one is missing, or another layout than GEMM.
        """
        version = config.get("version", "gemm")
        if not isinstance(version, str) or version.lower() != "gemm":
            raise InputError(f"its AWQ version is {version!r}: only gemm can be read")
        if not flag_of(config, "zero_point", True):
            raise InputError("it has no zero points, which the GEMM layout always has")
        bits = integer_of(config, "bits" if "bits" in config else "w_bit")
        if bits != 4:
            raise InputError(f"it is AWQ of {bits} bits: the GEMM layout has 4")
        size = integer_of(config, "group_size" if "group_size" in config else "q_group_size")
        return cls(bits, size, symmetric=False)

    def config(self, floats: Sequence[str]) -> dict[str, Any]:
        """transformers' keys, and those that AutoAWQ itself looks for."""
        return {
            "quant_method": self.method,
            "bits": self.bits,
            "group_size": self.group_size,
            "zero_point": True,
            "version": "gemm",
            "modules_to_not_convert": list(floats) or None,
        }

    def shape(self, shapes: Mapping[str, tuple[int, ...]], k: int | None) -> tuple[int, int]:
        """From ``qweight`` [k, n / 8]."""
        k, words = matrix_of("qweight", shapes["qweight"])
        if k % self.format.group_length(k):
            raise InputError(f"k = {k} is no multiple of the group size {self.group_size}")
        groups = self.format.groups(k)
        check_fit("scales", shapes["scales"], (groups, 8 * words))
        check_fit("qzeros", shapes["qzeros"], (groups, words))
        return 8 * words, k

    def read(self, parts: Mapping[str, NDArray[Any]]) -> QuantTensor:
        """Make a tensor of ``qweight``, ``qzeros`` and ``scales``."""
        arrays = {**parts, "scales": exact_half("scales", parts["scales"])}
        return self._as_configured(from_awq(AwqTensors(**arrays)))

    def write(self, weight: QuantTensor) -> dict[str, NDArray[Any]]:
        """Make ``qweight``, ``qzeros`` and ``scales``."""
        return to_awq(weight)._asdict()
