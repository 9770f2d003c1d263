"""safetensors files: where each tensor lies, and its rows as float32."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from sllmbench.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

FLOAT_TYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
"""The types that can be read, by safetensors' name."""
_STORED: dict[str, type[np.generic]] = {"F32": np.float32, "F16": np.float16, "BF16": np.uint16}
_INTEGERS: dict[str, type[np.generic]] = {"I32": np.int32, "I64": np.int64}
_CHUNK_BYTES = 16 << 20


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor lies: ``offset`` bytes into ``file``, row after row."""

    file: Path
    stored_type: str
    shape: tuple[int, ...]
    offset: int


def read_header(file: Path) -> dict[str, StoredTensor]:
    """Return every tensor of ``file`` by name.

    Raises:
        InputError: the file is truncated, or its header does not describe it.
    """
    from safetensors import SafetensorError, safe_open

    try:
        # The library's own strict check: header length, JSON, types, and that the tensors fill the
        # file with no gap and no overlap. Its mapping of the file ends with the block.
        with safe_open(file, framework="np"):
            pass
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            header: dict[str, Any] = json.loads(
                stream.read(length), object_pairs_hook=_without_twins
            )
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise InputError(
            f"{file} is not a whole safetensors file ({error}); copy or download it again"
        ) from error
    header.pop("__metadata__", None)
    return {
        name: StoredTensor(
            file, entry["dtype"], tuple(entry["shape"]), 8 + length + entry["data_offsets"][0]
        )
        for name, entry in header.items()
    }


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entries = dict(pairs)
    if len(entries) != len(pairs):
        raise ValueError("its header gives a name twice")
    return entries


def read_array(name: str, tensor: StoredTensor) -> NDArray[Any]:
    """A whole tensor: integers as they are stored, float16 too, other floats as float32.

    Raises:
        InputError: another type, NaN or infinite values, or the file has become shorter.
    """
    if tensor.stored_type not in _INTEGERS:
        values = read_rows(name, tensor, 0, tensor.shape[0]) if tensor.shape else None
        if values is None:
            raise InputError(f"{name} in {tensor.file} has no dimensions")
        return values.astype(np.float16) if tensor.stored_type == "F16" else values
    stored = np.empty(tensor.shape, _INTEGERS[tensor.stored_type])
    try:
        with tensor.file.open("rb", buffering=0) as stream:
            stream.seek(tensor.offset)
            _read_into(stored, stream, tensor)
    except OSError as error:
        raise InputError(f"cannot read {tensor.file}: {error.strerror}") from error
    return stored


def read_rows(name: str, tensor: StoredTensor, start: int, stop: int) -> NDArray[np.float32]:
    """Rows ``start`` to ``stop`` of a tensor as float32, read in chunks of at most 16 MiB.

    Plain reads: a mapping would count the file's pages as ours for as long as it lasted.

    Raises:
        InputError: it is stored in no float type, holds NaN or infinite values, or the file has
            become shorter.
    """
    if tensor.stored_type not in _STORED:
        raise InputError(
            f"{name} in {tensor.file} is stored as {tensor.stored_type}; "
            f"only {', '.join(FLOAT_TYPES.values())} weights can be read"
        )
    stored = np.dtype(_STORED[tensor.stored_type])
    width = math.prod(tensor.shape[1:])
    values = np.empty((stop - start) * width, np.float32)
    try:
        with tensor.file.open("rb", buffering=0) as stream:
            stream.seek(tensor.offset + start * width * stored.itemsize)
            step = _CHUNK_BYTES // stored.itemsize
            for first in range(0, values.size, step):
                chunk = values[first : first + step]
                _fill(chunk, stream, tensor, stored)
                if not np.isfinite(chunk).all():
                    raise InputError(f"{name} in {tensor.file} holds NaN or infinite values")
    except OSError as error:
        raise InputError(f"cannot read {tensor.file}: {error.strerror}") from error
    return values.reshape(stop - start, *tensor.shape[1:])


def _fill(
    chunk: NDArray[np.float32], stream: Any, tensor: StoredTensor, stored: np.dtype[Any]
) -> None:
    """Read the next values of ``stream`` into ``chunk``."""
    raw = chunk if stored == np.float32 else np.empty(chunk.size, stored)
    _read_into(raw, stream, tensor)
    if tensor.stored_type == "BF16":  # the upper half of a float32
        bits = chunk.view(np.uint32)
        bits[:] = raw
        bits <<= 16
    elif raw is not chunk:
        chunk[:] = raw


def _read_into(values: NDArray[Any], stream: Any, tensor: StoredTensor) -> None:
    """Fill ``values`` with the next bytes of ``stream``."""
    unread = values.reshape(-1).view(np.uint8).data
    while unread:
        count = stream.readinto(unread)
        if not count:
            raise InputError(f"{tensor.file} has become shorter since it was opened")
        unread = unread[count:]
