"""Writing a checkpoint as a folder that transformers, and each method's own library, can read."""

from __future__ import annotations

import copy
import json
import os
import shutil
import tempfile
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from sllmbench.assets import cache
from sllmbench.checkpoints.gptq import GptqScheme
from sllmbench.checkpoints.schemes import scheme_for
from sllmbench.errors import InputError
from sllmbench.formats import QuantTensor

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    import torch
    from numpy.typing import NDArray

    from sllmbench.checkpoints.base import Checkpoint
    from sllmbench.checkpoints.scheme import Scheme

Kind = Literal["gptq", "gptq_v2", "awq", "compressed-tensors", "hf"]
FloatType = Literal["float32", "bfloat16", "float16"]
SHARD_BYTES = 1 << 30
"""What a shard holds at most, and with it the memory that writing takes."""


def write_folder(
    folder: Path,
    source: Checkpoint,
    tensors: Iterable[tuple[str, QuantTensor | NDArray[np.float32]]],
    kind: Kind,
    quantization: Mapping[str, Any],
    *,
    float_type: FloatType | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write a model's tensors, its configuration and its tokenizer, whole or not at all.

    Args:
        folder: where to; it may exist if it is empty.
        source: the float model that the tensors were made from: its configuration, tokenizer and
            names, of which each must come once. A tied output layer is not one of them.
        tensors: by the float weights' names, in any order; one is in memory at a time, and what
            the current shard holds.
        kind: how quantised tensors are laid out; ``hf`` has none.
        quantization: what the method's configuration says beside what the tensors say, e.g.
            ``desc_act`` and ``damp_percent``; empty for ``hf``.
        float_type: of what is not quantised; None keeps each tensor's own.
        shard_bytes: the size from which the weights are sharded.

    Raises:
        InputError: the folder holds something or cannot be written; tensors that ``source`` has
            not, that are missing, twice there or of another shape; or what ``kind`` cannot store.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} exists already; name another folder, or remove it")
    target = folder.absolute()
    with _os_errors(folder):
        target.parent.mkdir(parents=True, exist_ok=True)
        prefix = f".{target.name[:80]}-partial-"
        with tempfile.TemporaryDirectory(prefix=prefix, dir=target.parent) as scratch:
            made = Path(scratch) / "model"
            made.mkdir()
            writer = _Writer(source, kind, quantization, float_type, _Shards(made, shard_bytes))
            for name, tensor in tensors:
                writer.add(name, tensor)
            writer.finish()
            made.replace(target)
        cache.sync_folder(target.parent)


@contextmanager
def _os_errors(folder: Path) -> Iterator[None]:
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, SafetensorError) as error:
        said = getattr(error, "strerror", None) or error
        raise InputError(f"cannot write {folder}: {said}") from error


@dataclass
class _Shards:
    """Collects tensors and saves them in files of at most ``limit`` bytes where they can be."""

    folder: Path
    limit: int
    pending: dict[str, torch.Tensor] = field(default_factory=dict)
    pending_bytes: int = 0
    files: list[tuple[Path, dict[str, int]]] = field(default_factory=list)
    """Each shard under its first name, and the bytes of each of its tensors."""

    def add(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Take tensors that belong into one file."""
        size = sum(tensor.nbytes for tensor in tensors.values())
        if self.pending and self.pending_bytes + size > self.limit:
            self.flush()
        self.pending.update(tensors)
        self.pending_bytes += size

    def flush(self) -> None:
        """Save what is pending."""
        from safetensors.torch import save_file

        file = self.folder / f"shard-{len(self.files)}.safetensors"
        save_file(self.pending, file, metadata={"format": "pt"})
        self.files.append((file, {name: t.nbytes for name, t in self.pending.items()}))
        self.pending, self.pending_bytes = {}, 0

    def finish(self) -> None:
        """Save the rest and give the files their names, with an index if they are several."""
        self.flush()
        count = len(self.files)
        if count == 1:
            self.files[0][0].rename(self.folder / "model.safetensors")
            return
        weight_map: dict[str, str] = {}
        for number, (file, sizes) in enumerate(self.files, 1):
            named = f"model-{number:05}-of-{count:05}.safetensors"
            file.rename(self.folder / named)
            weight_map |= dict.fromkeys(sizes, named)
        total = sum(sum(sizes.values()) for _, sizes in self.files)
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
        _write_json(self.folder / "model.safetensors.index.json", index)


@dataclass
class _Writer:
    """Checks what comes and hands it on."""

    source: Checkpoint
    kind: Kind
    quantization: Mapping[str, Any]
    float_type: FloatType | None
    shards: _Shards
    scheme: Scheme | None = None
    floats: list[str] = field(default_factory=list)
    """Modules with a matrix that stayed in floats."""
    types: Counter[str] = field(default_factory=Counter)
    """Values of each float type."""

    def __post_init__(self) -> None:
        """Note which tensors must come."""
        self.missing = self.source.shapes()
        self.known = dict(self.missing)

    def add(self, name: str, tensor: QuantTensor | NDArray[np.float32]) -> None:
        """Take the next tensor."""
        shape = (tensor.n, tensor.k) if isinstance(tensor, QuantTensor) else tensor.shape
        if name not in self.missing:
            raise InputError(f"{name} is {'written twice' if name in self.known else 'unknown'}")
        if self.missing.pop(name) != shape:
            raise InputError(f"{name} must be {list(self.known[name])}, not {list(shape)}")
        if isinstance(tensor, QuantTensor) and self.kind == "hf":
            raise InputError(f"{name} is quantised, but a folder of kind hf holds floats")
        if isinstance(tensor, QuantTensor):
            self.shards.add(self._parts(name, tensor))
        else:
            self.shards.add({name: self._floats(name, tensor)})

    def _parts(self, name: str, weight: QuantTensor) -> dict[str, torch.Tensor]:
        import torch

        if self.scheme is None:
            self.scheme = scheme_for(self.kind, weight, self.quantization.get("desc_act"))
        stem = name.removesuffix("weight")
        try:
            if weight.format != self.scheme.format:
                raise InputError(
                    f"it is {weight.format.name}, others are {self.scheme.format.name}: "
                    "one folder holds one format"
                )
            parts = self.scheme.write(weight)
        except InputError as error:
            raise InputError(f"{name} cannot be written as {self.kind}: {error}") from error
        return {f"{stem}{part}": torch.from_numpy(array) for part, array in parts.items()}

    def _floats(self, name: str, values: NDArray[np.float32]) -> torch.Tensor:
        import torch

        chosen = self.float_type or self.source.float_type(name)
        tensor = torch.from_numpy(np.ascontiguousarray(values, np.float32))
        tensor = tensor.to(getattr(torch, chosen))
        if not torch.isfinite(tensor).all():
            raise InputError(f"{name} has values that {chosen} cannot hold; choose float32")
        self.types[chosen] += tensor.numel()
        if tensor.ndim > 1 and "embed" not in name:
            self.floats.append(name.removesuffix(".weight"))
        return tensor

    def finish(self) -> None:
        """Write the rest: the last shard, the configuration, the tokenizer.

        Raises:
            InputError: a tensor has not come, or the settings contradict the tensors.
        """
        if self.missing:
            raise InputError(f"{next(iter(self.missing))} of {self.source.name} is missing")
        if self.scheme is None and self.kind != "hf":
            raise InputError(f"a folder of kind {self.kind} needs quantised tensors; none came")
        self.shards.finish()
        folder = self.shards.folder
        settings = None if self.scheme is None else self._settings(self.scheme)
        _write_config(folder, self.source, self.types.most_common(1)[0][0], settings)
        if settings is not None and settings["quant_method"] == "gptq":
            _write_json(folder / "quantize_config.json", settings)
        _write_companions(folder, self.source)
        for written in filter(Path.is_file, folder.rglob("*")):
            with written.open("rb") as stream:
                os.fsync(stream.fileno())

    def _settings(self, scheme: Scheme) -> dict[str, Any]:
        # A tied output layer is a linear module all the same, so it must be named as one of floats.
        tied = [] if "lm_head.weight" in self.known else ["lm_head"]
        said = scheme.config([*tied, *self.floats])
        own = GptqScheme.DEFAULTS if isinstance(scheme, GptqScheme) else ()
        for key, value in self.quantization.items():
            if key in said and key not in own and said[key] != value:
                raise InputError(
                    f"{key} is said to be {value!r}, but the tensors are {said[key]!r}"
                )
        return said | dict(self.quantization)


def _write_json(file: Path, value: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(value, indent=2) + "\n", "utf-8")


def _write_config(
    folder: Path, source: Checkpoint, float_type: str, settings: Mapping[str, Any] | None
) -> None:
    """Write ``config.json``, in the words of transformers 5 and, where they differ, of 4."""
    config = copy.deepcopy(source.config())
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    config.save_pretrained(folder)
    file = folder / "config.json"
    said = json.loads(file.read_text("utf-8"))
    said |= {"dtype": float_type, "torch_dtype": float_type}
    if not said.get("architectures"):
        said["architectures"] = _architectures(said["model_type"])
    rope = said.get("rope_parameters")
    if isinstance(rope, dict) and "rope_theta" in rope:
        said["rope_theta"] = rope["rope_theta"]
        rest = {key: value for key, value in rope.items() if key != "rope_theta"}
        said["rope_scaling"] = None if rest.get("rope_type") == "default" else rest
    if settings is not None:
        said["quantization_config"] = settings
    _write_json(file, said)


def _architectures(model_type: str) -> list[str]:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    known: Mapping[str, str] = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    return [known[model_type]] if model_type in known else []


def _write_companions(folder: Path, source: Checkpoint) -> None:
    """Copy the tokenizer and what else belongs to the model, or save it where it is in no file."""
    files = source.companions()
    for file in files:
        shutil.copyfile(file, folder / file.name)
    if not files and source.quality_unavailable is None:
        source.tokenizer().save_pretrained(folder)
