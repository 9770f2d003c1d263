"""GGUF files: converted once to float32, their quantised blocks read as they are stored.

Reading a GGUF through transformers takes tens of seconds, the float32 folder 0.3 s; so it is kept
in the cache, keyed by the file and by the transformers release that wrote it (config.json differs
between releases, and an older one misreads a newer one's).
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import sys
import tempfile
from collections import Counter
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sllmbench.assets import cache
from sllmbench.checkpoints.base import Checkpoint, Progress, silent
from sllmbench.checkpoints.gguf_blocks import BLOCK_TYPES, read_blocks
from sllmbench.checkpoints.gguf_convert import IGNORED_TENSORS, TOKENIZER_REASON
from sllmbench.checkpoints.gguf_header import GgufHeader, GgufTensor, read_header
from sllmbench.checkpoints.gguf_names import INTERLEAVED, interleaved_rows, name_map, stored_name
from sllmbench.checkpoints.hf import FolderCheckpoint
from sllmbench.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from sllmbench.formats import QuantTensor

_CONVERTER = 3
"""Raised whenever gguf_convert.py writes something else than before."""
_HEAD_BYTES = 1 << 20

_FLOAT_BLOCKS = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}


class GgufCheckpoint(Checkpoint):
    """A GGUF file; opening it converts it where the cache lacks the conversion."""

    stored_as = "gguf"

    def __init__(
        self, file: Path, name: str, identity: str | None = None, progress: Progress = silent
    ) -> None:
        """Open ``file``; ``identity`` is what its conversion is kept under, by default the file's.

        Raises:
            InputError: the file is truncated, corrupt, or of an architecture that transformers
                cannot read; or the cache cannot be written.
        """
        self.name = name
        file = self.file = self.location = file.absolute()
        self._header = read_header(file)
        self._floats = _converted(self._header, name, identity or _identity(file), progress)
        self.provenance = _provenance(self._header)
        self.quality_unavailable = self._floats.quality_unavailable
        self.quantized_unavailable = _without_kernel(self._header)

    def config(self) -> Any:
        """The model's configuration, from the GGUF's metadata."""
        return self._floats.config()

    def tokenizer(self) -> Any:
        """The tokenizer inside the file.

        Raises:
            InputError: it holds none that transformers can read.
        """
        if self.quality_unavailable is not None:
            raise InputError(self.quality_unavailable)
        return self._floats.tokenizer()

    def companions(self) -> list[Path]:
        """The tokenizer's files, as they were converted."""
        return self._floats.companions()

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Every tensor's name and shape; a tied lm_head is not listed apart from the embedding."""
        return self._floats.shapes()

    def rows(self, name: str, start: int, stop: int) -> NDArray[np.float32]:
        """Rows ``start`` to ``stop`` of a tensor, dequantised.

        Raises:
            InputError: no such tensor or rows, NaN or infinite values.
        """
        return self._floats.rows(name, start, stop)

    def quantized(self, name: str) -> QuantTensor | None:
        """The stored blocks of a quantised matrix, None where it is stored as floats.

        Raises:
            InputError: no such tensor; its block type has no kernel here; the architecture's row
                order is not known; NaN or infinite scales.
        """
        shape = self._checked_shape(name, 0, 0)
        stored = self._stored(name)
        if stored.block_type in _FLOAT_BLOCKS:
            return None
        if stored.block_type not in BLOCK_TYPES:
            raise InputError(
                f"{name} is stored as {stored.block_type}, which has no kernel here yet "
                f"({', '.join(BLOCK_TYPES)} have); the other paths run on its dequantised weights"
            )
        if stored.shape != shape or len(shape) != 2:
            raise InputError(f"{name} is {list(shape)} but {stored.name} is {list(stored.shape)}")
        try:
            return read_blocks(self._header.file, stored, self._row_order(stored))
        except (InputError, OSError) as error:
            raise InputError(f"{name} of {self._header.file}: {error}") from error

    @cached_property
    def _names(self) -> Any:
        architecture = self._header.architecture
        if architecture not in INTERLEAVED:
            raise InputError(_without_kernel(self._header))
        return name_map(architecture, self._metadata_int("block_count"))

    def _stored(self, name: str) -> GgufTensor:
        """The file's tensor that transformers calls ``name``."""
        stored = stored_name(self._names, name)
        if stored not in self._header.tensors:
            raise InputError(f"{self.name} stores nothing under {stored} for {name}")
        return self._header.tensors[stored]

    def _row_order(self, stored: GgufTensor) -> NDArray[np.intp] | None:
        """For each stored row its place in transformers' order, None where they agree."""
        if not INTERLEAVED[self._header.architecture]:
            return None
        if ".attn_q." in stored.name:
            heads = self._metadata_int("attention.head_count")
        elif ".attn_k." in stored.name:
            heads = self._metadata_int("attention.head_count_kv", "attention.head_count")
        else:
            return None
        return interleaved_rows(stored.name, stored.shape[0], heads)

    def _metadata_int(self, *keys: str) -> int:
        for key in keys:
            value = self._header.metadata.get(f"{self._header.architecture}.{key}")
            if isinstance(value, int):
                return value
        raise InputError(f"{self._header.file} does not say its {keys[0]} as one number")


def _without_kernel(header: GgufHeader) -> str | None:
    """Why the file's blocks cannot run as they are stored, or None."""
    if header.architecture not in INTERLEAVED:
        return (
            f"the gguf path does not know the row order of {header.architecture} models, only of "
            f"{' and '.join(INTERLEAVED)}; the other paths run on its dequantised weights"
        )
    types = {tensor.block_type for tensor in header.tensors.values()}
    missing = sorted(types - {*_FLOAT_BLOCKS, *BLOCK_TYPES})
    if not missing:
        return None
    return (
        f"its {' and '.join(missing)} blocks have no kernel here yet "
        f"({', '.join(BLOCK_TYPES)} have); the other paths run on its dequantised weights"
    )


def _identity(file: Path) -> str:
    """What tells this file from another or from its own next version, without reading it all."""
    stat = file.stat()
    with file.open("rb") as stream:
        head = hashlib.sha256(stream.read(_HEAD_BYTES)).hexdigest()
    return f"{file.resolve()} {stat.st_size} {stat.st_mtime_ns} {head}"


def _converted(
    header: GgufHeader, name: str, identity: str, progress: Progress
) -> FolderCheckpoint:
    """The float32 folder of a GGUF file, made where the cache lacks a whole one."""
    key = f"{identity} {version('transformers')} {_CONVERTER}"
    parent = cache.cache_dir() / "converted"
    stem = re.sub(r"[^\w.-]", "_", header.file.stem)[:80]
    folder = parent / f"{stem}-{hashlib.sha256(key.encode()).hexdigest()[:16]}"
    with cache.cache_errors():
        if not _is_whole(folder, name):
            with cache.exclusive(f"convert-{folder.name}"):
                if not _is_whole(folder, name):  # another process may have just made it
                    shutil.rmtree(folder, ignore_errors=True)
                    _convert(header.file, folder, progress)
    return _open_converted(folder, name)


def _is_whole(folder: Path, name: str) -> bool:
    """Whether the conversion is there and undamaged."""
    try:
        _open_converted(folder, name)
    except InputError:
        return False
    return True


def _open_converted(folder: Path, name: str) -> FolderCheckpoint:
    floats = FolderCheckpoint(folder, name)
    reason = folder / TOKENIZER_REASON
    if reason.exists():
        floats.quality_unavailable = f"{name} has no tokenizer: {json.loads(reason.read_text())}"
    return floats


def _convert(file: Path, folder: Path, progress: Progress) -> None:
    """Convert in a process of its own into a scratch folder, then rename it to ``folder``."""
    prefix = f"partial-{folder.name}-"
    folder.parent.mkdir(parents=True, exist_ok=True)
    cache.remove_leftovers(folder.parent, prefix)
    with tempfile.TemporaryDirectory(prefix=prefix, dir=folder.parent) as scratch:
        target = Path(scratch) / "model"
        target.mkdir()
        status, complaint = cache.run_logged(
            [sys.executable, "-P", "-m", f"{__package__}.gguf_convert", str(file), str(target)],
            Path(scratch) / "convert.log",
            lambda: progress(f"converting {file.name} to float32, once", None),
        )
        if status != 0:
            said = (complaint.strip().splitlines() or [f"status {status}"])[-1]
            if status < 0:
                said = f"it was ended by signal {-status}, perhaps for lack of memory"
            raise InputError(f"transformers cannot convert {file}: {said}")
        target.replace(folder)
    cache.sync_folder(folder.parent)


def _provenance(header: GgufHeader) -> str:
    """What the weights are, by the type of most of the matrices' values."""
    values: Counter[str] = Counter()
    for tensor in header.tensors.values():
        if len(tensor.shape) > 1:
            values[tensor.block_type] += tensor.shape[0] * tensor.shape[1]
    main = values.most_common(1)[0][0] if values else "F32"
    model = re.sub(rf"[.-]{main}(_[SML])?$", "", header.file.stem, flags=re.IGNORECASE)
    stored = _FLOAT_BLOCKS.get(main) or f"dequantised {main}"
    grid = f"; its weights lie on {BLOCK_TYPES[main].grid}" if main in BLOCK_TYPES else ""
    ignored = sorted(IGNORED_TENSORS & header.tensors.keys())
    lost = f"; {ignored[0]} is not applied, which transformers cannot read" if ignored else ""
    return f"{stored} of {model} (GGUF){grid}{lost}"
