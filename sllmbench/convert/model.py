"""A whole model converted: the walk, what is kept of each layer, the checkpoint in the end."""

from __future__ import annotations

import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sllmbench.checkpoints.base import Progress, silent
from sllmbench.checkpoints.schemes import scheme_for
from sllmbench.checkpoints.writing import write_folder
from sllmbench.convert.gguf import write_gguf
from sllmbench.convert.layer import part, quantize_layer, round_layer
from sllmbench.convert.scratch import LinearReport, open_scratch
from sllmbench.convert.summary import Summary, calibration_facts, peak_rss_bytes, stored_bytes
from sllmbench.convert.walk import Walk
from sllmbench.errors import InputError
from sllmbench.quantizers import quantize

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from sllmbench.checkpoints import Checkpoint
    from sllmbench.convert.calibration import Calibration
    from sllmbench.convert.scratch import DoneLayer, Scratch
    from sllmbench.convert.settings import Settings
    from sllmbench.convert.walk import Layer
    from sllmbench.formats import QuantTensor

_NO_TEXT = np.zeros((1, 2), np.int64)
"""What shows a layer's structure where there is no text."""
_SHARE = 0.7
"""Of a layer's time, until its weights are quantised; then the states pass through it."""
_GPTQ_KEYS = ("desc_act", "static_groups", "true_sequential", "damp_percent")


class Conversion:
    """Quantises a model's layers and writes them in one kind of folder."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        out: Path,
        kind: str,
        settings: Settings,
        calibration: Calibration | None,
        progress: Progress,
    ) -> None:
        """Take what :func:`~sllmbench.convert.quantize_model` has checked."""
        self.checkpoint = checkpoint
        self.out = out
        self.kind = kind
        self.settings = settings
        self.calibration = calibration
        self.progress = progress

    def run(self, restart: bool) -> Summary:
        """Convert, or go on where an earlier run was killed.

        Args:
            restart: throw away layers that an earlier run made of something else.

        Raises:
            InputError: the model cannot be walked, or what is kept belongs to another conversion.
        """
        began = time.monotonic()
        subject = {
            "model": self.checkpoint.name,
            "provenance": self.checkpoint.provenance,
            **self.settings.facts(),
            "calibration": calibration_facts(self.calibration),
        }
        with open_scratch(self.out, subject, restart) as scratch:
            linears, resumed, layers = self._walk(scratch)
            self.progress(f"writing {self.out.name}", None)
            made = scratch.folder / "folder"
            self._write(scratch, layers, made)
            scratch.publish(made, self.out)
        return Summary(
            model=self.checkpoint.name,
            provenance=self.checkpoint.provenance,
            out=str(self.out),
            kind=self.kind,
            settings=self.settings.facts(),
            calibration=calibration_facts(self.calibration),
            error_of="weights" if self.calibration is None else "outputs",
            linears=linears,
            layers=layers,
            resumed_layers=resumed,
            restarted=scratch.restarted,
            seconds=time.monotonic() - began,
            peak_rss_bytes=peak_rss_bytes(),
            stored_bytes=stored_bytes(self.out),
        )

    def _walk(self, scratch: Scratch) -> tuple[tuple[LinearReport, ...], int, int]:
        """Quantise layer after layer; what became of each linear, layers resumed, layers."""
        self.progress(f"reading {self.checkpoint.name}", None)
        text = self.calibration
        walk = Walk(self.checkpoint, _NO_TEXT if text is None else text.ids, scratch.folder)
        clock = _Clock(len(walk), self.progress)
        linears: list[LinearReport] = []
        for index in range(len(walk)):
            layer = walk.layer(index)
            if index == 0:
                _rehearse(layer, self.settings, self.kind)
            tick = clock.begin(index)
            resumed = scratch.done(index)
            done = scratch.load(index) if resumed else self._quantize(layer, part(tick, 0, _SHARE))
            if resumed:
                layer.put(done)
            else:
                scratch.save(index, done)
            if text is not None and index + 1 < len(walk):
                layer.advance(part(tick, _SHARE, 1))
            layer.release()
            clock.end(done.linears, resumed)
            linears += done.linears
        return tuple(linears), clock.resumed, len(walk)

    def _quantize(self, layer: Layer, tick: Callable[[float], None]) -> DoneLayer:
        if self.calibration is None:
            return round_layer(layer, self.settings)
        return quantize_layer(layer, self.settings, tick)

    def _write(self, scratch: Scratch, layers: int, made: Path) -> None:
        said = {key: value for key, value in self.settings.facts().items() if key in _GPTQ_KEYS}
        quantization = said if self.kind in ("gptq", "gptq_v2") else {}
        kind: Any = self.kind
        write_folder(
            made,
            self.checkpoint,
            self._tensors(scratch, layers),
            kind,
            quantization,
            # A dequantised weight has more digits than half types: quality is to be what it was.
            float_type="float32" if kind == "hf" else None,
        )

    def _tensors(
        self, scratch: Scratch, layers: int
    ) -> Iterator[tuple[str, QuantTensor | NDArray[np.float32]]]:
        """Every tensor of the model: the layers as they were made, the rest as it was."""
        left = self.checkpoint.shapes()
        for index in range(layers):
            done = scratch.load(index)
            for name, tensor in done.weights.items():
                del left[name]
                yield name, tensor.dequantize() if self.kind == "hf" else tensor
            for name, values in done.floats.items():
                del left[name]
                yield name, values
        for name in left:
            yield name, self.checkpoint.tensor(name)


class _Clock:
    """Tells which layer is at work, how the one before it came out, and the time left."""

    def __init__(self, layers: int, progress: Progress) -> None:
        self.resumed = 0
        self._layers = layers
        self._progress = progress
        self._seconds: list[float] = []
        self._said = ""

    def begin(self, index: int) -> Callable[[float], None]:
        """Begin a layer; what is returned takes the fraction of a part of it that is done."""
        self._began = time.monotonic()
        what = f"layer {index + 1} of {self._layers}{self._said}"

        def tick(fraction: float) -> None:
            self._progress(what, (index + fraction) / self._layers)

        tick(0.0)
        self._left = self._layers - index - 1
        return tick

    def end(self, linears: Sequence[LinearReport], resumed: bool) -> None:
        """End the layer."""
        if resumed:
            self.resumed += 1
            self._said = " (the one before was there already)"
            return
        self._seconds.append(time.monotonic() - self._began)
        worst = max(linears, key=lambda linear: linear.relative_error)
        left = self._left * sum(self._seconds) / len(self._seconds)
        self._said = (
            f", about {_duration(left)} left; the one before: error up to "
            f"{worst.relative_error:.3f} in {worst.name.split('.', 3)[-1]}"
        )


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


def _rehearse(layer: Layer, settings: Settings, kind: str) -> None:
    """Lay zeros of each linear's shape out as ``kind``: what it cannot store is refused at once.

    Raises:
        InputError: names the linear and the reason.
    """
    if kind == "hf":
        return
    ordered = settings.desc_act and not settings.static_groups
    seen: set[tuple[int, int]] = set()
    for group in layer.groups:
        for name in group.linears:
            n, k = layer.part(name).weight.shape
            if (n, k) in seen:
                continue
            seen.add((n, k))
            tensor = quantize(np.zeros((n, k), np.float32), settings.format)
            order = np.arange(k, dtype=np.int32)[::-1].copy() if ordered else None
            try:
                scheme_for(kind, tensor, settings.desc_act).write(replace(tensor, order=order))
            except InputError as error:
                raise InputError(f"{name} cannot be written as {kind}: {error}") from error


def importance(
    checkpoint: Checkpoint, calibration: Calibration, progress: Progress = silent
) -> dict[str, NDArray[np.float32]]:
    """The mean square of each input of every linear in the layers of the float model.

    Args:
        checkpoint: the model.
        calibration: the text.
        progress: told which layer is at work.

    Returns:
        float32 [k] by the weight's name.

    Raises:
        InputError: the model cannot be walked.
    """
    means: dict[str, NDArray[np.float32]] = {}
    with tempfile.TemporaryDirectory(prefix="sllmbench-") as scratch:
        walk = Walk(checkpoint, calibration.ids, Path(scratch))
        for index in range(len(walk)):
            layer = walk.layer(index)
            what = f"inputs of layer {index + 1} of {len(walk)}"

            def tick(fraction: float, index: int = index, what: str = what) -> None:
                progress(what, (index + fraction) / len(walk))

            inputs = layer.gather(layer.groups, tick, grams=False, advance=True)
            for group, one in zip(layer.groups, inputs, strict=True):
                for name in group.linears:
                    means[f"{layer.name}.{name}.weight"] = one.mean_square.numpy()
            layer.release()
    return means


def to_gguf(
    checkpoint: Checkpoint,
    out: Path,
    mix: str,
    calibration: Calibration | None,
    progress: Progress = silent,
) -> Summary:
    """Write a GGUF file, errors weighed by a text's inputs where there is one.

    Raises:
        InputError: as :func:`~sllmbench.convert.gguf.write_gguf` says.
    """
    began = time.monotonic()
    weights = None if calibration is None else importance(checkpoint, calibration, progress)
    written = write_gguf(checkpoint, out, mix, weights, progress)
    counts = ", ".join(f"{count} {kind}" for kind, count in written.counts.items())
    replaced = [f"{change} in {count} tensors" for change, count in written.replaced.items()]
    return Summary(
        model=checkpoint.name,
        provenance=checkpoint.provenance,
        out=str(out),
        kind=written.file_type,
        settings={},
        calibration=calibration_facts(calibration),
        error_of="weights",
        linears=tuple(
            LinearReport(tensor.name.removesuffix(".weight"), tensor.relative_error)
            for tensor in written.tensors
        ),
        layers=int(checkpoint.config().get_text_config().num_hidden_layers),
        resumed_layers=0,
        restarted=False,
        seconds=time.monotonic() - began,
        peak_rss_bytes=peak_rss_bytes(),
        stored_bytes=stored_bytes(out),
        notes=(f"tensors: {counts}", *replaced, written.tokenizer),
    )
