"""One layer quantised: rounding to nearest, GPTQ or AWQ on what its linears are given."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sllmbench.convert.scratch import DoneLayer, LinearReport
from sllmbench.quantizers import quantize
from sllmbench.quantizers.awq import awq_clip, awq_scales
from sllmbench.quantizers.gptq import GptqSettings, gptq

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from sllmbench.convert.settings import Settings
    from sllmbench.convert.structure import Group
    from sllmbench.convert.walk import Inputs, Layer
    from sllmbench.formats import QuantTensor

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
            part = _part(tick, number, len(layer.groups))
            [inputs] = layer.gather([group], part)
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
        clip = "mse" if self.settings.mse_clip else "none"
        for name in group.linears:
            weight = self._weight(name)
            tensor = quantize(weight, self.settings.format, clip=clip)
            gram = None if inputs is None else inputs.gram
            self._keep(name, tensor, relative_error(weight, tensor.dequantize(), gram))

    def gptq(self, group: Group, inputs: Inputs) -> None:
        asked = self.settings
        settings = GptqSettings(
            bits=asked.bits,
            group_size=asked.group_size,
            sym=asked.sym,
            desc_act=asked.desc_act,
            static_groups=asked.static_groups,
            damp_percent=asked.damp_percent,
            mse_clip=asked.mse_clip,
        )
        hessian = _array(inputs.gram)
        for name in group.linears:
            result = gptq(self._weight(name), hessian, settings)
            self._keep(
                name, result.tensor, result.relative_error, result.damp_percent, result.retries
            )

    def awq(self, tick: Callable[[float], None]) -> None:
        """Scale every group that has a producer, then clip and round its linears.

        A producer's weight takes what the group's input loses, so the layer computes the same; the
        inputs of the scaled layer follow from those of the float layer.
        """
        layer, form = self.layer, self.settings.format
        everything = layer.gather(layer.groups, tick)
        for group, inputs in zip(layer.groups, everything, strict=True):
            if group.producer is not None:
                weights = [self._weight(name) for name in group.linears]
                gram, mean_abs = _array(inputs.gram), inputs.mean_abs.numpy()
                scales = awq_scales(weights, gram, mean_abs, form).scales
                factors = layer.scale_input(group, torch.from_numpy(scales)).numpy()
                inputs.gram = torch.from_numpy(gram / np.outer(factors, factors))
        for group, inputs in zip(layer.groups, everything, strict=True):
            for name in group.linears:
                weight = self._weight(name)
                clipped = weight
                if not any(part in name.rpartition(".")[2].lower() for part in _SCORES):
                    clipped = awq_clip(weight, _array(inputs.gram), form)
                tensor = quantize(clipped, form)
                self._keep(name, tensor, relative_error(weight, tensor.dequantize(), inputs.gram))

    def _weight(self, name: str) -> NDArray[np.float32]:
        weight: NDArray[np.float32] = self.layer.part(name).weight.detach().numpy()
        return weight

    def _keep(
        self,
        name: str,
        tensor: QuantTensor,
        error: float,
        damp_percent: float | None = None,
        retries: int = 0,
    ) -> None:
        full = f"{self.layer.name}.{name}"
        self.weights[f"{full}.weight"] = tensor
        self.layer.set(f"{full}.weight", tensor.dequantize())
        self.reports.append(LinearReport(full, error, damp_percent, retries))


def relative_error(
    weight: NDArray[np.float32], values: NDArray[np.float32], gram: torch.Tensor | None
) -> float:
    """How far the outputs are off: sqrt(tr(E G Eᵀ) / tr(W G Wᵀ)), E = W - values; G = 1 if None.

    Args:
        weight: W, [n, k].
        values: what W became, [n, k].
        gram: G = mean x xᵀ, [k, k].
    """
    off = torch.from_numpy(weight - values)
    whole = torch.from_numpy(weight)
    lost, had = (
        float(((part if gram is None else part @ gram) * part).sum(dtype=torch.float64))
        for part in (off, whole)
    )
    return 0.0 if had <= 0 else float(np.sqrt(max(lost, 0.0) / had))


def _array(gram: torch.Tensor | None) -> NDArray[Any]:
    if gram is None:
        raise ValueError("the inputs were gathered without their products")
    return gram.numpy()


def _part(tick: Callable[[float], None], number: int, count: int) -> Callable[[float], None]:
    return lambda fraction: tick((number + fraction) / count)
