"""What a conversion keeps while it runs, so that one that was killed goes on.

Beside OUT stands a folder, renamed or deleted in one step when the conversion is done::

    OUT.partial/lock                   held while a process converts; the kernel frees a dead one's
    OUT.partial/subject.json           what is being made of what: another subject is refused
    OUT.partial/layer-0003.safetensors one finished layer, written beside and renamed
    OUT.partial/folder/                the checkpoint while it is written, then renamed to OUT
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from sllmbench.assets.cache import sync_folder
from sllmbench.errors import InputError
from sllmbench.formats import QuantFormat, QuantTensor

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

_LAYERS = "layer-*.safetensors"
_ARRAYS = ("codes", "scales", "offsets", "order")


@dataclass(frozen=True)
class LinearReport:
    """What became of one linear.

    Attributes:
        name: of its weight in the checkpoint, without ``.weight``.
        relative_error: of its outputs over the calibration text, sqrt(mean |e|² / mean |y|²); of
            its weights where there is no calibration text.
        damp_percent: what GPTQ added to the Hessian in the end; None for other methods.
        retries: how often GPTQ had to add more.
    """

    name: str
    relative_error: float
    damp_percent: float | None = None
    retries: int = 0


@dataclass(frozen=True)
class DoneLayer:
    """A finished layer.

    Attributes:
        weights: the quantised weights by the checkpoint's names.
        floats: everything else of the layer by the checkpoint's names.
        linears: what became of each linear.
        source_sha256: of the layer's float weights.
    """

    weights: Mapping[str, QuantTensor]
    floats: Mapping[str, NDArray[np.float32]]
    linears: tuple[LinearReport, ...]
    source_sha256: str


class Scratch:
    """The folder of an unfinished conversion, held by one process; made by :func:`open_scratch`."""

    def __init__(self, folder: Path, restarted: bool) -> None:
        """Use ``folder``, which exists and is locked."""
        self.folder = folder
        self.restarted = restarted
        """Whether layers of another conversion were thrown away."""

    def done(self, index: int) -> bool:
        """Whether layer ``index`` is finished."""
        return self._file(index).exists()

    def save(self, index: int, layer: DoneLayer) -> None:
        """Keep a finished layer; after a kill it is there whole or not at all."""
        from safetensors.numpy import save_file

        arrays: dict[str, Any] = {f"{name}|float": value for name, value in layer.floats.items()}
        for name, tensor in layer.weights.items():
            for what in _ARRAYS:
                if getattr(tensor, what) is not None:
                    arrays[f"{name}|{what}"] = getattr(tensor, what)
        about = {
            "weights": {
                name: {"format": asdict(tensor.format), "n": tensor.n, "k": tensor.k}
                for name, tensor in layer.weights.items()
            },
            "linears": [asdict(linear) for linear in layer.linears],
            "source_sha256": layer.source_sha256,
        }
        file = self._file(index)
        beside = file.with_suffix(".new")
        with _refusals(self.folder):
            save_file(arrays, beside, metadata={"layer": json.dumps(about)})
            _replace(beside, file)

    def load(self, index: int) -> DoneLayer:
        """A finished layer.

        Raises:
            InputError: its file is corrupt.
        """
        from safetensors import SafetensorError, safe_open

        file = self._file(index)
        try:
            with safe_open(file, framework="np") as stored:
                about = json.loads(stored.metadata()["layer"])
                arrays: dict[str, Any] = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
        except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{file} is corrupt ({error}); delete it to go on") from error
        return DoneLayer(
            {
                name: QuantTensor(
                    QuantFormat(**facts["format"]),
                    facts["n"],
                    facts["k"],
                    **{
                        what: arrays[f"{name}|{what}"]
                        for what in _ARRAYS
                        if f"{name}|{what}" in arrays
                    },
                )
                for name, facts in about["weights"].items()
            },
            {
                name.removesuffix("|float"): value
                for name, value in arrays.items()
                if name.endswith("|float")
            },
            tuple(LinearReport(**linear) for linear in about["linears"]),
            about["source_sha256"],
        )

    def publish(self, made: Path, out: Path) -> None:
        """Put what was made in the place of OUT, whole, and delete this folder.

        A rename cannot replace a folder that is not empty: what stood there is moved aside first.
        """
        with _refusals(out):
            if out.exists():
                out.rename(self.folder / "replaced")
            made.rename(out)
            sync_folder(out.parent)
            shutil.rmtree(self.folder)

    def _file(self, index: int) -> Path:
        return self.folder / f"layer-{index:04d}.safetensors"


@contextmanager
def open_scratch(out: Path, subject: Mapping[str, Any], restart: bool) -> Iterator[Scratch]:
    """Hold the folder beside ``out``, with the layers of an earlier run of the same subject.

    Args:
        out: what is being made.
        subject: all that the layers depend on, as JSON has it.
        restart: throw the layers of another subject away.

    Raises:
        InputError: another process holds it, it has layers of another subject, or it cannot be
            written.
    """
    folder = out.with_name(f"{out.name}.partial")
    with _refusals(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / "lock").open("w")
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"another process is making {out}; wait for it or stop it") from None
        with _refusals(folder):
            restarted = _claim(folder, dict(subject), restart)
        try:
            yield Scratch(folder, restarted)
        finally:
            if not any(folder.glob(_LAYERS)):
                shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _refusals(folder: Path) -> Iterator[None]:
    """Say in one line why the operating system refused to write."""
    try:
        yield
    except OSError as error:
        raise InputError(f"cannot write {folder}: {error.strerror or error}") from error


def _claim(folder: Path, subject: dict[str, Any], restart: bool) -> bool:
    """Make the folder the subject's; whether another's layers were thrown away."""
    file = folder / "subject.json"
    text = json.dumps(subject, indent=2, sort_keys=True)
    earlier = file.read_text("utf-8") if file.exists() else None
    others = earlier is not None and earlier != text and any(folder.glob(_LAYERS))
    if others and not restart:
        raise InputError(
            f"{folder} holds layers of another conversion ({_difference(earlier, subject)}); "
            "give its settings to go on with it, --overwrite to begin anew, or another OUT"
        )
    kept = {"lock"}
    if earlier == text:
        kept |= {file.name, *(layer.name for layer in folder.glob(_LAYERS))}
    for leftover in folder.iterdir():
        if leftover.is_dir():
            shutil.rmtree(leftover)
        elif leftover.name not in kept:
            leftover.unlink()
    if earlier != text:
        beside = file.with_suffix(".new")
        beside.write_text(text, "utf-8")
        _replace(beside, file)
    return others


def _difference(earlier: str | None, subject: dict[str, Any]) -> str:
    """What of the subject is another's, in words."""
    try:
        was = json.loads(earlier or "{}")
        changed = [
            f"{key} {was.get(key)} there, {subject.get(key)} here"
            for key in sorted(was.keys() | subject.keys())
            if was.get(key) != subject.get(key)
        ]
    except (ValueError, AttributeError):
        changed = ["its subject.json is corrupt"]
    return "; ".join(changed)


def _replace(beside: Path, file: Path) -> None:
    """Rename a written file to its place, so that not even a power cut leaves half of it."""
    with beside.open("rb") as stream:
        os.fsync(stream.fileno())
    beside.replace(file)
    sync_folder(file.parent)
