"""What a checkpoint is to the rest of the house: named tensors, read a few rows at a time."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sllmbench.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from sllmbench.formats import QuantFormat, QuantTensor

Progress = Callable[[str, float | None], None]
"""Called with what is being done and the fraction done (None where unknown)."""


def silent(what: str, fraction: float | None) -> None:
    """A :data:`Progress` that says nothing."""


class Checkpoint(ABC):
    """Weights on disk under the names that transformers gives them."""

    name: str
    """As the user asked for it."""
    location: Path | None = None
    """The folder or the file of the weights; None where they are made, not read."""
    provenance: str
    """What the weights are, said in every record: e.g. ``dequantised Q4_1``."""
    quality_unavailable: str | None
    """Why no quality can be measured (random weights), or None where it can."""
    stored_as: str | None = None
    """What holds quantised tensors: ``gguf``, ``gptq``, ``awq`` or ``compressed-tensors``."""
    quantized_unavailable: str | None = "the model holds floats, no quantised tensors"
    """Why :meth:`quantized` cannot serve this checkpoint, or None where it can."""

    @abstractmethod
    def config(self) -> Any:
        """The model's ``transformers`` configuration."""

    @abstractmethod
    def tokenizer(self) -> Any:
        """The model's ``transformers`` tokenizer."""

    @abstractmethod
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Every tensor's name and shape, without reading any data."""

    @abstractmethod
    def rows(self, name: str, start: int, stop: int) -> NDArray[np.float32]:
        """Rows ``start`` to ``stop`` of a tensor (elements, where it has one dimension).

        Only what is returned stays in memory: nothing is left mapped.

        Raises:
            InputError: no such tensor, a corrupt file, or NaN or infinite values in it.
        """

    def tensor(self, name: str) -> NDArray[np.float32]:
        """A whole tensor as float32; raises as :meth:`rows` does."""
        return self.rows(name, 0, self._checked_shape(name, 0, 0)[0])

    def quantized(self, name: str) -> QuantTensor | None:
        """The tensor's stored blocks as they are, or None where it is stored as floats.

        Raises:
            InputError: its block type has no kernel here, or it is corrupt.
        """
        return None

    def stored_format(self, name: str) -> QuantFormat | None:
        """The format of what :meth:`quantized` would read where it is cheap to know, else None."""
        return None

    def float_type(self, name: str) -> str:
        """The float type in which a tensor is stored, or in which its floats are had."""
        return "float32"

    def companions(self) -> list[Path]:
        """Files beside the weights that a copy needs: tokenizer, chat template, generation."""
        return []

    def _checked_shape(self, name: str, start: int, stop: int) -> tuple[int, ...]:
        """The shape of a tensor that has rows ``start`` to ``stop``."""
        shapes = self.shapes()
        if name not in shapes:
            raise InputError(f"{self.name} has no tensor {name!r}")
        if not 0 <= start <= stop <= shapes[name][0]:
            raise InputError(f"{name} of {self.name} has no rows {start} to {stop}: {shapes[name]}")
        return shapes[name]
