"""fp32, bf16 and fp16: the weight as floats, multiplied by torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from sllmbench.paths.base import FloatType, KernelUse, Path, PathLinear, rows_at_once

if TYPE_CHECKING:
    from sllmbench.checkpoints.base import Checkpoint

_BYTES: dict[FloatType, int] = {"float32": 4, "bfloat16": 2, "float16": 2}


class TorchLinear(PathLinear):
    """``torch.nn.functional.linear`` on a float weight [out_features, in_features]."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        """Hold ``weight`` as it is."""
        float_type = str(weight.dtype).removeprefix("torch.")
        super().__init__(weight.shape[0], weight.shape[1], float_type, bias)
        self.weight = torch.nn.Parameter(weight, requires_grad=False)
        self._use = KernelUse("torch.linear", torch_isa(weight.device), float_type, float_type)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Multiply [..., in_features] → [..., out_features]."""
        self.kernel_uses.add(self._use)
        return functional.linear(x, self.weight, self.bias)

    @property
    def stored_bytes(self) -> int:
        """Bytes of the weight."""
        return self.weight.nbytes


def torch_isa(device: torch.device | str = "cpu") -> str:
    """Name the level that torch's own operators dispatch at, as ``aten:avx512`` or ``aten:sm_75``.

    It is not proof of what multiplied: MKL, oneDNN and cuBLAS, which torch hands matrices to,
    choose for themselves and do not say.
    """
    if torch.device(device).type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        return f"aten:sm_{major}{minor}"
    return f"aten:{torch.backends.cpu.get_cpu_capability().lower()}"


def float_tensor(checkpoint: Checkpoint, name: str, float_type: FloatType) -> torch.Tensor:
    """Read a checkpoint's tensor as ``float_type``, a few rows in float32 at a time."""
    shape = checkpoint.shapes()[name]
    tensor = torch.empty(shape, dtype=getattr(torch, float_type))
    step = rows_at_once(tensor[0].numel())
    for start in range(0, shape[0], step):
        stop = min(start + step, shape[0])
        tensor[start:stop] = torch.from_numpy(checkpoint.rows(name, start, stop))
    return tensor


class TorchFloatPath(Path):
    """The weight in one of torch's float types: what quantised paths are compared with."""

    def unsupported(self, checkpoint: Checkpoint | None = None) -> str | None:
        """Turing computes nothing in bf16; torch would emulate it without a word."""
        if self.float_type != "bfloat16" or self.device.type == "cpu":
            return None
        major, minor = torch.cuda.get_device_capability(self.device)
        if major >= 8:
            return None
        return f"compute capability {major}.{minor} has no bf16 arithmetic; take fp16"

    @property
    def format(self) -> str:
        """The float type's name."""
        return self.float_type

    def linear(self, checkpoint: Checkpoint, name: str, bias: torch.Tensor | None) -> PathLinear:
        """Read the weight as floats."""
        weight = float_tensor(checkpoint, name, self.float_type)
        return TorchLinear(weight.to(self.device), bias)

    lm_head = linear

    def bits_per_weight(self, k: int) -> float:
        """The float type's width."""
        return 8 * _BYTES[self.float_type]

    head_bits_per_weight = bits_per_weight
