"""compressed-tensors' "pack-quantized" tensors ↔ :class:`~sllmbench.formats.QuantTensor`.

The weight that they hold is, for output j and input channel i,

    w[j, i] = weight_scale[j, g] * (code[j, i] - zero[j, g]),   g = i // group_size

The codes of a row are one stream of bits, its last word partly empty where k leaves it so. Zero
points, where there are any, are packed in the same way along the outputs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

import numpy as np

from sllmbench.checkpoints.affine import affine_parts, affine_tensor, check_bits, integers
from sllmbench.checkpoints.scheme import (
    SCALE_TYPES,
    Scheme,
    check_fit,
    flag_of,
    integer_of,
    matrix_of,
)
from sllmbench.checkpoints.words import codes_of, exact_half, words_of
from sllmbench.errors import InputError
from sllmbench.formats import ROW, check_array

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from sllmbench.formats import QuantTensor


class PackedTensors(NamedTuple):
    """A linear layer's tensors, under the names that they have after ``weight_``.

    Attributes:
        packed: int32 [n, ceil(k * bits / 32)].
        scale: float [n, groups].
        shape: int64 [2]: n and k.
        zero_point: int32 [ceil(n * bits / 32), groups]; None where all are 2^(bits - 1).
    """

    packed: NDArray[Any]
    scale: NDArray[Any]
    shape: NDArray[Any]
    zero_point: NDArray[Any] | None = None


def from_packed(stored: PackedTensors, bits: int) -> QuantTensor:
    """Read a layer's tensors; its group size is k over the groups of scales.

    Raises:
        InputError: shapes or types that do not fit, or scales that float16 cannot hold.
    """
    check_bits(bits)
    n, k = checked_shape(stored.shape)
    check_array("weight_packed", stored.packed, (n, packed_words(k, bits)), np.int32)
    if stored.scale.ndim != 2 or stored.scale.shape[0] != n or stored.scale.size == 0:
        raise InputError(f"weight_scale must be [{n}, groups], not {list(stored.scale.shape)}")
    groups = stored.scale.shape[1]
    if k % groups:
        raise InputError(f"k = {k} cannot be shared by {groups} groups of scales")
    if stored.zero_point is None:
        zeros = np.full((n, groups), 1 << (bits - 1), np.uint8)
    else:
        words = (packed_words(n, bits), groups)
        check_array("weight_zero_point", stored.zero_point, words, np.int32)
        zeros = np.ascontiguousarray(codes_of(stored.zero_point.T, bits)[:, :n].T)
    layout = integers(bits, ROW if groups == 1 else k // groups, stored.zero_point is not None)
    codes = codes_of(stored.packed, bits)[:, :k]
    return affine_tensor(layout, codes, exact_half("weight_scale", stored.scale), zeros)


def to_packed(weight: QuantTensor) -> PackedTensors:
    """Write a weight as a layer's tensors; the inverse of :func:`from_packed`.

    Raises:
        InputError: a format that pack-quantized has not, act-order, or a short last group.
    """
    fmt, n, k = weight.format, weight.n, weight.k
    codes, zeros = affine_parts("compressed-tensors", weight)
    if weight.order is not None:
        raise InputError("compressed-tensors has no act-order")
    if k % fmt.group_length(k):
        raise InputError(
            f"compressed-tensors has no short group: k = {k}, groups of {fmt.group_length(k)}"
        )
    return PackedTensors(
        _padded_words(codes, fmt.bits),
        weight.scales.astype(np.float16),
        np.array([n, k], np.int64),
        None
        if weight.offsets is None
        else np.ascontiguousarray(_padded_words(zeros.T, fmt.bits).T),
    )


def packed_words(count: int, bits: int) -> int:
    """The words that ``count`` codes of ``bits`` take, the last one partly empty perhaps."""
    return -(-count * bits // 32)


def checked_shape(shape: NDArray[Any]) -> tuple[int, int]:
    """The n and k that ``weight_shape`` says.

    Raises:
        InputError: it holds no two positive numbers.
    """
    if shape.shape != (2,) or shape.dtype not in (np.int64, np.int32) or (shape <= 0).any():
        raise InputError("weight_shape must hold two positive integers, n and k")
    return int(shape[0]), int(shape[1])


def _padded_words(codes: NDArray[np.uint8], bits: int) -> NDArray[np.int32]:
    """uint8 [rows, count] → int32 [rows, words], zeros after the last code."""
    count = codes.shape[1]
    padded = np.zeros((len(codes), -(-count // 32) * 32), np.uint8)
    padded[:, :count] = codes
    return np.ascontiguousarray(words_of(padded, bits)[:, : packed_words(count, bits)])


@dataclass(frozen=True)
class PackedScheme(Scheme):
    """compressed-tensors' pack-quantized: one group of settings for all linears."""

    method = "compressed-tensors"
    title = "compressed-tensors"
    parts: ClassVar = {
        "weight_packed": ("I32",),
        "weight_scale": SCALE_TYPES,
        "weight_shape": ("I64", "I32"),
        "weight_zero_point": ("I32",),
    }

    def required(self) -> tuple[str, ...]:
        """Without zero points where it is symmetric."""
        return tuple(self.parts)[: 3 if self.symmetric else 4]

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Read the one entry of ``config_groups``.

        Raises:
            InputError: another format, several groups of settings, quantised activations, or
                weights in another way than integers in groups or rows.
        """
        if config.get("format") != "pack-quantized":
            raise InputError(f"its format is {config.get('format')!r}: pack-quantized can be read")
        groups = config.get("config_groups")
        if not isinstance(groups, dict) or len(groups) != 1:
            raise InputError("its config_groups must hold one group of settings")
        (group,) = groups.values()
        weights = group.get("weights") if isinstance(group, dict) else None
        if not isinstance(weights, dict):
            raise InputError("its config_groups do not say how weights are stored")
        if group.get("input_activations") or group.get("output_activations"):
            raise InputError("it quantises activations, which no path here does as it asks")
        strategy = weights.get("strategy")
        if weights.get("type", "int") != "int" or strategy not in ("group", "channel"):
            raise InputError(
                f"its weights are {weights.get('type')!r} by {strategy!r}: "
                "int by group or channel can be read"
            )
        if weights.get("actorder") in ("group", "dynamic"):
            raise InputError("its channels are ordered (actorder), which is no longer read")
        size = integer_of(weights, "group_size") if strategy == "group" else ROW
        return cls(integer_of(weights, "num_bits"), size, flag_of(weights, "symmetric", True))

    def config(self, floats: Sequence[str]) -> dict[str, Any]:
        """The keys that the library itself writes."""
        row = self.group_size == ROW
        weights = {
            "num_bits": self.bits,
            "type": "int",
            "symmetric": self.symmetric,
            "strategy": "channel" if row else "group",
            "group_size": None if row else self.group_size,
            "dynamic": False,
        }
        group = {"targets": ["Linear"], "weights": weights, "input_activations": None}
        return {
            "quant_method": self.method,
            "format": "pack-quantized",
            "quantization_status": "compressed",
            "config_groups": {"group_0": {**group, "output_activations": None}},
            "ignore": list(floats),
        }

    def shape(self, shapes: Mapping[str, tuple[int, ...]], k: int | None) -> tuple[int, int]:
        """From ``weight_packed`` [n, words] and the k that ``weight_shape`` says."""
        n, words = matrix_of("weight_packed", shapes["weight_packed"])
        if k is None or packed_words(k, self.bits) != words:
            raise InputError(f"weight_shape says k = {k}, but a row is of {words} words")
        groups = self.format.groups(k)
        check_fit("weight_scale", shapes["weight_scale"], (n, groups))
        if not self.symmetric:
            zeros = (packed_words(n, self.bits), groups)
            check_fit("weight_zero_point", shapes["weight_zero_point"], zeros)
        return n, k

    def read(self, parts: Mapping[str, NDArray[Any]]) -> QuantTensor:
        """Make a tensor of the parts that all begin with ``weight_``."""
        arrays = {name.removeprefix("weight_"): array for name, array in parts.items()}
        return self._as_configured(from_packed(PackedTensors(**arrays), self.bits))

    def write(self, weight: QuantTensor) -> dict[str, NDArray[Any]]:
        """Make those parts."""
        parts = to_packed(weight)._asdict()
        return {f"weight_{name}": array for name, array in parts.items() if array is not None}
