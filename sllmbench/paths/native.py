"""Our own kernels: weights stay packed, one fused pass dequantises and multiplies."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sllmbench import _native
from sllmbench.errors import InputError
from sllmbench.formats import QuantFormat, QuantTensor, parse_format, stack_rows
from sllmbench.paths import cuda
from sllmbench.paths.base import Arithmetic, KernelUse, Path, PathLinear, rows_at_once
from sllmbench.paths.torch_float import TorchLinear, float_tensor
from sllmbench.quantizers import quantize

if TYPE_CHECKING:
    from sllmbench.checkpoints.base import Checkpoint

# Beside torch, whose OpenMP threads and ours would fight for the cores.
_native.share_openmp()

HEAD_FORMAT = "int8"
"""The output layer of our int4 paths: at 4 bits it costs most of the quality that 4 bits cost."""

ARITHMETIC: tuple[Arithmetic, ...] = ("exact", "int8")


def matmul(
    x: Any, weight: QuantTensor, kernel: str | None = None, threads: int | None = None
) -> Any:
    """Multiply activations by a quantised weight: [m, k] × [n, k]ᵀ → [m, n].

    Args:
        x: float32 [m, k], a NumPy array or a torch tensor; other float types are converted. A
            tensor on a GPU must be float16, and is multiplied there.
        weight: the quantised [n, k] weight; packed for the kernels on the first call.
        kernel: ``ISA.ARITHMETIC``, e.g. ``avx2.exact``; None takes the best ISA that this machine
            has (or ``SLLMBENCH_ISA``) and int8 activations. On a GPU ``cuda.exact``, which None
            takes, or ``cuda.int8``.
        threads: how many; None takes ``SLLMBENCH_THREADS`` or all usable CPUs.

    Returns:
        float32 [m, n], on a GPU float16, of the same kind as ``x``.

    Raises:
        InputError: shapes that do not fit, an unknown kernel, or one that cannot run here.
    """
    is_torch = isinstance(x, torch.Tensor)
    if is_torch and x.is_cuda:
        return cuda.matmul(x, weight, _parse_cuda_kernel(kernel))
    rows = np.ascontiguousarray(x.detach().cpu().float().numpy() if is_torch else x, np.float32)
    if rows.ndim != 2 or rows.shape[1] != weight.k:
        raise InputError(f"x must be [m, {weight.k}] for this weight, not {list(rows.shape)}")
    isa, arithmetic = _parse_kernel(kernel)
    out = np.empty((rows.shape[0], weight.n), np.float32)
    try:
        _native.matmul(rows, weight.native, out, arithmetic=arithmetic, isa=isa, threads=threads)
    except ValueError as error:
        raise InputError(str(error)) from error
    return torch.from_numpy(out) if is_torch else out


def kernels() -> list[str]:
    """Every kernel name that :func:`matmul` takes on this machine."""
    return [f"{isa}.{arithmetic}" for isa in _native.supported_isas() for arithmetic in ARITHMETIC]


def _parse_kernel(kernel: str | None) -> tuple[str | None, Arithmetic]:
    if kernel is None:
        return None, "int8"
    isa, _, arithmetic = kernel.partition(".")
    if arithmetic not in ARITHMETIC or isa not in _native.compiled_isas():
        raise InputError(f"unknown kernel {kernel!r}; here are {', '.join(kernels())}")
    return isa, arithmetic


def _parse_cuda_kernel(kernel: str | None) -> Arithmetic:
    match kernel:
        case None | "cuda.exact":
            return "exact"
        case "cuda.int8":
            return "int8"
    raise InputError(f"unknown kernel {kernel!r} for a GPU; there are cuda.exact and cuda.int8")


class NativeLinear(PathLinear):
    """A linear layer on our kernels; activations are float32."""

    def __init__(
        self, weight: QuantTensor, bias: torch.Tensor | None, arithmetic: Arithmetic
    ) -> None:
        """Pack ``weight`` for the kernels and let go of its original codes."""
        super().__init__(weight.n, weight.k, weight.format.name, bias)
        self._weight = weight.native
        self._arithmetic = arithmetic
        self._isa = _native.active_isa()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Multiply [..., in_features] → [..., out_features]."""
        rows = x.detach().reshape(-1, self.in_features).float().contiguous()
        out = torch.empty(rows.shape[0], self.out_features)
        kernel, isa = _native.matmul(
            rows.numpy(), self._weight, out.numpy(), arithmetic=self._arithmetic, isa=self._isa
        )
        self.kernel_uses.add(KernelUse(kernel, isa, self._arithmetic, self.format))
        if self.bias is not None:
            out += self.bias
        return out.view(*x.shape[:-1], self.out_features).to(x.dtype)

    @property
    def stored_bytes(self) -> int:
        """Bytes of the packed weight, scales and padding included."""
        return self._weight.nbytes

    def embedding_rows(self, ids: torch.Tensor) -> torch.Tensor:
        """Look rows ``ids`` up in the weight, as an embedding does → float32 [*ids.shape, k]."""
        rows = self._weight.dequantize_rows(ids.reshape(-1).numpy())
        return torch.from_numpy(rows).view(*ids.shape, self.in_features)


def quantized_tensor(checkpoint: Checkpoint, name: str, layout: QuantFormat) -> QuantTensor:
    """A checkpoint's tensor as ``layout``: what it stores if it is that, else quantised here.

    Quantised from float32, a few rows at a time. A GPTQ checkpoint's may have an ``order``.
    """
    n, k = _matrix_shape(checkpoint, name)
    if _same_format(checkpoint.stored_format(name), layout, k):
        stored = checkpoint.quantized(name)
        if stored is not None:
            return replace(stored, format=layout)
    step = rows_at_once(k)
    parts = [
        quantize(checkpoint.rows(name, start, min(start + step, n)), layout)
        for start in range(0, n, step)
    ]
    return parts[0] if len(parts) == 1 else stack_rows(parts)


def not_stored_as(kind: str, checkpoint: Checkpoint) -> str | None:
    """Why a checkpoint has no stored tensors of a kind: ``gguf``, ``gptq``, ``awq``; else None."""
    if checkpoint.stored_as == kind:
        return None
    called = f"{kind.upper()} {'file' if kind == 'gguf' else 'folder'}"
    return f"the model is not a {called}, so it holds no such tensors to multiply"


def _same_format(stored: QuantFormat | None, layout: QuantFormat, k: int) -> bool:
    """Whether they differ in no more than the name, or the size of a group longer than a row."""
    return stored is not None and (
        (stored.bits, stored.offset, stored.two_level, stored.group_length(k))
        == (layout.bits, layout.offset, layout.two_level, layout.group_length(k))
    )


def _matrix_shape(checkpoint: Checkpoint, name: str) -> tuple[int, int]:
    shape = checkpoint.shapes()[name]
    if len(shape) != 2:
        raise InputError(f"{name} has shape {list(shape)}; a linear layer's weight is [n, k]")
    return shape[0], shape[1]


def _linear(
    weight: QuantTensor, bias: torch.Tensor | None, arithmetic: Arithmetic, device: torch.device
) -> NativeLinear | cuda.CudaLinear:
    if device.type == "cpu":
        return NativeLinear(weight, bias, arithmetic)
    return cuda.CudaLinear(weight, bias, arithmetic, device)


class NativePath(Path):
    """Weights of one of our formats, quantised on loading, by rounding to nearest, if need be."""

    def __init__(
        self,
        name: str,
        summary: str,
        layout: QuantFormat,
        arithmetic: Arithmetic,
        device: str = "cpu",
    ) -> None:
        """Store layers as ``layout``, the output layer as :data:`HEAD_FORMAT`."""
        super().__init__(name, summary, "float32" if device == "cpu" else "float16", device)
        self._layout = layout
        self._head = parse_format(HEAD_FORMAT)
        self._arithmetic = arithmetic

    @property
    def format(self) -> str:
        """The layers' format; the head's where it differs."""
        if self._layout.name == self._head.name:
            return self._layout.name
        return f"{self._layout.name}, lm_head {self._head.name}"

    def unsupported(self, checkpoint: Checkpoint | None = None) -> str | None:
        """GPU kernels multiply fewer formats than CPU kernels."""
        if self.device.type == "cpu":
            return None
        return cuda.unsupported_format(self._layout, self._arithmetic)

    def linear(self, checkpoint: Checkpoint, name: str, bias: torch.Tensor | None) -> PathLinear:
        """Quantise the layer's weight, or take it where the checkpoint stores it so."""
        weight = quantized_tensor(checkpoint, name, self._layout)
        return _linear(weight, bias, self._arithmetic, self.device)

    def lm_head(self, checkpoint: Checkpoint, name: str, bias: torch.Tensor | None) -> PathLinear:
        """Quantise the output layer to :data:`HEAD_FORMAT`."""
        weight = quantized_tensor(checkpoint, name, self._head)
        return _linear(weight, bias, self._arithmetic, self.device)

    def bits_per_weight(self, k: int) -> float:
        """Codes, scales and offsets."""
        return self._layout.bits_per_weight(k)

    def head_bits_per_weight(self, k: int) -> float:
        """The output layer's."""
        return self._head.bits_per_weight(k)


class StoredPath(Path):
    """A checkpoint's own quantised tensors, multiplied as they are: nothing is quantised again.

    Its name is the kind of checkpoint: ``gguf``, ``gptq`` or ``awq``.
    """

    def __init__(
        self, name: str, summary: str, arithmetic: Arithmetic, device: str = "cpu"
    ) -> None:
        """Run stored blocks with ``arithmetic``."""
        super().__init__(name, summary, "float32" if device == "cpu" else "float16", device)
        self._arithmetic = arithmetic

    @property
    def format(self) -> str:
        """Each tensor has its own; the record's kernels name them."""
        return "as stored in the file"

    def unsupported(self, checkpoint: Checkpoint | None = None) -> str | None:
        """A checkpoint without stored blocks, or with others than we multiply, cannot run."""
        if checkpoint is None:
            return None
        return not_stored_as(self.name, checkpoint) or checkpoint.quantized_unavailable

    def linear(self, checkpoint: Checkpoint, name: str, bias: torch.Tensor | None) -> PathLinear:
        """Take the stored blocks, or the floats of a tensor that is stored as floats."""
        stored = checkpoint.quantized(name)
        if stored is None:
            weight = float_tensor(checkpoint, name, self.float_type)
            return TorchLinear(weight.to(self.device), bias)
        return _linear(stored, bias, self._arithmetic, self.device)

    lm_head = linear

    def bits_per_weight(self, k: int) -> float:
        """At most 8.5: the widest that runs here are 8 bits with a scale for every 32."""
        return parse_format("q8_0").bits_per_weight(k)

    head_bits_per_weight = bits_per_weight
