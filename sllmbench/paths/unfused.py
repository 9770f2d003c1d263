"""unfused-int4: expand the weight in memory, then multiply, as the slow GPTQ kernels do.

It is here to be measured: this is how 4-bit models end up slower than the float ones they were made
from. A fused kernel reads half a byte a weight. This one writes 18 at every call, and reads most of
them again: shifted nibbles, their floats, the zero taken off, repeated scales, the product; one
operator after the other, as auto-gptq's torch path does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from sllmbench.paths.base import FloatType, KernelUse, Path, PathLinear
from sllmbench.paths.native import quantized_tensor
from sllmbench.paths.torch_float import TorchLinear, float_tensor, torch_isa

if TYPE_CHECKING:
    from sllmbench.checkpoints.base import Checkpoint
    from sllmbench.formats import QuantFormat, QuantTensor


class UnfusedLinear(PathLinear):
    """Symmetric int4, expanded to a float matrix by torch at every call."""

    def __init__(
        self,
        weight: QuantTensor,
        bias: torch.Tensor | None,
        float_type: FloatType = "float32",
        device: torch.device | str = "cpu",
    ) -> None:
        """Hold the nibbles as they are packed: uint8 [n, ceil(k/2)], float16 scales."""
        super().__init__(weight.n, weight.k, weight.format.name, bias)
        self._codes = torch.from_numpy(weight.codes).to(device)
        self._scales = torch.from_numpy(weight.scales).to(device)
        self._float_type: torch.dtype = getattr(torch, float_type)
        self._group = weight.format.group_length(weight.k)
        self._order = None if weight.order is None else torch.from_numpy(weight.order).to(device)
        self._use = KernelUse(
            "torch expand + torch.linear", torch_isa(device), float_type, self.format
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Expand, then multiply [..., in_features] → [..., out_features]."""
        self.kernel_uses.add(self._use)
        if self._order is not None:  # act-order: the codes' columns are not x's
            x = x.index_select(-1, self._order)
        return functional.linear(x, self._expanded(), self.bias)

    def _expanded(self) -> torch.Tensor:
        codes, scales = self._codes, self._scales
        nibbles = torch.stack((codes & 0x0F, codes >> 4), dim=-1).flatten(-2)[
            ..., : self.in_features
        ]
        weight = nibbles.to(self._float_type) - 8
        scales = scales.to(self._float_type)
        return weight * scales.repeat_interleave(self._group, -1)[..., : self.in_features]

    @property
    def stored_bytes(self) -> int:
        """Bytes at rest; every call needs a float a weight more while it runs."""
        order = 0 if self._order is None else self._order.nbytes
        return self._codes.nbytes + self._scales.nbytes + order


class UnfusedPath(Path):
    """The int4 weights of ``int4-g*``, with the float output layer that GPTQ checkpoints keep."""

    def __init__(self, name: str, summary: str, layout: QuantFormat, device: str = "cpu") -> None:
        """Store layers as ``layout``; activations are float32, on a GPU float16 as peers have."""
        super().__init__(name, summary, "float32" if device == "cpu" else "float16", device)
        self._layout = layout

    @property
    def format(self) -> str:
        """The layers' format and the float output layer."""
        return f"{self._layout.name}, lm_head {self.float_type}"

    def linear(self, checkpoint: Checkpoint, name: str, bias: torch.Tensor | None) -> PathLinear:
        """Quantise the layer's weight, or take it where the checkpoint stores it so."""
        weight = quantized_tensor(checkpoint, name, self._layout)
        return UnfusedLinear(weight, bias, self.float_type, self.device)

    def lm_head(self, checkpoint: Checkpoint, name: str, bias: torch.Tensor | None) -> PathLinear:
        """Keep the output layer in floats."""
        weight = float_tensor(checkpoint, name, self.float_type)
        return TorchLinear(weight.to(self.device), bias)

    def bits_per_weight(self, k: int) -> float:
        """At rest; the one expanded layer at a time is in the memory margin."""
        return self._layout.bits_per_weight(k)

    def head_bits_per_weight(self, k: int) -> float:
        """Floats."""
        return 32 if self.float_type == "float32" else 16
