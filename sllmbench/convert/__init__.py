"""Models converted: a checkpoint of floats → a quantised one that other tools read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from sllmbench.checkpoints import open_checkpoint
from sllmbench.checkpoints.base import Progress, silent
from sllmbench.convert.calibration import Calibration, calibrate
from sllmbench.convert.gguf import write_gguf
from sllmbench.convert.gguf_mixes import FILE_TYPES
from sllmbench.convert.model import Conversion, importance, to_gguf
from sllmbench.convert.settings import FOLDER_KINDS, Settings
from sllmbench.convert.summary import Summary
from sllmbench.errors import InputError
from sllmbench.model import set_threads

if TYPE_CHECKING:
    from sllmbench.checkpoints import Checkpoint

__all__ = [
    "Calibration",
    "Settings",
    "Summary",
    "calibrate",
    "importance",
    "quantize_model",
    "write_gguf",
]

DEFAULT_CALIBRATION = "owt"


def quantize_model(
    model: str | Checkpoint,
    out: str | Path,
    *,
    to: str | None = None,
    method: str | None = None,
    calibration: str | None = None,
    samples: int = 64,
    sequence_length: int = 512,
    seed: int = 0,
    threads: int | None = None,
    overwrite: bool = False,
    progress: Progress = silent,
    **settings: Any,
) -> Summary:
    """Quantise a model's linear layers and write it as a checkpoint.

    The model is walked layer by layer, so that one layer's weights are in memory at a time; each
    finished layer is kept beside ``out``, and the same call goes on after a kill. The output layer
    and the embedding stay in float, as GPTQ's and AWQ's own tools leave them. To a GGUF type, every
    matrix is rounded to the blocks that the type's mix gives it, weighed by the mean square of its
    inputs where a calibration text is given.

    Args:
        model: a built-in name, ``random:NAME``, a Hugging Face id, a folder or a ``.gguf`` file.
        out: the folder, or the file of a GGUF type; it appears when it is whole.
        to: ``gptq``, ``gptq_v2``, ``awq``, ``compressed-tensors``, ``hf`` (dequantised floats) or a
            GGUF type such as ``Q4_K_M``; None: ``awq`` for the method awq, else ``gptq``.
        method: ``gptq`` (None), ``awq`` or ``rtn``; GGUF types have a method of their own.
        calibration: the text, as :func:`calibrate` names it; None: OpenWebText for ``gptq`` and
            ``awq``, none for ``rtn`` and GGUF types.
        samples: windows of the text.
        sequence_length: tokens a window.
        seed: of the drawing of windows.
        threads: of torch and of our own code; None leaves both as they are.
        overwrite: replace what stands at ``out``, and begin anew where layers of another
            conversion are kept.
        progress: told the layer, its worst error and the time left.
        settings: of the method, as :class:`Settings` lists them; ``sym`` may be None: zero points
            for ``awq``, none for the others.

    Raises:
        InputError: settings, a text or a model that cannot be used; ``out`` stands there already.
    """
    target = Path(out).expanduser().absolute()
    if (target.exists() or target.is_symlink()) and not overwrite:
        raise InputError(f"{target} exists already; add --overwrite, or give another OUT")
    kind = to or ("awq" if method == "awq" else "gptq")
    gguf = kind not in FOLDER_KINDS
    asked = _settings(kind, method, settings, gguf)
    if target.is_dir() and gguf:
        raise InputError(f"{target} is a folder, but {kind} is written as a file")
    if target.is_file() and not gguf:
        raise InputError(f"{target} is a file, but {kind} is written as a folder")
    set_threads(threads)
    checkpoint = open_checkpoint(model, progress) if isinstance(model, str) else model
    text = calibration
    if text is None and not gguf and asked.method != "rtn":
        text = DEFAULT_CALIBRATION
    drawn = None
    if text is not None:
        drawn = calibrate(
            checkpoint,
            text,
            samples=samples,
            sequence_length=sequence_length,
            seed=seed,
            progress=progress,
        )
    if gguf:
        return to_gguf(checkpoint, target, kind, drawn, progress)
    return Conversion(checkpoint, target, kind, asked, drawn, progress).run(overwrite)


def _settings(kind: str, method: str | None, settings: dict[str, Any], gguf: bool) -> Settings:
    """The settings that were asked for, refused where the target has no use for them."""
    given = {name: value for name, value in settings.items() if value is not None}
    if not gguf:
        chosen: Any = method or "gptq"
        return Settings(method=chosen, **{"sym": chosen != "awq", **given})
    if kind.upper().replace("-", "_") not in FILE_TYPES:
        raise InputError(
            f"nothing is written as {kind!r}; --to is one of "
            f"{', '.join((*FOLDER_KINDS, *FILE_TYPES))}"
        )
    useless = [name for name, value in given.items() if value != getattr(Settings, name)]
    if method is not None:
        useless.insert(0, "method")
    if useless:
        raise InputError(
            f"{kind} has its own bits and its own search for scales; it takes no "
            f"{', '.join(useless)}"
        )
    return Settings()
