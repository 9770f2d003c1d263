"""A folder of float weights as Hugging Face keeps them."""

from __future__ import annotations

import re
from collections import Counter
from functools import cached_property
from typing import TYPE_CHECKING, Any

from sllmbench.checkpoints.base import Checkpoint
from sllmbench.checkpoints.json_file import read_object
from sllmbench.checkpoints.safetensors_file import (
    FLOAT_TYPES,
    StoredTensor,
    read_header,
    read_rows,
)
from sllmbench.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

_INDEX = "model.safetensors.index.json"
_SINGLE = "model.safetensors"
_PICKLES = (".bin", ".pt", ".pth", ".ckpt")
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")
_COMPANIONS = (
    *_TOKENIZERS,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
)
_WIDTHS = ("hidden_size", "intermediate_size", "head_dim", "num_attention_heads", "vocab_size")
_PACKED = 16
"""Codes in a word of the narrowest that are read: a packed tensor is that much shorter."""
_SMALL = 256
"""What no size is refused below."""
_SHARD = re.compile(r"[\w.-]+\.safetensors")


class FolderCheckpoint(Checkpoint):
    """A folder with ``config.json`` and safetensors weights, sharded or not."""

    def __init__(self, folder: Path, name: str, origin: str = "") -> None:
        """Open ``folder``; ``origin`` is added to what its provenance says.

        Raises:
            InputError: it holds no safetensors, lacks a shard, or is corrupt.
        """
        self.name = name
        self._folder = self.location = folder
        self._settings = read_settings(folder)
        self._stored = _stored_tensors(folder)
        self._check_sizes()
        self.provenance = f"{_main_type(self._stored)} safetensors{origin}"
        self.quality_unavailable = (
            None
            if any((folder / file).exists() for file in _TOKENIZERS)
            else f"{name} holds no tokenizer, so no text can be scored"
        )

    def config(self) -> Any:
        """The folder's configuration as transformers reads it.

        Raises:
            InputError: transformers cannot read it.
        """
        return self._config

    @cached_property
    def _config(self) -> Any:
        from transformers import AutoConfig

        try:
            return AutoConfig.from_pretrained(
                self._folder, local_files_only=True, trust_remote_code=False
            )
        except Exception as error:  # of whatever type: the folder's content decides
            raise InputError(
                f"transformers cannot read {self._folder / 'config.json'}: {one_line(error)}"
            ) from error

    def tokenizer(self) -> Any:
        """The folder's tokenizer.

        Raises:
            InputError: there is none, or transformers cannot read it.
        """
        from transformers import AutoTokenizer

        if self.quality_unavailable is not None:
            raise InputError(self.quality_unavailable)
        try:
            return AutoTokenizer.from_pretrained(
                self._folder, local_files_only=True, trust_remote_code=False
            )
        except Exception as error:  # of whatever type: the folder's content decides
            raise InputError(
                f"transformers cannot read the tokenizer in {self._folder}: {one_line(error)}"
            ) from error

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Every tensor's name and shape; a tied lm_head is not listed apart from the embedding."""
        return dict(self._shapes)

    @cached_property
    def _shapes(self) -> dict[str, tuple[int, ...]]:
        tied = bool(getattr(self.config(), "tie_word_embeddings", False))
        return {
            name: tensor.shape
            for name, tensor in self._stored.items()
            if not (tied and name == "lm_head.weight")
            # Old Llama files carry this table, which transformers computes and does not load.
            and not name.endswith(".rotary_emb.inv_freq")
        }

    def rows(self, name: str, start: int, stop: int) -> NDArray[np.float32]:
        """Rows ``start`` to ``stop`` of a tensor, read from its file.

        Raises:
            InputError: no such tensor or rows, a type that is no float, NaN or infinite values.
        """
        self._checked_shape(name, start, stop)
        return read_rows(name, self._stored[name], start, stop)

    def float_type(self, name: str) -> str:
        """The type in which a tensor is stored, as torch calls it."""
        stored = self._stored[name].stored_type
        return FLOAT_TYPES.get(stored, stored)

    def companions(self) -> list[Path]:
        """The tokenizer's files, the chat template and generation's defaults."""
        return [file for name in _COMPANIONS if (file := self._folder / name).is_file()]

    def _check_sizes(self) -> None:
        """Refuse a configuration of sizes that the tensors have not: transformers allocates them.

        Raises:
            InputError: a size beyond every tensor's.
        """
        longest = max((max(t.shape, default=1) for t in self._stored.values()), default=0)
        bounds = dict.fromkeys(_WIDTHS, longest * _PACKED) | {
            "num_hidden_layers": len(self._stored)
        }
        for key, bound in bounds.items():
            size = self._settings.get(key)
            if isinstance(size, int | float) and size > max(bound, _SMALL):
                raise InputError(
                    f"{self._folder / 'config.json'} says {key} = {size}, "
                    "which no tensor of the checkpoint bears out"
                )


def read_settings(folder: Path) -> dict[str, Any]:
    """What ``config.json`` says, before anything heavy is imported.

    Raises:
        InputError: there is none, or it is no JSON object.
    """
    file = folder / "config.json"
    if not file.exists():
        raise InputError(f"{folder} holds no config.json: it is no checkpoint")
    return read_object(file)


def one_line(error: BaseException) -> str:
    """The first sentence or so of an error that may span many lines."""
    words = " ".join(str(error).split()) or type(error).__name__
    return words if len(words) <= 240 else f"{words[:240]}…"


def _stored_tensors(folder: Path) -> dict[str, StoredTensor]:
    if (folder / _INDEX).exists():
        return _sharded(folder)
    if (folder / _SINGLE).exists():
        return read_header(folder / _SINGLE)
    if any(file.suffix in _PICKLES for file in folder.iterdir()):
        raise InputError(
            f"{folder} holds pickled weights only, which can run code and are never read; convert "
            "them with transformers: from_pretrained(...) and save_pretrained(...) in a safe place"
        )
    raise InputError(
        f"{folder} holds neither {_SINGLE} nor {_INDEX} (pickled weights are never read)"
    )


def _sharded(folder: Path) -> dict[str, StoredTensor]:
    """The tensors of all shards, checked against the index."""
    shard_of = read_object(folder / _INDEX).get("weight_map")
    if not isinstance(shard_of, dict) or not all(
        isinstance(file, str) and _SHARD.fullmatch(file) for file in shard_of.values()
    ):
        raise InputError(
            f"cannot read {folder / _INDEX}: its weight_map names no safetensors files"
        )
    stored: dict[str, StoredTensor] = {}
    for file in sorted({folder / name for name in shard_of.values()}):
        if not file.exists():
            raise InputError(f"{folder} lacks {file.name}, which {_INDEX} names; download it again")
        tensors = read_header(file)
        for name in tensors:
            if shard_of.get(name) != file.name:
                raise InputError(f"{file} holds {name}, which {_INDEX} does not place there")
        stored |= tensors
    for name, shard in shard_of.items():
        if name not in stored:
            raise InputError(f"{folder / shard} lacks {name}, which {_INDEX} places there")
    return stored


def _main_type(stored: dict[str, StoredTensor]) -> str:
    """The type of most matrices, as torch calls it."""
    if not stored:
        raise InputError("the safetensors file holds no tensors")
    counts = Counter(tensor.stored_type for tensor in stored.values() if len(tensor.shape) > 1)
    stored_type = counts.most_common(1)[0][0] if counts else next(iter(stored.values())).stored_type
    return FLOAT_TYPES.get(stored_type, stored_type)
