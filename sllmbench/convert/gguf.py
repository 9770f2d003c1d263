"""A checkpoint as a GGUF file: every matrix in the block type of its mix, tensor by tensor."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from sllmbench.checkpoints.base import Checkpoint, Progress, silent
from sllmbench.checkpoints.gguf_blocks import pack_blocks
from sllmbench.checkpoints.gguf_write import (
    FLOAT_TYPES,
    OutTensor,
    float_bytes,
    stored_names,
    write_file,
)
from sllmbench.convert.gguf_mixes import (
    Place,
    check_file_type,
    file_type_number,
    part_of,
    wanted_type,
    writable_type,
)
from sllmbench.errors import InputError
from sllmbench.quantizers.kquant import quantize_blocks

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path
    from typing import Any

    from numpy.typing import NDArray

_CHUNK_VALUES = 1 << 22
"""Weights in float32 at a time: 16 MB, and a few times as much while they are quantised."""


@dataclass(frozen=True)
class WrittenTensor:
    """What became of one tensor.

    Attributes:
        name: as transformers has it.
        block_type: how it is stored, e.g. ``Q4_K``.
        wanted: what the mix wanted; another type where the rows are not in whole blocks of it.
        values: weights.
        nbytes: bytes stored.
        relative_error: sqrt(Σ e² / Σ w²) of its weights, each square times its input's importance
            where that was given.
    """

    name: str
    block_type: str
    wanted: str
    values: int
    nbytes: int
    relative_error: float


@dataclass(frozen=True)
class GgufSummary:
    """What was written.

    Attributes:
        file: where.
        file_type: the mix, e.g. ``Q4_K_M``.
        tokenizer: what became of the tokenizer, in words.
        weighted: whether importances weighed the errors.
        tensors: one each, in the file's order.
    """

    file: Path
    file_type: str
    tokenizer: str
    weighted: bool
    tensors: tuple[WrittenTensor, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.nbytes for tensor in self.tensors)

    @property
    def bits_per_weight(self) -> float:
        """Stored bits a weight, over all tensors."""
        return 8 * self.nbytes / sum(tensor.values for tensor in self.tensors)

    @property
    def counts(self) -> dict[str, int]:
        """Tensors of each block type, the most frequent first."""
        return dict(Counter(tensor.block_type for tensor in self.tensors).most_common())

    @property
    def replaced(self) -> dict[str, int]:
        """Tensors that did not get the type that the mix wants, by ``wanted → stored``."""
        return dict(
            Counter(
                f"{tensor.wanted} → {tensor.block_type}"
                for tensor in self.tensors
                if tensor.wanted != tensor.block_type
            )
        )

    def worst(self, count: int = 5) -> list[WrittenTensor]:
        """The tensors of the largest relative error."""
        return sorted(self.tensors, key=lambda tensor: -tensor.relative_error)[:count]


def write_gguf(
    checkpoint: Checkpoint,
    out: Path,
    file_type: str,
    importance: Mapping[str, NDArray[np.float32]] | None = None,
    progress: Progress = silent,
) -> GgufSummary:
    """Write ``checkpoint`` as a GGUF file that llama.cpp loads.

    Args:
        checkpoint: a llama or qwen2 model.
        out: the file, which is overwritten; it appears when it is whole.
        file_type: the mix, e.g. ``Q4_K_M`` (:data:`~sllmbench.convert.gguf_mixes.FILE_TYPES`).
        importance: by a matrix's name the mean square of each of its inputs, float32 [k]; the
            errors of a matrix that has none are weighed alike.
        progress: told which tensor is quantised and the fraction of the weights done.

    Raises:
        InputError: no such mix, an architecture that cannot be written, an importance that does not
            fit or is not finite, weights that are not, or a file that cannot be written.
    """
    mix = check_file_type(file_type)
    weights = importance or {}
    planned = plan(checkpoint, mix, weighted=bool(weights))
    _check_importance(checkpoint, weights)
    converter = _Converter(checkpoint, weights, progress, planned)
    tokenizer = write_file(
        out, checkpoint, file_type_number(mix), [tensor for tensor, _ in planned], converter.convert
    )
    return GgufSummary(out, mix, tokenizer, bool(weights), tuple(converter.written))


def plan(checkpoint: Checkpoint, mix: str, weighted: bool) -> list[tuple[OutTensor, str]]:
    """The tensors of the file with the block type that ``mix`` wants of each.

    Raises:
        InputError: an architecture that cannot be written.
    """
    config, shapes = checkpoint.config(), checkpoint.shapes()
    stored = stored_names(checkpoint)
    heads = config.num_attention_heads
    place = partial(
        Place,
        layers=config.num_hidden_layers,
        sharing=heads // (getattr(config, "num_key_value_heads", None) or heads),
        tied="output.weight" not in stored.values(),
        weighted=weighted,
    )
    planned = []
    for name, what in stored.items():
        shape = shapes[name]
        at = place(*part_of(what))
        wanted = wanted_type(mix, at) if len(shape) == 2 else "F32"
        block_type = writable_type(wanted, shape[-1], at)
        planned.append((OutTensor(name, what, shape, block_type), wanted))
    return planned


def _check_importance(
    checkpoint: Checkpoint, importance: Mapping[str, NDArray[np.float32]]
) -> None:
    shapes = checkpoint.shapes()
    for name, values in importance.items():
        shape = shapes.get(name)
        if name == "lm_head.weight" and shape is None:
            shape = shapes[_EMBEDDING]  # tied
        if shape is None or values.shape != shape[1:]:
            raise InputError(
                f"the importance of {name} is {list(values.shape)}, "
                f"{'no tensor of this model' if shape is None else f'its weight {list(shape)}'}"
            )


_EMBEDDING = "model.embed_tokens.weight"


class _Converter:
    """Turns tensors into their stored bytes, and keeps what became of each."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        importance: Mapping[str, NDArray[np.float32]],
        progress: Progress,
        planned: Iterable[tuple[OutTensor, str]],
    ) -> None:
        self.written: list[WrittenTensor] = []
        self._checkpoint, self._importance, self._progress = checkpoint, importance, progress
        self._wanted = {tensor.name: wanted for tensor, wanted in planned}
        self._total = sum(math.prod(tensor.shape) for tensor, _ in planned)
        self._done = 0

    def convert(self, tensor: OutTensor) -> NDArray[np.uint8]:
        """The tensor's bytes, uint8 [n, bytes of a row]."""
        n, k = tensor.shape[0], math.prod(tensor.shape[1:])
        step = max(1, _CHUNK_VALUES // k)
        importance = self._importance_of(tensor.name)
        data: NDArray[np.uint8] | None = None
        error = power = 0.0
        for start in range(0, n, step):
            self._progress(f"{tensor.name} as {tensor.block_type}", self._done / self._total)
            rows = self._checkpoint.rows(tensor.name, start, min(n, start + step)).reshape(-1, k)
            part, stands_for = _stored(rows, tensor.block_type, importance)
            if data is None:
                data = np.empty((n, part.shape[1]), np.uint8)
            data[start : start + step] = part
            error += _square(rows - stands_for, importance)
            power += _square(rows, importance)
            self._done += rows.size
        assert data is not None  # no tensor is empty
        relative = math.sqrt(error / power) if power > 0 else 0.0
        self.written.append(
            WrittenTensor(
                tensor.name,
                tensor.block_type,
                self._wanted[tensor.name],
                n * k,
                data.nbytes,
                relative,
            )
        )
        return data

    def _importance_of(self, name: str) -> NDArray[np.float32] | None:
        found = self._importance.get(name)
        if found is None and name == _EMBEDDING and name not in self._importance:
            return self._importance.get("lm_head.weight")  # tied: its product with it matters
        return found


def _stored(
    rows: NDArray[np.float32], block_type: str, importance: NDArray[np.float32] | None
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """[n, k] weights as their bytes, and as what those stand for."""
    if block_type not in FLOAT_TYPES:
        tensor = quantize_blocks(rows, block_type.lower(), importance)
        return pack_blocks(tensor), tensor.dequantize()
    data = float_bytes(rows, block_type)
    if block_type == "F32":
        return data, rows
    if block_type == "F16":
        return data, data.view("<f2").astype(np.float32)
    return data, (data.view("<u2").astype("<u4") << 16).view("<f4")


def _square(values: NDArray[Any], importance: NDArray[np.float32] | None) -> float:
    squares = np.square(values, dtype=np.float64).sum(axis=0)
    return float(squares.sum() if importance is None else squares @ importance)
