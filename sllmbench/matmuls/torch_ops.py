"""torch's operators on one matrix: float32, bfloat16, and its int4 and int8 CPU kernels."""

from __future__ import annotations

import re
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from sllmbench.errors import InputError
from sllmbench.formats import unpack_nibbles
from sllmbench.matmuls.base import BoundMatmul, MatmulPath, Operands
from sllmbench.matmuls.native import quantized
from sllmbench.record import KernelUse

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import torch
    from numpy.typing import NDArray

NAMES = (
    "torch:fp32",
    "torch:bf16",
    "torch:int8pack",
    *(f"torch:int4pack-g{group}" for group in (32, 64, 128)),
)
_INT4 = re.compile(r"torch:int4pack-g(\d+)")


def resolve(name: str) -> MatmulPath:
    """Return torch's kernel called ``name``, one of :data:`NAMES`."""
    match = _INT4.fullmatch(name)
    if match is not None:
        return TorchInt4Pack(name, int(match[1]))
    if name == "torch:int8pack":
        return TorchInt8Pack(name, "torch's int8 kernel, a scale a row, bf16 activations")
    kind = name.removeprefix("torch:")
    return TorchFloat(name, {"fp32": "float32", "bf16": "bfloat16"}[kind])


class TorchFloat(MatmulPath):
    """``torch.nn.functional.linear`` on a float weight."""

    def __init__(self, name: str, dtype: str) -> None:
        """Multiply in ``dtype``."""
        super().__init__(name, f"torch.nn.functional.linear, {dtype}")
        self._dtype = dtype

    def bits_per_weight(self, k: int) -> float:
        """The float type's."""
        return 32 if self._dtype == "float32" else 16

    def bind(self, operands: Operands) -> BoundMatmul:
        """Convert the weight and the activations."""
        torch = _torch(operands.threads)
        dtype = getattr(torch, self._dtype)
        x = torch.from_numpy(operands.x).to(dtype)
        weights = [
            torch.from_numpy(np.roll(operands.weight, i, axis=0)).to(dtype, copy=True)
            for i in range(operands.copies)
        ]
        return _bound(
            [partial(torch.nn.functional.linear, x, weight) for weight in weights],
            KernelUse("torch.linear", _isa(), self._dtype, self._dtype),
            weights[0].nbytes,
            weights[0].float().numpy(),
        )


class TorchInt4Pack(MatmulPath):
    """``aten::_weight_int4pack_mm_for_cpu``; it wants scales in bf16."""

    def __init__(self, name: str, group: int) -> None:
        """Take groups of ``group``."""
        super().__init__(name, f"torch's int4 kernel, groups of {group}, bf16 activations")
        self._group = group

    def unavailable(self) -> str | None:
        """Older versions of torch lack the operator."""
        import torch

        if hasattr(torch.ops.aten, "_weight_int4pack_mm_for_cpu"):
            return None
        return f"torch {torch.__version__} has no CPU int4 operator; it came with 2.5"

    def unsupported_shape(self, n: int, k: int) -> str | None:
        """It wants whole groups and rows in sixteens."""
        if k % self._group or n % 16:
            return f"needs k in whole groups of {self._group} and n in sixteens"
        return None

    def bits_per_weight(self, k: int) -> float:
        """Codes, and scales and zeros at 16 bits each."""
        return 4 + 32 / self._group

    def bind(self, operands: Operands) -> BoundMatmul:
        """Pack our codes, with our scales rounded to bf16."""
        torch = _torch(operands.threads)
        weight = quantized(operands.weight, f"int4-g{self._group}")
        codes = unpack_nibbles(cast("NDArray[np.uint8]", weight.codes), weight.k)
        scales = torch.from_numpy(weight.scales).bfloat16()
        packed = [self._pack(codes, scales, i) for i in range(operands.copies)]
        x = torch.from_numpy(operands.x).bfloat16()
        multiply = torch.ops.aten._weight_int4pack_mm_for_cpu
        steps = scales.float().repeat_interleave(self._group, 1).numpy()
        return _bound(
            [partial(multiply, x, each, self._group, zeros) for each, zeros in packed],
            KernelUse("torch.int4pack_mm", _isa(), "bfloat16", weight.format.name),
            packed[0][0].nbytes + packed[0][1].nbytes,
            (codes.astype(np.float32) - 8) * steps,
        )

    def _pack(
        self, codes: NDArray[np.uint8], scales: torch.Tensor, turn: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        import torch

        turned = torch.from_numpy(np.roll(codes, turn, axis=0)).int()
        packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(turned, 1)
        scales = scales.roll(turn, 0).T
        return packed, torch.stack((scales, torch.zeros_like(scales)), dim=-1).contiguous()


class TorchInt8Pack(MatmulPath):
    """``aten::_weight_int8pack_mm``."""

    def unavailable(self) -> str | None:
        """Older versions of torch lack the operator."""
        import torch

        if hasattr(torch.ops.aten, "_weight_int8pack_mm"):
            return None
        return f"torch {torch.__version__} has no CPU int8 operator"

    def unsupported_shape(self, n: int, k: int) -> str | None:
        """Other widths gave wrong products and a segmentation fault with torch 2.13."""
        return None if k % 32 == 0 else "torch's kernel reads past rows of a k not in thirty-twos"

    def bits_per_weight(self, k: int) -> float:
        """Codes and a scale a row."""
        return 8 + 16 / k

    def bind(self, operands: Operands) -> BoundMatmul:
        """Take our codes, with our scales rounded to bf16."""
        torch = _torch(operands.threads)
        weight = quantized(operands.weight, "int8")
        scales = torch.from_numpy(weight.scales[:, 0]).bfloat16()
        codes = [torch.from_numpy(np.roll(weight.codes, i, axis=0)) for i in range(operands.copies)]
        x = torch.from_numpy(operands.x).bfloat16()
        multiply = torch.ops.aten._weight_int8pack_mm
        return _bound(
            [partial(multiply, x, each, scales.roll(i, 0)) for i, each in enumerate(codes)],
            KernelUse("torch.int8pack_mm", _isa(), "bfloat16", weight.format.name),
            codes[0].nbytes + scales.nbytes,
            weight.codes.astype(np.float32) * scales.float().numpy()[:, None],
        )


def _torch(threads: int) -> Any:
    import torch

    torch.set_num_threads(threads)
    torch.set_grad_enabled(False)
    return torch


def _isa() -> str:
    from sllmbench.paths.torch_float import torch_isa

    return torch_isa()


def _bound(
    calls: Sequence[Callable[[], Any]], use: KernelUse, weight_bytes: int, values: Any
) -> BoundMatmul:
    def product() -> NDArray[np.float32]:
        try:
            return cast("NDArray[np.float32]", calls[0]().float().numpy())
        except RuntimeError as error:
            raise InputError(f"torch refuses these operands: {error}".splitlines()[0]) from error

    return BoundMatmul(calls, product, lambda: use, weight_bytes, values)
