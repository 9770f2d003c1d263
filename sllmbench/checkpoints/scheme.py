"""What a way to hold quantised linears in a folder is: a configuration, and a linear's tensors.

A scheme holds for a whole folder: one width, one group size, symmetric or not.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

from sllmbench.checkpoints.affine import check_bits, integers
from sllmbench.errors import InputError
from sllmbench.formats import ROW

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from sllmbench.formats import QuantFormat, QuantTensor

SCALE_TYPES = ("F16", "BF16", "F32")
"""safetensors types in which scales are stored."""


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


def integer_of(config: Mapping[str, Any], key: str) -> int:
    """A setting that must be a whole number; raises InputError."""
    value = config.get(key)
    if not isinstance(value, int) or isinstance(value, bool):
        raise InputError(f"its {key} is {value!r}: must be a whole number")
    return value


def flag_of(config: Mapping[str, Any], key: str, default: bool) -> bool:
    """A setting that must be true or false; raises InputError."""
    value = config.get(key, default)
    if not isinstance(value, bool):
        raise InputError(f"its {key} is {value!r}: must be true or false")
    return value


def matrix_of(what: str, shape: tuple[int, ...]) -> tuple[int, int]:
    """The shape of a part that must be a matrix with something in it; raises InputError."""
    if len(shape) != 2 or 0 in shape:
        raise InputError(f"{what} must be a matrix, not {list(shape)}")
    return shape[0], shape[1]


def check_fit(what: str, shape: tuple[int, ...], wanted: tuple[int, int]) -> None:
    """Refuse a part of another shape than the others ask for; raises InputError."""
    if shape != wanted:
        raise InputError(f"{what} must be {list(wanted)}, not {list(shape)}")
