"""GGUF files, written tensor by tensor: what is in memory is one tensor's blocks."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sllmbench.checkpoints.gguf_metadata import (
    QUANTIZATION_VERSION,
    ROPE_FACTORS,
    add_metadata,
    check_architecture,
    rope_factors,
)
from sllmbench.checkpoints.gguf_names import INTERLEAVED, interleaved_rows, name_map, stored_name
from sllmbench.checkpoints.gguf_tokenizer import add_tokenizer
from sllmbench.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from sllmbench.checkpoints.base import Checkpoint

FLOAT_TYPES = ("F32", "F16", "BF16")
_F16_MAX = 65504.0


@dataclass(frozen=True)
class OutTensor:
    """One tensor of a file to be written.

    Attributes:
        name: as transformers has it.
        stored: as the file will have it.
        shape: [n, k], or [n] of a norm or a bias.
        block_type: GGUF's name of how it is stored, e.g. ``Q4_K`` or ``F32``.
    """

    name: str
    stored: str
    shape: tuple[int, ...]
    block_type: str

    @property
    def row_bytes(self) -> int:
        """Bytes of a row of k values (of all values where it has one dimension)."""
        from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

        values, size = GGML_QUANT_SIZES[GGMLQuantizationType[self.block_type]]
        return self.shape[-1] // values * size

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor."""
        return self.row_bytes * (self.shape[0] if len(self.shape) > 1 else 1)


def stored_names(checkpoint: Checkpoint) -> dict[str, str]:
    """What a GGUF file calls each of the checkpoint's tensors.

    Raises:
        InputError: the architecture cannot be written, or has a tensor that llama.cpp lacks.
    """
    config = checkpoint.config()
    names = name_map(check_architecture(config), config.num_hidden_layers)
    found = {name: stored_name(names, name) for name in checkpoint.shapes()}
    stored = {name: what for name, what in found.items() if what is not None}
    for name in found.keys() - stored.keys():
        raise InputError(f"llama.cpp's {config.model_type} has no tensor for {name}")
    return stored


def write_file(
    out: Path,
    checkpoint: Checkpoint,
    file_type: int,
    tensors: Sequence[OutTensor],
    data_of: Callable[[OutTensor], NDArray[np.uint8]],
) -> str:
    """Write ``out``; it appears under its name only when it is whole.

    Args:
        out: the file, which is overwritten.
        checkpoint: whose configuration and tokenizer the file gets.
        file_type: ``general.file_type``, llama.cpp's number of the mix.
        tensors: what to write, in this order.
        data_of: gives a tensor's bytes, uint8 [n, bytes of a row], rows in transformers' order (of
            one dimension: [n, bytes of a value]); called once for each.

    Returns:
        What became of the tokenizer, in words.

    Raises:
        InputError: the architecture or its rotary embedding cannot be written, or ``out`` cannot.
    """
    from gguf import GGUFWriter

    partial = out.with_name(f".{out.name}.{os.getpid()}.partial")
    writer = GGUFWriter(partial, check_architecture(checkpoint.config()))
    try:
        tokenizer = _add_header(writer, checkpoint, file_type)
        _write(writer, checkpoint.config(), tensors, data_of)
        partial.replace(out)
    except OSError as error:
        raise InputError(f"cannot write {out}: {error.strerror or error}") from error
    finally:
        writer.close()
        partial.unlink(missing_ok=True)
    return tokenizer


def _add_header(writer: Any, checkpoint: Checkpoint, file_type: int) -> str:
    add_metadata(writer, checkpoint.config(), Path(checkpoint.name).name)
    writer.add_file_type(file_type)
    writer.add_quantization_version(QUANTIZATION_VERSION)
    return add_tokenizer(writer, checkpoint)


def _write(
    writer: Any,
    config: Any,
    tensors: Sequence[OutTensor],
    data_of: Callable[[OutTensor], NDArray[np.uint8]],
) -> None:
    from gguf import GGMLQuantizationType

    factors = rope_factors(config)
    if factors is not None:
        writer.add_tensor_info(ROPE_FACTORS, factors.shape, factors.dtype, factors.nbytes)
    for tensor in tensors:
        kind = GGMLQuantizationType[tensor.block_type]
        # Any dtype but uint8: of that the library would take the shape for one in bytes.
        dtype = np.dtype(np.float32)
        writer.add_tensor_info(tensor.stored, tensor.shape, dtype, tensor.nbytes, kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    if factors is not None:
        writer.write_tensor_data(factors)
    for tensor in tensors:
        data = data_of(tensor)
        order = _row_order(tensor, config)
        writer.write_tensor_data(data if order is None else data[order])
    for stream in writer.fout:
        stream.flush()
        os.fsync(stream.fileno())


def _row_order(tensor: OutTensor, config: Any) -> NDArray[np.intp] | None:
    """Which of transformers' rows each of the file's is, None where they agree."""
    heads = {
        "attn_q": config.num_attention_heads,
        "attn_k": getattr(config, "num_key_value_heads", None) or config.num_attention_heads,
    }
    part = tensor.stored.split(".")[-2]
    if not INTERLEAVED[config.model_type] or part not in heads:
        return None
    return interleaved_rows(tensor.name, tensor.shape[0], heads[part])


def float_bytes(values: NDArray[np.float32], block_type: str) -> NDArray[np.uint8]:
    """Float32 [n, k] as ``F32``, ``F16`` or ``BF16``, each rounded to nearest: uint8 [n, bytes].

    Raises:
        InputError: a value is beyond float16.
    """
    if block_type == "F16":
        if values.size and float(np.abs(values).max()) > _F16_MAX:
            raise InputError("values beyond float16 cannot be stored as F16; take BF16 or F32")
        halves = values.astype("<f2")
    elif block_type == "BF16":
        bits = values.astype("<f4").view("<u4")
        halves = ((bits + (0x7FFF + (bits >> 16 & 1))) >> 16).astype("<u2")
    else:
        halves = values.astype("<f4")
    return np.ascontiguousarray(halves).view(np.uint8).reshape(len(values), -1)
