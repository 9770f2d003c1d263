"""Hugging Face checkpoints: a local folder, or a repository that the hub's own client fetches."""

from __future__ import annotations

import json
from collections import Counter
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sllmbench.checkpoints.base import Checkpoint, Progress, silent
from sllmbench.checkpoints.safetensors_file import (
    FLOAT_TYPES,
    StoredTensor,
    read_header,
    read_rows,
)
from sllmbench.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_INDEX = "model.safetensors.index.json"
_SINGLE = "model.safetensors"
_PICKLES = (".bin", ".pt", ".pth", ".ckpt")
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")


class FolderCheckpoint(Checkpoint):
    """A folder with ``config.json`` and safetensors weights, sharded or not."""

    def __init__(self, folder: Path, name: str, origin: str = "") -> None:
        """Open ``folder``; ``origin`` is added to what its provenance says.

        Raises:
            InputError: it holds no safetensors, lacks a shard, is corrupt, or is quantised already.
        """
        self.name = name
        self._folder = self.location = folder
        self._check_config()
        self._stored = _stored_tensors(folder)
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

    def _check_config(self) -> None:
        """Refuse what is not a float checkpoint before anything heavy is imported."""
        file = self._folder / "config.json"
        try:
            config = json.loads(file.read_text("utf-8"))
            quantised = config.get("quantization_config")
            method = quantised.get("quant_method", "some method") if quantised else None
        except FileNotFoundError as error:
            raise InputError(f"{self._folder} holds no config.json: it is no checkpoint") from error
        except (OSError, ValueError, AttributeError) as error:
            raise InputError(f"cannot read {file}: {error}") from error
        if method is not None:
            raise InputError(
                f"{self.name} is quantised already ({method}); give the float checkpoint it was "
                "made from, or a .gguf file"
            )


def open_hub(repository: str, progress: Progress = silent) -> FolderCheckpoint:
    """Open the Hugging Face repository ``organisation/name``, downloading what the cache lacks.

    Raises:
        InputError: the hub cannot be reached or refuses, or the repository holds no safetensors.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    progress(f"fetching {repository} from the Hugging Face hub", None)
    try:
        folder = Path(
            snapshot_download(
                repository,
                allow_patterns=["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"],
                ignore_patterns=["*/*", "consolidated*"],
            )
        )
    except LocalEntryNotFoundError as error:
        raise InputError(
            f"cannot get {repository}: the Hugging Face hub cannot be reached and its cache here "
            "lacks it; check the network, or give a local folder"
        ) from error
    except Exception as error:  # the client's error types have changed between its releases
        raise InputError(
            f"cannot get {repository} from the Hugging Face hub: {one_line(error)}; check the "
            "name, log in if the repository is gated, or give a local folder"
        ) from error
    return FolderCheckpoint(folder, repository, f", revision {folder.name[:12]}")


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
    try:
        shard_of = json.loads((folder / _INDEX).read_text("utf-8"))["weight_map"]
        files = {name: folder / Path(file).name for name, file in shard_of.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"cannot read {folder / _INDEX}: {error!r}") from error
    stored: dict[str, StoredTensor] = {}
    for file in sorted(set(files.values())):
        if not file.exists():
            raise InputError(f"{folder} lacks {file.name}, which {_INDEX} names; download it again")
        stored |= read_header(file)
    for name, file in files.items():
        if name not in stored or stored[name].file != file:
            raise InputError(f"{file} lacks {name}, which {_INDEX} places there")
    return stored


def _main_type(stored: dict[str, StoredTensor]) -> str:
    """The type of most matrices, as torch calls it."""
    if not stored:
        raise InputError("the safetensors file holds no tensors")
    counts = Counter(tensor.stored_type for tensor in stored.values() if len(tensor.shape) > 1)
    stored_type = counts.most_common(1)[0][0] if counts else next(iter(stored.values())).stored_type
    return FLOAT_TYPES.get(stored_type, stored_type)
