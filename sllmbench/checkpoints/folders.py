"""Opening a folder, or a repository that the hub's own client fetches, as what it holds."""

from __future__ import annotations

from pathlib import Path

from sllmbench.checkpoints.base import Progress, silent
from sllmbench.checkpoints.hf import FolderCheckpoint, one_line, read_settings
from sllmbench.checkpoints.json_file import read_object
from sllmbench.checkpoints.quantized import QuantizedFolder
from sllmbench.errors import InputError

_OLDER = {"quantize_config.json": "gptq", "quant_config.json": "awq"}
"""Where auto-gptq and AutoAWQ wrote what config.json now says, and whose method it is."""


def open_folder(folder: Path, name: str, origin: str = "") -> FolderCheckpoint:
    """Open a folder with ``config.json`` and safetensors, of floats or quantised.

    Raises:
        InputError: it is no checkpoint, corrupt, or quantised in a way that cannot be read.
    """
    settings = read_settings(folder).get("quantization_config")
    for file, method in _OLDER.items():
        if settings is None and (folder / file).exists():
            settings = {"quant_method": method} | read_object(folder / file)
    if settings is None:
        return FolderCheckpoint(folder, name, origin)
    if not isinstance(settings, dict):
        raise InputError(
            f"cannot read {folder / 'config.json'}: its quantization_config is no object"
        )
    return QuantizedFolder(folder, name, settings, origin)


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
    return open_folder(folder, repository, f", revision {folder.name[:12]}")
