"""The ways in which a folder holds quantised linears: what its configuration says, and its tensors.

A scheme holds for a whole folder: one width, one group size, symmetric or not.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

from sllmbench.checkpoints.affine import check_bits, integers
from sllmbench.checkpoints.awq import AwqTensors, from_awq, to_awq
from sllmbench.checkpoints.gptq import CheckpointFormat, GptqTensors, from_gptq, to_gptq
from sllmbench.checkpoints.packed import (
    PackedTensors,
    from_packed,
    packed_words,
    to_packed,
)
from sllmbench.checkpoints.words import exact_half, word_count
from sllmbench.errors import InputError
from sllmbench.formats import ROW, QuantFormat

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from sllmbench.formats import QuantTensor

_HALVES = ("F16", "BF16", "F32")


@dataclass(frozen=True)
class Scheme(ABC):
    """How one method stores every quantised linear of a folder.

    Attributes:
        bits: of a code.
        group_size: channels that share a scale, ``ROW`` for all.
        symmetric: whether every zero point is 2^(bits - 1).
    """

    method: ClassVar[str]
    """As ``quant_method`` spells it."""
    title: ClassVar[str]
    """As people spell it."""
    parts: ClassVar[dict[str, tuple[str, ...]]]
    """What stands in the place of ``weight`` in a tensor's name, and its safetensors types."""

    bits: int
    group_size: int
    symmetric: bool

    def __post_init__(self) -> None:
        """Refuse what no tensor can have.

        Raises:
            InputError: the width or the group size.
        """
        check_bits(self.bits)
        if self.group_size != ROW and self.group_size < 1:
            raise InputError(f"its group_size is {self.group_size!r}: must be positive or {ROW}")

    @property
    def format(self) -> QuantFormat:
        """The format of every quantised linear."""
        return integers(self.bits, self.group_size, not self.symmetric)

    @property
    def label(self) -> str:
        """What a provenance says, e.g. ``GPTQ 4-bit g64 desc_act``."""
        group = "row" if self.group_size == ROW else f"g{self.group_size}"
        return f"{self.title} {self.bits}-bit {group}{'' if self.symmetric else ' asymmetric'}"

    def required(self) -> tuple[str, ...]:
        """The parts that every quantised linear has."""
        return tuple(self.parts)

    @classmethod
    @abstractmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Read a folder's ``quantization_config``; raises InputError where it makes no sense."""

    @abstractmethod
    def config(self, floats: Sequence[str]) -> dict[str, Any]:
        """Make the ``quantization_config``; ``floats`` are linear modules that stayed in floats."""

    @abstractmethod
    def shape(self, shapes: Mapping[str, tuple[int, ...]], k: int | None) -> tuple[int, int]:
        """A linear's n and k from its parts' shapes.

        Args:
            shapes: of every part.
            k: from ``weight_shape``, where the method has that.

        Raises:
            InputError: shapes that contradict each other.
        """

    @abstractmethod
    def read(self, parts: Mapping[str, NDArray[Any]]) -> QuantTensor:
        """Make a tensor of a linear's parts; raises InputError where they do not fit."""

    @abstractmethod
    def write(self, weight: QuantTensor) -> dict[str, NDArray[Any]]:
        """Make a linear's parts; raises InputError where the method cannot store it."""

    def _as_configured(self, weight: QuantTensor) -> QuantTensor:
        """``weight`` in the folder's format: a row of one group does not say the group's size."""
        if weight.format.group_length(weight.k) != self.format.group_length(weight.k):
            raise InputError(
                f"its groups are of {weight.format.group_length(weight.k)} channels, "
                f"but the configuration says {self.group_size}"
            )
        return replace(weight, format=self.format)


@dataclass(frozen=True)
class GptqScheme(Scheme):
    """GPTQ, v1 and v2; with ``desc_act`` the channels of a group lie apart."""

    method = "gptq"
    title = "GPTQ"
    parts: ClassVar = {
        "qweight": ("I32",),
        "qzeros": ("I32",),
        "scales": _HALVES,
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
            _integer(config, "bits"),
            _integer(config, "group_size"),
            _flag(config, "sym", True),
            _flag(config, "desc_act", False),
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
        groups, n = _matrix("scales", shapes["scales"])
        if len(shapes["g_idx"]) != 1:
            raise InputError(f"g_idx must be [k], not {list(shapes['g_idx'])}")
        (k,) = shapes["g_idx"]
        _fits("scales", shapes["scales"], (self.format.groups(k), n))
        _fits("qweight", shapes["qweight"], (word_count("k", k, self.bits), n))
        _fits("qzeros", shapes["qzeros"], (groups, word_count("n", n, self.bits)))
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


@dataclass(frozen=True)
class AwqScheme(Scheme):
    """AWQ in its GEMM layout: 4 bits with zero points."""

    method = "awq"
    title = "AWQ"
    parts: ClassVar = {"qweight": ("I32",), "qzeros": ("I32",), "scales": _HALVES}

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
        if not _flag(config, "zero_point", True):
            raise InputError("it has no zero points, which the GEMM layout always has")
        bits = _integer(config, "bits" if "bits" in config else "w_bit")
        if bits != 4:
            raise InputError(f"it is AWQ of {bits} bits: the GEMM layout has 4")
        size = _integer(config, "group_size" if "group_size" in config else "q_group_size")
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
        k, words = _matrix("qweight", shapes["qweight"])
        if k % self.format.group_length(k):
            raise InputError(f"k = {k} is no multiple of the group size {self.group_size}")
        groups = self.format.groups(k)
        _fits("scales", shapes["scales"], (groups, 8 * words))
        _fits("qzeros", shapes["qzeros"], (groups, words))
        return 8 * words, k

    def read(self, parts: Mapping[str, NDArray[Any]]) -> QuantTensor:
        """Make a tensor of ``qweight``, ``qzeros`` and ``scales``."""
        arrays = {**parts, "scales": exact_half("scales", parts["scales"])}
        return self._as_configured(from_awq(AwqTensors(**arrays)))

    def write(self, weight: QuantTensor) -> dict[str, NDArray[Any]]:
        """Make ``qweight``, ``qzeros`` and ``scales``."""
        return to_awq(weight)._asdict()


@dataclass(frozen=True)
class PackedScheme(Scheme):
    """compressed-tensors' pack-quantized: one group of settings for all linears."""

    method = "compressed-tensors"
    title = "compressed-tensors"
    parts: ClassVar = {
        "weight_packed": ("I32",),
        "weight_scale": _HALVES,
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
        size = _integer(weights, "group_size") if strategy == "group" else ROW
        return cls(_integer(weights, "num_bits"), size, _flag(weights, "symmetric", True))

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
        n, words = _matrix("weight_packed", shapes["weight_packed"])
        if k is None or packed_words(k, self.bits) != words:
            raise InputError(f"weight_shape says k = {k}, but a row is of {words} words")
        groups = self.format.groups(k)
        _fits("weight_scale", shapes["weight_scale"], (n, groups))
        if not self.symmetric:
            zeros = (packed_words(n, self.bits), groups)
            _fits("weight_zero_point", shapes["weight_zero_point"], zeros)
        return n, k

    def read(self, parts: Mapping[str, NDArray[Any]]) -> QuantTensor:
        """Make a tensor of the parts that all begin with ``weight_``."""
        arrays = {name.removeprefix("weight_"): array for name, array in parts.items()}
        return self._as_configured(from_packed(PackedTensors(**arrays), self.bits))

    def write(self, weight: QuantTensor) -> dict[str, NDArray[Any]]:
        """Make those parts."""
        parts = to_packed(weight)._asdict()
        return {f"weight_{name}": array for name, array in parts.items() if array is not None}


_SCHEMES: dict[str, type[Scheme]] = {
    scheme.method: scheme for scheme in (GptqScheme, AwqScheme, PackedScheme)
}


def scheme_of(config: Mapping[str, Any]) -> Scheme:
    """The scheme that a folder's ``quantization_config`` describes.

    Raises:
        InputError: a method that cannot be read, or settings that make no sense.
    """
    method = config.get("quant_method")
    if not isinstance(method, str) or method not in _SCHEMES:
        raise InputError(
            f"it is quantised already ({method}); {', '.join(_SCHEMES)} and .gguf files can be "
            "read, or give the float checkpoint that it was made from"
        )
    return _SCHEMES[method].from_config(config)


def scheme_for(kind: str, first: QuantTensor, desc_act: bool | None) -> Scheme:
    """The scheme to write ``kind`` with, whose every linear is of ``first``'s format.

    Args:
        kind: ``gptq``, ``gptq_v2``, ``awq`` or ``compressed-tensors``.
        first: one of the tensors.
        desc_act: whether GPTQ's channels may be ordered; None where ``first`` tells.

    Raises:
        InputError: another kind, or a format that it has not.
    """
    fmt = first.format
    settings = (fmt.bits, fmt.group_size, fmt.offset == "symmetric")
    ordered = first.order is not None if desc_act is None else desc_act
    match kind:
        case "gptq" | "gptq_v2":
            return GptqScheme(*settings, ordered, kind)
        case "awq":
            return AwqScheme(*settings)
        case "compressed-tensors":
            return PackedScheme(*settings)
    raise InputError(
        f"no kind of checkpoint is called {kind!r}: hf, gptq, gptq_v2, awq and compressed-tensors"
    )


def _integer(config: Mapping[str, Any], key: str) -> int:
    value = config.get(key)
    if not isinstance(value, int) or isinstance(value, bool):
        raise InputError(f"its {key} is {value!r}: must be a whole number")
    return value


def _flag(config: Mapping[str, Any], key: str, default: bool) -> bool:
    value = config.get(key, default)
    if not isinstance(value, bool):
        raise InputError(f"its {key} is {value!r}: must be true or false")
    return value


def _matrix(what: str, shape: tuple[int, ...]) -> tuple[int, int]:
    if len(shape) != 2 or 0 in shape:
        raise InputError(f"{what} must be a matrix, not {list(shape)}")
    return shape[0], shape[1]


def _fits(what: str, shape: tuple[int, ...], wanted: tuple[int, int]) -> None:
    if shape != wanted:
        raise InputError(f"{what} must be {list(wanted)}, not {list(shape)}")
