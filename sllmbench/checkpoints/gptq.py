"""GPTQ's tensors ↔ :class:`~sllmbench.formats.QuantTensor`.

The weight that they hold is, for input channel i and output j,

    w[j, i] = scales[g, j] * (code[i, j] - zero[g, j]),   g = g_idx[i]

with codes packed along the input channels and zero points along the outputs. With act-order
("desc_act") the channels of a group lie apart; we sort them by group, so that groups are runs, and
keep the order to sort the activations by.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Self

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
from sllmbench.checkpoints.words import check_scales, codes_of, exact_half, word_count, words_of
from sllmbench.errors import InputError
from sllmbench.formats import ROW, check_array

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from sllmbench.formats import QuantTensor

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
    stored: GptqTensors,
    bits: int = 4,
    checkpoint_format: CheckpointFormat = "gptq",
    symmetric: bool | None = None,
) -> QuantTensor:
    """Read a layer's tensors: ``int4-gG``, ``int4-gG-asym``, ``int8-gG`` or a row at a time.

    Args:
        stored: the tensors.
        bits: 2, 3, 4 or 8, which the checkpoint's configuration says.
        checkpoint_format: the same; ``gptq`` (v1) stores zero points minus one, modulo 2^bits as
            auto-gptq's own kernels add it again.
        symmetric: what the configuration says; None takes what the zero points say.

    Raises:
        InputError: shapes, types or groups that do not fit, or zero points that are not symmetric
            where they must be.
    """
    check_bits(bits)
    below = _stored_below(checkpoint_format)
    groups, n = check_scales(stored.scales)
    if stored.g_idx.ndim != 1 or stored.g_idx.size == 0:
        raise InputError(f"g_idx must be int32 [k], not {list(stored.g_idx.shape)}")
    k = stored.g_idx.shape[0]
    check_array("g_idx", stored.g_idx, (k,), np.int32)
    check_array("qweight", stored.qweight, (word_count("k", k, bits), n), np.int32)
    check_array("qzeros", stored.qzeros, (groups, word_count("n", n, bits)), np.int32)
    group_size, order = runs(stored.g_idx, groups)
    codes = codes_of(stored.qweight.T, bits)
    if order is not None:
        codes = codes[:, order]
    zeros = np.ascontiguousarray(codes_of(stored.qzeros, bits).T + np.uint8(below))
    zeros &= np.uint8((1 << bits) - 1)
    centred = bool((zeros == 1 << (bits - 1)).all())
    if symmetric and not centred:
        raise InputError(
            f"qzeros hold other zero points than {1 << (bits - 1)}, "
            "but the checkpoint calls itself symmetric"
        )
    layout = integers(bits, group_size, not (centred if symmetric is None else symmetric))
    return affine_tensor(layout, codes, np.ascontiguousarray(stored.scales.T), zeros, order)


def to_gptq(weight: QuantTensor, checkpoint_format: CheckpointFormat = "gptq") -> GptqTensors:
    """Write a weight as a layer's tensors; the inverse of :func:`from_gptq`.

    Raises:
        InputError: a format that GPTQ has not, a shape that leaves words partly empty, or zero
            points that do not fit into the bits.
    """
    below = _stored_below(checkpoint_format)
    fmt, n, k = weight.format, weight.n, weight.k
    codes, offsets = affine_parts("GPTQ", weight)
    word_count("k", k, fmt.bits)
    word_count("n", n, fmt.bits)
    g_idx = (np.arange(k) // fmt.group_length(k)).astype(np.int32)
    if weight.order is not None:
        inverse = np.argsort(weight.order)
        codes, g_idx = codes[:, inverse], g_idx[inverse]
    stored_zeros = (offsets - np.uint8(below)) & np.uint8((1 << fmt.bits) - 1)
    return GptqTensors(
        np.ascontiguousarray(words_of(codes, fmt.bits).T),
        words_of(stored_zeros.T, fmt.bits),
        np.ascontiguousarray(weight.scales.T),
        g_idx,
    )


def _stored_below(checkpoint_format: str) -> int:
    if checkpoint_format not in _STORED_BELOW:
        raise InputError(
            f"checkpoint_format must be {' or '.join(_STORED_BELOW)}, not {checkpoint_format!r}"
        )
    return _STORED_BELOW[checkpoint_format]


def runs(g_idx: NDArray[np.int32], groups: int) -> tuple[int, NDArray[np.int32] | None]:
    """The group size, and the order that makes each group a run; None where they are runs.

    Raises:
        InputError: groups that are not there, or of different lengths.
    """
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


@dataclass(frozen=True)
class GptqScheme(Scheme):
    """GPTQ, v1 and v2; with ``desc_act`` the channels of a group lie apart."""

    method = "gptq"
    title = "GPTQ"
    parts: ClassVar = {
        "qweight": ("I32",),
        "qzeros": ("I32",),
        "scales": SCALE_TYPES,
        "g_idx": ("I32",),
    }

    DEFAULTS: ClassVar = {
        "damp_percent": 0.01,
        "static_groups": False,
        "true_sequential": True,
        "lm_head": False,
    }
    """What does not show in the tensors, as auto-gptq has it unless told otherwise."""

    desc_act: bool = False
    checkpoint_format: CheckpointFormat = "gptq"

    @property
    def label(self) -> str:
        """With what else tells one GPTQ folder from another."""
        version = " v2" if self.checkpoint_format == "gptq_v2" else ""
        return f"{super().label}{' desc_act' if self.desc_act else ''}{version}"

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Read ``bits``, ``group_size``, ``sym``, ``desc_act`` and ``checkpoint_format``.

        Raises:
            InputError: one is missing or makes no sense, or layers differ (``dynamic``).
        """
        if config.get("dynamic"):
            raise InputError("its layers are quantised differently (dynamic), which is not read")
        version = config.get("checkpoint_format", "gptq")
        if version not in ("gptq", "gptq_v2"):
            raise InputError(f"its checkpoint_format is {version!r}: gptq and gptq_v2 can be read")
        return cls(
            integer_of(config, "bits"),
            integer_of(config, "group_size"),
            flag_of(config, "sym", True),
            flag_of(config, "desc_act", False),
            version,
        )

    def config(self, floats: Sequence[str]) -> dict[str, Any]:
        """All keys that auto-gptq, gptqmodel and transformers look for."""
        return {
            "bits": self.bits,
            "group_size": self.group_size,
            "desc_act": self.desc_act,
            "sym": self.symmetric,
            **self.DEFAULTS,
            "model_name_or_path": None,
            "model_file_base_name": "model",
            "quant_method": self.method,
            "checkpoint_format": self.checkpoint_format,
        }

    def shape(self, shapes: Mapping[str, tuple[int, ...]], k: int | None) -> tuple[int, int]:
        """From ``scales`` [groups, n] and ``g_idx`` [k]."""
        groups, n = matrix_of("scales", shapes["scales"])
        if len(shapes["g_idx"]) != 1:
            raise InputError(f"g_idx must be [k], not {list(shapes['g_idx'])}")
        (k,) = shapes["g_idx"]
        check_fit("scales", shapes["scales"], (self.format.groups(k), n))
        check_fit("qweight", shapes["qweight"], (word_count("k", k, self.bits), n))
        check_fit("qzeros", shapes["qzeros"], (groups, word_count("n", n, self.bits)))
        return n, k

    def read(self, parts: Mapping[str, NDArray[Any]]) -> QuantTensor:
        """Make a tensor of ``qweight``, ``qzeros``, ``scales`` and ``g_idx``."""
        arrays = {**parts, "scales": exact_half("scales", parts["scales"])}
        weight = from_gptq(GptqTensors(**arrays), self.bits, self.checkpoint_format, self.symmetric)
        if weight.order is not None and not self.desc_act:
            raise InputError("g_idx orders the channels, but the configuration says no desc_act")
        return self._as_configured(weight)

    def write(self, weight: QuantTensor) -> dict[str, NDArray[Any]]:
        """Make ``qweight``, ``qzeros``, ``scales`` and ``g_idx``."""
        if weight.order is not None and not self.desc_act:
            raise InputError("its channels are ordered, so desc_act must be said")
        return to_gptq(weight, self.checkpoint_format)._asdict()
