"""Checkpoints: whatever a user can name, opened as named tensors."""

from __future__ import annotations

import difflib
import os.path
import re
from dataclasses import dataclass
from pathlib import Path

from sllmbench import assets
from sllmbench.checkpoints.base import Checkpoint, Progress, silent
from sllmbench.checkpoints.random import PARAMETERS, RandomCheckpoint
from sllmbench.errors import InputError

__all__ = ["BuiltinModel", "Checkpoint", "Progress", "builtin_models", "open_checkpoint", "silent"]

DEFAULT_MODEL = "smollm2-135m"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


@dataclass(frozen=True)
class BuiltinModel:
    """A model that can be asked for by name alone.

    Attributes:
        name: as it is asked for.
        parameters: weights, a tied embedding counted once.
        summary: what it is.
        licence: of the weights; None where they are made here.
        cached: whether it is on this machine already; None where nothing is downloaded.
        download_bytes: what fetching it takes; 0 where nothing is downloaded.
    """

    name: str
    parameters: int
    summary: str
    licence: str | None
    cached: bool | None
    download_bytes: int


def builtin_models() -> list[BuiltinModel]:
    """Every model that can be asked for by name alone, the default one first."""
    default = assets.ASSETS[DEFAULT_MODEL]
    return [
        BuiltinModel(
            DEFAULT_MODEL,
            134_515_008,
            default.summary,
            default.licence,
            assets.cached(DEFAULT_MODEL),
            default.wheel.bytes,
        ),
        *(
            BuiltinModel(
                f"random:{shape}", count, f"random weights in {shape}'s shape", None, None, 0
            )
            for shape, count in PARAMETERS.items()
        ),
    ]


def open_checkpoint(model: str, progress: Progress = silent) -> Checkpoint:
    """Open what the user calls ``model``.

    ``model`` is a built-in name, ``random:NAME``, a ``.gguf`` file, a folder with safetensors, or a
    Hugging Face id ``organisation/name``. A built-in model or an id is downloaded where the cache
    lacks it; a GGUF is converted once.

    Raises:
        InputError: nothing of that name; or it cannot be fetched, read or converted.
    """
    if model == DEFAULT_MODEL:
        from sllmbench.checkpoints.gguf import GgufCheckpoint

        file = assets.fetch(model, progress)
        return GgufCheckpoint(file, model, assets.ASSETS[model].sha256, progress)
    if model.startswith("random:"):
        if model not in {row.name for row in builtin_models()}:
            raise InputError(_unknown(model))
        return RandomCheckpoint(model.removeprefix("random:"))
    path = Path(model).expanduser()
    # os.path: pathlib's exists raises on a name too long to be one.
    if model and os.path.exists(path):
        return _open_path(path, model, progress)
    if model.endswith(".gguf") or model.startswith(("/", "./", "../", "~")):
        raise InputError(f"{model} does not exist")
    if _HUB_ID.fullmatch(model):
        from sllmbench.checkpoints.folders import open_hub

        return open_hub(model, progress)
    raise InputError(_unknown(model))


def _open_path(path: Path, model: str, progress: Progress) -> Checkpoint:
    if path.is_dir():
        from sllmbench.checkpoints.folders import open_folder

        return open_folder(path, model)
    if path.suffix == ".gguf":
        from sllmbench.checkpoints.gguf import GgufCheckpoint

        return GgufCheckpoint(path, model, progress=progress)
    raise InputError(
        f"{model} is neither a .gguf file nor a folder with config.json and safetensors"
    )


def _unknown(model: str) -> str:
    names = [row.name for row in builtin_models()]
    close = difflib.get_close_matches(model, names, n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    return (
        f"unknown model {model!r}; {hint}the built-in models are {', '.join(names)}; a .gguf file, "
        "a folder with safetensors or a Hugging Face id (organisation/name) can be given too"
    )
