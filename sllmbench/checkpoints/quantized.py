"""Folders whose linears are quantised (GPTQ, AWQ, compressed-tensors), read as they are stored."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from sllmbench.checkpoints.affine import rows_of
from sllmbench.checkpoints.hf import FolderCheckpoint
from sllmbench.checkpoints.packed import checked_shape
from sllmbench.checkpoints.safetensors_file import FLOAT_TYPES, StoredTensor, read_array
from sllmbench.checkpoints.schemes import scheme_of
from sllmbench.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from sllmbench.formats import QuantFormat, QuantTensor


class QuantizedFolder(FolderCheckpoint):
    """A folder whose linears lie there in several tensors each, under the float weights' names."""

    quantized_unavailable: str | None = None

    def __init__(
        self, folder: Path, name: str, settings: Mapping[str, Any], origin: str = ""
    ) -> None:
        """Open ``folder``, which ``settings``, its ``quantization_config``, describes.

        Raises:
            InputError: as :class:`FolderCheckpoint`, or tensors that the settings do not fit.
        """
        super().__init__(folder, name)
        try:
            self._scheme = scheme_of(settings)
        except InputError as error:
            raise InputError(f"cannot read {name}: {error}") from error
        self.stored_as = self._scheme.method
        if self._scheme.bits == 8 and not self._scheme.symmetric:
            self.quantized_unavailable = (
                "no kernel here multiplies 8 bits with zero points; the other paths run on its "
                "dequantised weights"
            )
        self.provenance = f"{self._scheme.label}, dequantised{origin}"
        self._linears = self._grouped()
        self._quantized_shapes = {weight: self._linear_shape(weight) for weight in self._linears}
        self._last: tuple[str, QuantTensor] | None = None

    def config(self) -> Any:
        """The configuration of the float model, which our linears are put into."""
        config = super().config()
        if hasattr(config, "quantization_config"):
            del config.quantization_config
        return config

    @cached_property
    def _shapes(self) -> dict[str, tuple[int, ...]]:
        """Of float tensors; a quantised linear's ``weight`` is one."""
        parts = {
            f"{weight.removesuffix('weight')}{part}"
            for weight, linear in self._linears.items()
            for part in linear
        }
        floats = {name: shape for name, shape in super()._shapes.items() if name not in parts}
        return self._quantized_shapes | floats

    def rows(self, name: str, start: int, stop: int) -> NDArray[np.float32]:
        """Rows ``start`` to ``stop`` of a tensor, dequantised.

        A linear's codes are kept until its last row has been read.

        Raises:
            InputError: no such tensor or rows, or what is stored does not fit together.
        """
        if name not in self._linears:
            return super().rows(name, start, stop)
        self._checked_shape(name, start, stop)
        if self._last is None or self._last[0] != name:
            self._last = name, self._read(name)
        weight = self._last[1]
        if stop == weight.n:
            self._last = None
        if start == stop:
            return np.empty((0, weight.k), np.float32)
        return rows_of(weight, start, stop).dequantize()

    def quantized(self, name: str) -> QuantTensor | None:
        """A linear's stored tensor, None where it is stored as floats.

        Raises:
            InputError: no such tensor, or what is stored does not fit together.
        """
        self._checked_shape(name, 0, 0)
        return self._read(name) if name in self._linears else None

    def stored_format(self, name: str) -> QuantFormat | None:
        """The folder's format, None for a tensor that is stored as floats."""
        return self._scheme.format if name in self._linears else None

    def float_type(self, name: str) -> str:
        """A float tensor's own type; float32 for what is dequantised."""
        return "float32" if name in self._linears else super().float_type(name)

    def _read(self, name: str) -> QuantTensor:
        stored = self._linears[name]
        stem = name.removesuffix("weight")
        parts = {part: read_array(f"{stem}{part}", tensor) for part, tensor in stored.items()}
        try:
            return self._scheme.read(parts)
        except InputError as error:
            raise InputError(f"{name} of {self.name}: {error}") from error

    def _grouped(self) -> dict[str, dict[str, StoredTensor]]:
        """The parts of each linear by the float weight's name; the rest must be floats."""
        linears: dict[str, dict[str, StoredTensor]] = {}
        for name, tensor in self._stored.items():
            module, _, part = name.rpartition(".")
            if part in self._scheme.parts:
                linears.setdefault(f"{module}.weight", {})[part] = tensor
            elif tensor.stored_type not in FLOAT_TYPES:
                raise InputError(
                    f"{self.name} holds {name}, {tensor.stored_type}, which "
                    f"{self._scheme.title} has no place for"
                )
        if not linears:
            raise InputError(
                f"{self.name} calls itself {self._scheme.label} but holds no such tensor"
            )
        for weight, parts in linears.items():
            self._check_parts(weight, parts)
        return linears

    def _check_parts(self, weight: str, parts: Mapping[str, StoredTensor]) -> None:
        stem = weight.removesuffix("weight")
        required = self._scheme.required()
        for part in (*required, *parts):
            if part not in parts:
                raise InputError(f"{self.name} lacks {stem}{part}")
            if part not in required:
                raise InputError(
                    f"{self.name} holds {stem}{part}, which its configuration excludes"
                )
            if parts[part].stored_type not in self._scheme.parts[part]:
                raise InputError(
                    f"{stem}{part} of {self.name} is stored as {parts[part].stored_type}, "
                    f"not as {' or '.join(self._scheme.parts[part])}"
                )
        if weight in self._stored:
            raise InputError(f"{self.name} holds {weight} twice: in floats and quantised")

    def _linear_shape(self, weight: str) -> tuple[int, int]:
        parts = self._linears[weight]
        try:
            said = None
            if "weight_shape" in parts:
                if parts["weight_shape"].shape != (2,):
                    raise InputError("weight_shape must be [2]")
                said = checked_shape(read_array("weight_shape", parts["weight_shape"]))
            shapes = {part: tensor.shape for part, tensor in parts.items()}
            return self._scheme.shape(shapes, None if said is None else said[1])
        except InputError as error:
            raise InputError(f"{weight} of {self.name}: {error}") from error
