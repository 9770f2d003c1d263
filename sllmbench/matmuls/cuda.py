"""One matrix on a GPU: our kernels, and torch's (cuBLAS) beside them.

A product there takes less time than Python needs to ask for it, so a call replays a CUDA graph of
many products; they are timed by events of the stream.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from sllmbench.errors import InputError
from sllmbench.formats import FORMAT_NAMES, QuantFormat, parse_format
from sllmbench.matmuls.base import BoundMatmul, MatmulPath, Operands
from sllmbench.matmuls.native import quantized, rotated
from sllmbench.record import KernelUse

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import torch
    from numpy.typing import NDArray

    from sllmbench.paths.cuda import DeviceWeight
    from sllmbench.record import Arithmetic

_FLOATS = {"torch:fp32": "float32", "torch:fp16": "float16", "torch:bf16": "bfloat16"}
_DEQUANTIZED = re.compile(r"dequantized:(.+)")
NAMES = (
    *FORMAT_NAMES,
    *(f"dequantized:{name}" for name in ("int4-g128", "int4-g32", "int8")),
    *_FLOATS,
)
DEFAULT_PATHS = ("int4-g128", "int4-g32", "int8", "dequantized:int4-g128", "torch:fp16")
_PRODUCTS = 20
"""In a graph at least: what starts it takes some microseconds."""


def resolve(name: str, arithmetic: Arithmetic, device: str) -> MatmulPath:
    """Return what is called ``name``, one of :data:`NAMES`.

    Raises:
        InputError: nothing has this name on a GPU.
    """
    if name in _FLOATS:
        return CudaFloat(name, _FLOATS[name], device)
    dequantized = _DEQUANTIZED.fullmatch(name)
    stored = dequantized[1] if dequantized else name
    if stored in FORMAT_NAMES:
        return CudaMatmul(name, parse_format(stored), arithmetic, device, bool(dequantized))
    close = difflib.get_close_matches(name, NAMES, 1)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    raise InputError(f"unknown path {name!r} on {device}{hint}; there are {', '.join(NAMES)}")


class CudaMatmul(MatmulPath):
    """Our kernels on a weight in one of our formats."""

    def __init__(
        self,
        name: str,
        layout: QuantFormat,
        arithmetic: Arithmetic,
        device: str,
        dequantized: bool,
    ) -> None:
        """Run ``layout`` on ``device``; ``dequantized``: expanded at each call, then torch's."""
        how = "expanded to fp16 by our kernel, then torch's" if dequantized else "our kernels on"
        super().__init__(name, f"{how} {layout.name}, on a GPU")
        self._format = layout
        self._arithmetic: Arithmetic = "exact" if dequantized else arithmetic
        self._device = device
        self._dequantize_rows = 0 if dequantized else None

    def unavailable(self) -> str | None:
        """GPU kernels multiply fewer formats than CPU kernels."""
        from sllmbench.paths.cuda import unsupported_format

        return unsupported_format(self._format, self._arithmetic)

    def bits_per_weight(self, k: int) -> float:
        """The format's."""
        return self._format.bits_per_weight(k)

    def bind(self, operands: Operands) -> BoundMatmul:
        """Round the weight to the format, pack it, and capture the products."""
        from sllmbench.paths.cuda import DeviceWeight

        weight = quantized(operands.weight, self._format.name)
        turned = [weight, *(rotated(weight, i) for i in range(1, operands.copies))]
        held = [DeviceWeight(each, self._arithmetic, self._device) for each in turned]
        x = _to_device(operands.x, "float16", self._device)
        calls = [partial(_product, each, x, self._dequantize_rows) for each in held]
        use = held[0].multiply(x, self._dequantize_rows)[1]
        return replace(
            _captured(calls, use, self._device),
            weight_bytes=held[0].nbytes,
            values=weight.dequantize(),
        )


class CudaFloat(MatmulPath):
    """``torch.nn.functional.linear`` on a float weight."""

    def __init__(self, name: str, dtype: str, device: str) -> None:
        """Multiply in ``dtype`` on ``device``."""
        super().__init__(name, f"torch.nn.functional.linear, {dtype}, on a GPU")
        self._dtype = dtype
        self._device = device

    def unavailable(self) -> str | None:
        """Turing computes nothing in bf16; torch would emulate it without a word."""
        from sllmbench.hardware import cuda

        sm = cuda.facts(cuda.device_index(self._device) or 0).sm
        if self._dtype == "bfloat16" and sm < 80:
            return f"sm_{sm} has no bf16 arithmetic"
        return None

    def bits_per_weight(self, k: int) -> float:
        """The float type's."""
        return 32 if self._dtype == "float32" else 16

    def bind(self, operands: Operands) -> BoundMatmul:
        """Convert the weight and the activations, and capture the products."""
        from torch.nn import functional

        from sllmbench.paths.torch_float import torch_isa

        x = _to_device(operands.x, self._dtype, self._device)
        weights = [
            _to_device(np.roll(operands.weight, i, axis=0), self._dtype, self._device)
            for i in range(operands.copies)
        ]
        use = KernelUse("torch.linear", torch_isa(self._device), self._dtype, self._dtype)
        calls = [partial(functional.linear, x, weight) for weight in weights]
        return replace(
            _captured(calls, use, self._device),
            weight_bytes=weights[0].nbytes,
            values=weights[0].float().cpu().numpy(),
        )


def _product(weight: DeviceWeight, x: torch.Tensor, dequantize_rows: int | None) -> torch.Tensor:
    return weight.multiply(x, dequantize_rows)[0]


def _to_device(array: NDArray[np.float32], dtype: str, device: str) -> torch.Tensor:
    import torch

    return torch.from_numpy(np.ascontiguousarray(array)).to(device, getattr(torch, dtype))


def _captured(
    calls: Sequence[Callable[[], torch.Tensor]], use: KernelUse, device: str
) -> BoundMatmul:
    """A graph that goes through all copies, often enough to be longer than its start."""
    import torch

    torch.set_grad_enabled(False)
    cuda: Any = torch.cuda
    turns = -(-_PRODUCTS // len(calls))
    stream = cuda.Stream(device)
    stream.wait_stream(cuda.current_stream(device))
    with cuda.stream(stream):  # what a first call allocates or chooses is not captured
        for call in calls:
            call()
    cuda.current_stream(device).wait_stream(stream)
    graph = cuda.CUDAGraph()
    with cuda.device(device), cuda.graph(graph):
        for _ in range(turns):
            for call in calls:
                call()

    def product() -> NDArray[np.float32]:
        found: NDArray[np.float32] = calls[0]().float().cpu().numpy()
        return found

    return BoundMatmul(
        calls=[graph.replay],
        product=product,
        use=lambda: use,
        weight_bytes=0,
        values=np.empty((0, 0), np.float32),
        products_per_call=turns * len(calls),
    )
