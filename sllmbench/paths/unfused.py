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
from sllmbench.paths.native import not_stored_as, quantized_tensor
from sllmbench.paths.torch_float import TorchLinear, float_tensor, torch_isa

if TYPE_CHECKING:
    from sllmbench.checkpoints.base import Checkpoint
    from sllmbench.formats import QuantFormat, QuantTensor


class UnfusedLinear(PathLinear):
    """Integers with a scale a group, expanded to a float matrix by torch at every call."""

    def __init__(
        self,
        weight: QuantTensor,
        bias: torch.Tensor | None,
        float_type: FloatType = "float32",
        device: torch.device | str = "cpu",
    ) -> None:
        """Hold codes as ``weight`` packs them, float16 scales and uint8 zero points if any."""
        super().__init__(weight.n, weight.k, weight.format.name, bias)
        self._codes = torch.from_numpy(weight.codes).to(device)
        self._scales = torch.from_numpy(weight.scales).to(device)
        zeros = weight.offsets
        self._zeros = None if zeros is None else torch.from_numpy(zeros).to(device)
        self._nibbles = weight.format.bits == 4
        self._zero = weight.format.zero
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
        codes = self._codes
        if self._nibbles:
            codes = torch.stack((codes & 0x0F, codes >> 4), dim=-1).flatten(-2)
        codes = codes[:, : self.in_features]
        if short := -self.in_features % self._group:  # the last group
            codes = functional.pad(codes, (0, short))
        floats = codes.reshape(len(codes), -1, self._group).to(self._float_type)
        zeros = self._zero if self._zeros is None else self._zeros.unsqueeze(-1)
        expanded: torch.Tensor = (floats - zeros) * self._scales.unsqueeze(-1)
        return expanded.flatten(-2)[:, : self.in_features]

    @property
    def stored_bytes(self) -> int:
        """Bytes at rest; every call needs a float a weight more while it runs."""
        held = (self._codes, self._scales, self._zeros, self._order)
        return sum(tensor.nbytes for tensor in held if tensor is not None)


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


class UnfusedStoredPath(Path):
    """A GPTQ or AWQ checkpoint's own tensors, expanded at every call; floats stay floats.

    The same weights as the path ``gptq`` or ``awq`` multiplies without expanding them, so what
    the two differ in is what the expansion costs.
    """

    def __init__(self, name: str, summary: str, kind: str, device: str = "cpu") -> None:
        """Take what a checkpoint of ``kind`` stores."""
        super().__init__(name, summary, "float32" if device == "cpu" else "float16", device)
        self._kind = kind

    @property
    def format(self) -> str:
        """Each tensor has its own; the record's kernels name them."""
        return "as stored in the file"

    def unsupported(self, checkpoint: Checkpoint | None = None) -> str | None:
        """A checkpoint that stores no such tensors cannot run."""
        return None if checkpoint is None else not_stored_as(self._kind, checkpoint)

    def linear(self, checkpoint: Checkpoint, name: str, bias: torch.Tensor | None) -> PathLinear:
        """Take the stored codes, or the floats of a tensor that is stored as floats."""
        stored = checkpoint.quantized(name)
        if stored is None:
            weight = float_tensor(checkpoint, name, self.float_type)
            return TorchLinear(weight.to(self.device), bias)
        return UnfusedLinear(stored, bias, self.float_type, self.device)

    lm_head = linear

    def bits_per_weight(self, k: int) -> float:
        """At most: 8 bits, one a byte, with a scale and a zero point for every 32."""
        return 8 + 24 / 32

    def head_bits_per_weight(self, k: int) -> float:
        """Floats, as GPTQ's and AWQ's own tools leave it."""
        return 32 if self.float_type == "float32" else 16
