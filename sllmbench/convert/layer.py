"""One layer quantised: rounding to nearest, GPTQ or AWQ on what its linears are given."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sllmbench.convert.scratch import DoneLayer, LinearReport
from sllmbench.quantizers import quantize
from sllmbench.quantizers.awq import awq_clip, awq_scales
from sllmbench.quantizers.error import relative_error
from sllmbench.quantizers.gptq import GptqSettings, gptq

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from sllmbench.convert.settings import Settings
    from sllmbench.convert.structure import Group
    from sllmbench.convert.walk import Inputs, Layer
    from sllmbench.formats import QuantTensor
    from sllmbench.quantizers.grid import Clip

_SCORES = ("q_", "k_", "query", "key", "qkv")
"""In the names of linears whose outputs attention multiplies with each other: AWQ does not clip
them, since an error there is amplified."""


def quantize_layer(layer: Layer, settings: Settings, tick: Callable[[float], None]) -> DoneLayer:
    """Quantise every linear of a layer and leave the layer with the quantised weights.

    Args:
        layer: with its float weights, and states to run it on.
        settings: method and format.
        tick: told the fraction of the layer's work that is done.

    Raises:
        InputError: weights or inputs are not finite, or a shape does not fit the format.
    """
    source = layer.digest()
    work = _Work(layer, settings)
    if settings.method == "awq":
        work.awq(tick)
    elif settings.method == "gptq" and settings.true_sequential:
        for number, group in enumerate(layer.groups):
            turn = part(tick, number / len(layer.groups), (number + 1) / len(layer.groups))
            [inputs] = layer.gather([group], turn)
            work.gptq(group, inputs)
    else:
        everything = layer.gather(layer.groups, tick)
        for group, inputs in zip(layer.groups, everything, strict=True):
            work.gptq(group, inputs) if settings.method == "gptq" else work.rtn(group, inputs)
    return work.done(source)


def round_layer(layer: Layer, settings: Settings) -> DoneLayer:
    """Round every linear of a layer to nearest, with no text: errors are those of the weights."""
    source = layer.digest()
    work = _Work(layer, settings)
    for group in layer.groups:
        work.rtn(group, None)
    return work.done(source)


class _Work:
    """Gathers a layer's quantised weights, putting each into the layer as it comes."""

    def __init__(self, layer: Layer, settings: Settings) -> None:
        self.layer = layer
        self.settings = settings
        self.weights: dict[str, QuantTensor] = {}
        self.reports: list[LinearReport] = []

    def done(self, source_sha256: str) -> DoneLayer:
        return DoneLayer(self.weights, self.layer.floats(), tuple(self.reports), source_sha256)

    def rtn(self, group: Group, inputs: Inputs | None) -> None:
        clip: Clip = "mse" if self.settings.mse_clip else "none"
        gram = None if inputs is None else _gram(inputs)
        for name in group.linears:
            self._keep(name, quantize(self._weight(name), self.settings.format, clip=clip), gram)

    def gptq(self, group: Group, inputs: Inputs) -> None:
        asked = self.settings
        bits: Any = asked.bits
        settings = GptqSettings(
            bits=bits,
            group_size=asked.group_size,
            sym=asked.sym,
            desc_act=asked.desc_act,
            static_groups=asked.static_groups,
            damp_percent=asked.damp_percent,
            mse_clip=asked.mse_clip,
        )
        gram = _gram(inputs)
        for name in group.linears:
            result = gptq(self._weight(name), gram, settings)
            self._keep(name, result.tensor, gram, result.damp_percent, result.retries)

    def awq(self, tick: Callable[[float], None]) -> None:
        """Scale every group that has a producer, then clip and round its linears.

        A producer's weight takes what the group's input loses, so the layer computes the same; the
        inputs of the scaled layer follow from those of the float layer.
        """
        layer, form = self.layer, self.settings.format
        everything = layer.gather(layer.groups, tick)
        grams: list[NDArray[np.float32]] = []
        for group, inputs in zip(layer.groups, everything, strict=True):
            gram = _gram(inputs)
            if group.producer is not None:
                weights = [self._weight(name) for name in group.linears]
                scales = awq_scales(weights, gram, inputs.mean_abs.numpy(), form).scales
                factors = layer.scale_input(group, torch.from_numpy(scales)).numpy()
                gram = (gram / np.outer(factors, factors)).astype(np.float32)
            grams.append(gram)
        for group, gram in zip(layer.groups, grams, strict=True):
            for name in group.linears:
                weight = self._weight(name)
                if not any(what in name.rpartition(".")[2].lower() for what in _SCORES):
                    weight = awq_clip(weight, gram, form)
                self._keep(name, quantize(weight, form), gram)

    def _weight(self, name: str) -> NDArray[np.float32]:
        weight: NDArray[np.float32] = self.layer.part(name).weight.detach().numpy()
        return weight

    def _keep(
        self,
        name: str,
        tensor: QuantTensor,
        gram: NDArray[np.float32] | None,
        damp_percent: float | None = None,
        retries: int = 0,
    ) -> None:
        """Put a quantised weight into the layer, and note how far its outputs are off."""
        full, values = f"{self.layer.name}.{name}", tensor.dequantize()
        error = relative_error(self._weight(name), values, gram)
        self.weights[f"{full}.weight"] = tensor
        self.layer.set(f"{full}.weight", values)
        self.reports.append(LinearReport(full, error, damp_percent, retries))


def _gram(inputs: Inputs) -> NDArray[np.float32]:
    if inputs.gram is None:
        raise ValueError("the inputs were gathered without their products")
    gram: NDArray[np.float32] = inputs.gram.numpy()
    return gram


def part(tick: Callable[[float], None], start: float, stop: float) -> Callable[[float], None]:
    """A tick for the part of the work from ``start`` to ``stop``."""
    return lambda fraction: tick(start + fraction * (stop - start))
