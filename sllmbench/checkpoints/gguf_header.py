"""The header of a GGUF file: metadata and where each tensor lies, checked against the file's size.

    magic "GGUF" | u32 version | u64 tensors | u64 pairs | pairs | tensor infos | padding | data

Checked here because the gguf library maps the file and believes its counts: a damaged one sends it
into loops of 2^60 steps.
"""

from __future__ import annotations

import math
import mmap
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sllmbench.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

_SCALARS = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "?",
    10: "Q",
    11: "q",
    12: "d",
}
"""Value types by GGUF's number, as ``struct`` spells them."""
_STRING, _ARRAY = 8, 9
_MAX_DIMENSIONS = 4

Value = int | float | bool | str


@dataclass(frozen=True)
class GgufTensor:
    """One tensor: ``nbytes`` at ``offset``, its shape outermost first as [n, k]."""

    name: str
    block_type: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int


@dataclass(frozen=True)
class GgufHeader:
    """What a GGUF file says of itself; arrays (the vocabulary) are skipped."""

    file: Path
    metadata: dict[str, Value]
    tensors: dict[str, GgufTensor]

    @property
    def architecture(self) -> str:
        """The architecture's name, e.g. ``llama``."""
        return str(self.metadata["general.architecture"])


def read_header(file: Path) -> GgufHeader:
    """Read and check the header of ``file``; time and memory are bounded by its size.

    Raises:
        InputError: it is no GGUF file, or truncated, or its header contradicts its size.
    """
    try:
        with (
            file.open("rb") as stream,
            mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data,
        ):
            return _parse(file, data)
    except (OSError, ValueError) as error:  # InputError is a ValueError
        if isinstance(error, InputError):
            raise
        raise InputError(f"cannot read {file}: {error}") from error


class _Cursor:
    """Reads forward through a file and refuses to pass its end."""

    def __init__(self, file: Path, data: mmap.mmap) -> None:
        self.file, self.data, self.at = file, data, 0

    def take(self, count: int) -> int:
        """Step over ``count`` bytes and return where they begin."""
        begin = self.at
        if count > len(self.data) - begin:
            raise InputError(f"{self.file} is truncated or corrupt in its header, at byte {begin}")
        self.at = begin + count
        return begin

    def scalar(self, code: str) -> Value:
        layout = f"<{code}"
        begin = self.take(struct.calcsize(layout))
        value: Value = struct.unpack_from(layout, self.data, begin)[0]
        return value

    def integer(self, code: str) -> int:
        return int(self.scalar(code))

    def string(self) -> str:
        length = self.integer("Q")
        begin = self.take(length)
        try:
            return self.data[begin : self.at].decode("utf-8")
        except UnicodeDecodeError as error:
            raise InputError(f"{self.file} is corrupt: no UTF-8 text at byte {begin}") from error


def _parse(file: Path, data: mmap.mmap) -> GgufHeader:
    cursor = _Cursor(file, data)
    if data[:4] != b"GGUF":
        raise InputError(f"{file} is not a GGUF file: it does not begin with GGUF")
    cursor.take(4)
    version = cursor.integer("I")
    if version not in (2, 3):
        raise InputError(f"{file} has GGUF version {version}; 2 and 3 (little-endian) can be read")
    tensor_count, pair_count = cursor.integer("Q"), cursor.integer("Q")
    metadata: dict[str, Value] = {}
    for _ in range(pair_count):
        key = cursor.string()
        value = _value(cursor, cursor.integer("I"))
        if key in metadata:
            raise InputError(f"{file} is corrupt: it gives {key} twice")
        if value is not None:
            metadata[key] = value
    if not isinstance(metadata.get("general.architecture"), str):
        raise InputError(f"{file} does not say its general.architecture")
    tensors = _tensors(cursor, tensor_count, metadata)
    # What reads the file makes tables of as many names.
    blocks = metadata.get(f"{metadata['general.architecture']}.block_count", 0)
    if isinstance(blocks, int) and blocks > len(tensors):
        raise InputError(f"{file} is corrupt: {blocks} blocks, but {len(tensors)} tensors")
    return GgufHeader(file, metadata, tensors)


def _value(cursor: _Cursor, kind: int) -> Value | None:
    """The value at the cursor, None for an array."""
    if kind == _STRING:
        return cursor.string()
    if kind in _SCALARS:
        return cursor.scalar(_SCALARS[kind])
    if kind != _ARRAY:
        raise InputError(f"{cursor.file} is corrupt: no metadata has type {kind}")
    kind, count = cursor.integer("I"), cursor.integer("Q")
    if kind in _SCALARS:
        cursor.take(count * struct.calcsize(_SCALARS[kind]))
    elif kind == _STRING:
        for _ in range(count):  # ends at the end of the file at the latest
            cursor.take(cursor.integer("Q"))
    else:
        raise InputError(f"{cursor.file} is corrupt: no metadata array holds type {kind}")
    return None


def _tensors(cursor: _Cursor, count: int, metadata: dict[str, Value]) -> dict[str, GgufTensor]:
    """The tensor infos, with extents that lie in the file and do not overlap."""
    relative = [_tensor_info(cursor) for _ in _bounded(cursor, count)]
    alignment = metadata.get("general.alignment", 32)
    if not isinstance(alignment, int) or alignment <= 0 or alignment & (alignment - 1):
        raise InputError(f"{cursor.file} is corrupt: its alignment is {alignment!r}")
    base = -(-cursor.at // alignment) * alignment
    tensors: dict[str, GgufTensor] = {}
    end = base
    for tensor in sorted(relative, key=lambda tensor: tensor.offset):
        begin = base + tensor.offset
        if tensor.name in tensors or begin < end or tensor.offset % alignment:
            raise InputError(f"{cursor.file} is corrupt: {tensor.name} overlaps or is not aligned")
        end = begin + tensor.nbytes
        if end > len(cursor.data):
            raise InputError(
                f"{cursor.file} is truncated: {tensor.name} ends at byte {end} of "
                f"{len(cursor.data)}; copy or download it again"
            )
        tensors[tensor.name] = GgufTensor(
            tensor.name, tensor.block_type, tensor.shape, begin, tensor.nbytes
        )
    return tensors


def _bounded(cursor: _Cursor, count: int) -> range:
    """``range(count)``, refused where so many infos of at least 24 bytes cannot follow."""
    if count * 24 > len(cursor.data) - cursor.at:
        raise InputError(f"{cursor.file} is truncated or corrupt: {count} tensors cannot fit in it")
    return range(count)


def _tensor_info(cursor: _Cursor) -> GgufTensor:
    """One tensor's info, its offset still relative to the data."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    name, dimensions = cursor.string(), cursor.integer("I")
    if not 1 <= dimensions <= _MAX_DIMENSIONS:
        raise InputError(f"{cursor.file} is corrupt: {name} has {dimensions} dimensions")
    shape = tuple(cursor.integer("Q") for _ in range(dimensions))[::-1]  # stored innermost first
    number, offset = cursor.integer("I"), cursor.integer("Q")
    try:
        block_type = GGMLQuantizationType(number)
    except ValueError as error:
        raise InputError(f"{cursor.file}: {name} has the unknown block type {number}") from error
    block_values, block_bytes = GGML_QUANT_SIZES[block_type]
    if math.prod(shape) == 0 or shape[-1] % block_values:
        raise InputError(f"{cursor.file} is corrupt: {name} {list(shape)} as {block_type.name}")
    nbytes = math.prod(shape) // block_values * block_bytes
    return GgufTensor(name, block_type.name, shape, offset, nbytes)
