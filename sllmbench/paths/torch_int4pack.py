"""torch:int4pack, a peer: torch's own int4 CPU kernel, on bf16 activations."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch

from sllmbench.errors import InputError
from sllmbench.formats import unpack_nibbles
from sllmbench.paths.base import KernelUse, Path, PathLinear
from sllmbench.paths.native import quantized_tensor
from sllmbench.paths.torch_float import TorchLinear, float_tensor, torch_isa

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from sllmbench.checkpoints.base import Checkpoint
    from sllmbench.formats import QuantFormat, QuantTensor


class Int4PackLinear(PathLinear):
    """``aten::_weight_int4pack_mm_for_cpu``: codes as ours, scales rounded to bf16."""

    def __init__(self, weight: QuantTensor, bias: torch.Tensor | None) -> None:
        """Pack the codes as torch wants them."""
        super().__init__(weight.n, weight.k, weight.format.name, bias)
        codes = unpack_nibbles(cast("NDArray[np.uint8]", weight.codes), weight.k)
        self._codes = torch.ops.aten._convert_weight_to_int4pack_for_cpu(
            torch.from_numpy(codes).int(), 1
        )
        scales = torch.from_numpy(weight.scales).T.bfloat16()
        self._scales_zeros = torch.stack((scales, torch.zeros_like(scales)), dim=-1).contiguous()
        self._group = weight.format.group_length(weight.k)
        self._order = None if weight.order is None else torch.from_numpy(weight.order)
        self._use = KernelUse("torch.int4pack_mm", torch_isa(), "bfloat16", self.format)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Multiply [..., in_features] → [..., out_features]."""
        self.kernel_uses.add(self._use)
        rows = x.reshape(-1, self.in_features).bfloat16()
        if self._order is not None:  # act-order: the codes' columns are not x's
            rows = rows.index_select(-1, self._order)
        out = torch.ops.aten._weight_int4pack_mm_for_cpu(
            rows, self._codes, self._group, self._scales_zeros
        )
        if self.bias is not None:
            out += self.bias
        return cast("torch.Tensor", out.view(*x.shape[:-1], self.out_features).to(x.dtype))

    @property
    def stored_bytes(self) -> int:
        """Bytes of codes, scales, zeros and an act-order."""
        order = 0 if self._order is None else self._order.nbytes
        stored: int = self._codes.nbytes + self._scales_zeros.nbytes + order
        return stored


class Int4PackPath(Path):
    """torch's int4 kernel, with a bf16 output layer."""

    def __init__(self, name: str, summary: str, layout: QuantFormat, device: str = "cpu") -> None:
        """Store layers as ``layout``."""
        super().__init__(name, summary, "bfloat16", device)
        self._layout = layout

    @property
    def format(self) -> str:
        """The layers' format and the bf16 output layer."""
        return f"{self._layout.name}, lm_head bfloat16"

    def unsupported(self, checkpoint: Checkpoint | None = None) -> str | None:
        """Older versions of torch lack the operator, and GPUs do."""
        if self.device.type != "cpu":
            return "it is a CPU operator of torch"
        if hasattr(torch.ops.aten, "_weight_int4pack_mm_for_cpu"):
            return None
        return f"torch {torch.__version__} has no CPU int4 operator; it came with 2.5"

    def linear(self, checkpoint: Checkpoint, name: str, bias: torch.Tensor | None) -> PathLinear:
        """Quantise the layer's weight, or take it where the checkpoint stores it so."""
        n, k = checkpoint.shapes()[name]
        group = self._layout.group_size
        if k % group or n % 16:
            raise InputError(
                f"{self.name} needs {name} [{n}, {k}] to have columns in whole groups of {group} "
                f"and rows in sixteens; choose another group size (e.g. torch:int4pack-g32)"
            )
        return Int4PackLinear(quantized_tensor(checkpoint, name, self._layout), bias)

    def lm_head(self, checkpoint: Checkpoint, name: str, bias: torch.Tensor | None) -> PathLinear:
        """Keep the output layer in bf16."""
        return TorchLinear(float_tensor(checkpoint, name, "bfloat16"), bias)

    def bits_per_weight(self, k: int) -> float:
        """Codes, and scales and zeros at 16 bits each."""
        return self._layout.bits_per_weight(k) + 16 * self._layout.groups(k) / k

    def head_bits_per_weight(self, k: int) -> float:
        """bf16."""
        return 16
