"""Our kernels on a GPU: a weight in a device's memory, and the linear layer that runs on it.

Memory is torch's and so is the stream: a product is queued on the current stream of its tensors'
device, nothing waits, and nothing but torch allocates, so that CUDA graphs can hold it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import numpy as np
import torch

from sllmbench import _native
from sllmbench.errors import InputError
from sllmbench.formats import pack_nibbles
from sllmbench.hardware import cuda
from sllmbench.paths.base import Arithmetic, KernelUse, PathLinear

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from sllmbench.formats import QuantFormat, QuantTensor

DEQUANTIZE_ROWS = 512
"""From so many rows on a weight is expanded to fp16 once and multiplied by torch, that is cuBLAS.

Reckoned and not measured, for no GPU was at hand: expanding 4-bit weights moves 4.5 bytes a weight,
14 ps on a T4 at 320 GB/s; a product at its fp16 rate of 65 TFLOP/s takes 0.03 ps a weight and row.
From 512 rows on the expansion is less than the product, which cuBLAS does closer to that rate.
``benchmarks/on_gpu.py`` times both, whose table is to replace this reckoning.
"""
_GROUPS = (32, 64, 128)
_DECODE_ROWS = 8  # the most of a kernel that needs no tensor cores
_ALIGNMENT = 256  # of a workspace; torch says of its memory no more than what it does today
_LANE_ROWS, _TILE_ROWS = 8, 16  # as csrc/cuda/layouts.h


def unsupported_format(layout: QuantFormat, arithmetic: Arithmetic) -> str | None:
    """Why no GPU kernel multiplies weights of this format so; None if one does."""
    if layout.offset == "minimum" or layout.two_level or layout.bits in (5, 6):
        return f"no GPU kernel multiplies {layout.name}; 4 and 8 bits in one level of scales run"
    if layout.bits == 8 and layout.offset != "symmetric":
        return f"no GPU kernel multiplies {layout.name}: 8 bits with zero points"
    if layout.group_size not in (*_GROUPS, -1):
        return f"groups of {layout.group_size} do not run on a GPU; 32, 64, 128 and whole rows do"
    if layout.bits < 8 and arithmetic == "int8":
        return "4-bit weights meet fp16 activations on a GPU; take --arithmetic exact"
    return None


class DeviceWeight:
    """A quantised weight in the order of ``csrc/cuda/layouts.h``, in torch's memory.

    Attributes:
        nbytes: of tiles, scales, zero points and an act-order, padding included.
    """

    def __init__(
        self, weight: QuantTensor, arithmetic: Arithmetic, device: torch.device | str
    ) -> None:
        """Pack on the CPU and copy to ``device``.

        Raises:
            InputError: no GPU kernel multiplies this format so.
        """
        reason = unsupported_format(weight.format, arithmetic)
        if reason is not None:
            raise InputError(reason)
        self.n, self.k = weight.n, weight.k
        self.bits = 8 if weight.format.bits == 8 else 4
        self._format = weight.format.name
        self._group = weight.format.group_length(weight.k)
        tiles, scales, zeros = _native.pack_cuda(
            _codes(weight),
            cast("NDArray[np.float16]", weight.scales),
            weight.offsets,
            n=self.n,
            k=self.k,
            bits=self.bits,
            group=self._group,
        )
        self._tiles, self._scales = _copy(tiles, device), _copy(scales, device)
        self._zeros = None if zeros is None else _copy(zeros, device)
        self._order = None if weight.order is None else _copy(weight.order, device)
        self._arithmetic: Arithmetic = arithmetic
        self._workspaces: dict[tuple[int, int, int], int] = {}
        held = (self._tiles, self._scales, self._zeros, self._order)
        self.nbytes = sum(each.nbytes for each in held if each is not None)

    def multiply(
        self, x: torch.Tensor, dequantize_rows: int | None = DEQUANTIZE_ROWS
    ) -> tuple[torch.Tensor, KernelUse]:
        """Queue fp16 [m, k] × wᵀ → fp16 [m, n]; the product, and what ran.

        Args:
            x: on the weight's device, its columns next to each other.
            dequantize_rows: from so many rows on torch multiplies the expanded weight; None never.

        Raises:
            InputError: activations that no kernel takes.
        """
        self._check(x)
        m, exact = x.shape[0], self._arithmetic == "exact"
        device = cuda.facts(x.device.index or 0)
        isa = f"sm_{device.sm}"
        if not device.has_tensor_cores and m > _DECODE_ROWS:
            if not exact:
                return self._in_slices(x)
            dequantize_rows = 0
        if exact and dequantize_rows is not None and m >= dequantize_rows:
            use = KernelUse("dequantize + torch.mm", isa, "float16", self._format)
            return torch.mm(x, self.dequantize().T), use
        y = torch.empty(m, self.n, dtype=torch.float16, device=x.device)
        if m == 0:
            return y, KernelUse("none", isa, "float16" if exact else "int8", self._format)
        workspace = self._workspace(x, device)
        kernel = _native.cuda_matmul(
            self._address,
            device,
            m=m,
            x=x.data_ptr(),
            stride_x=x.stride(0),
            y=y.data_ptr(),
            workspace=0 if workspace is None else _aligned(workspace.data_ptr()),
            stream=stream_of(x.device),
            arithmetic=self._arithmetic,
        )
        # On the stream that it is used on, so torch may give the workspace away as it is freed.
        return y, KernelUse(kernel, isa, "float16" if exact else "int8", self._format)

    def _in_slices(self, x: torch.Tensor) -> tuple[torch.Tensor, KernelUse]:
        """int8 on GTX 16: only the kernels for few rows do without tensor cores."""
        starts = range(0, len(x), _DECODE_ROWS)
        parts = [self.multiply(x[row : row + _DECODE_ROWS], None) for row in starts]
        return torch.cat([part for part, _ in parts]), parts[0][1]

    def dequantize(self) -> torch.Tensor:
        """Queue the weight as fp16 [n, k], its columns in the activations' order."""
        where = self._tiles.device
        out = torch.empty(self.n, self.k, dtype=torch.float16, device=where)
        _native.cuda_dequantize(
            self._address,
            cuda.facts(where.index or 0),
            out=out.data_ptr(),
            stream=stream_of(where),
        )
        return out

    def rows(self, ids: torch.Tensor) -> torch.Tensor:
        """Rows ``ids`` [count] of an 8-bit weight as fp16 [count, k], as an embedding takes them.

        Raises:
            InputError: a weight of 4 bits, whose tiles torch has no words for.
        """
        if self.bits != 8:
            raise InputError("an embedding tied to a 4-bit output layer does not run on a GPU")
        # [row block, tile along k, lane's row, quarter, upper or lower row, k]
        blocks, groups, _ = self._scales.shape
        tiles = self._tiles.view(torch.int8).view(blocks, -1, _LANE_ROWS, 4, 2, 8)
        block, row = ids // _TILE_ROWS, ids % _TILE_ROWS
        codes = tiles[block, :, row % _LANE_ROWS, :, row // _LANE_ROWS].flatten(1)[:, : self.k]
        scales = self._scales[block, :, row]
        if groups > 1:
            scales = scales.repeat_interleave(self._group, 1)[:, : self.k]
        return codes * scales

    @property
    def _address(self) -> _native.CudaWeight:
        """Made for each call: an address that outlived its tensor would be read all the same."""
        return _native.CudaWeight(
            bits=self.bits,
            n=self.n,
            k=self.k,
            group=self._group,
            tiles=self._tiles.data_ptr(),
            scales=self._scales.data_ptr(),
            zeros=0 if self._zeros is None else self._zeros.data_ptr(),
            order=0 if self._order is None else self._order.data_ptr(),
        )

    def _workspace(self, x: torch.Tensor, device: _native.CudaDevice) -> torch.Tensor | None:
        size = self._workspace_bytes(x, device)
        if size == 0:
            return None
        return torch.empty(size + _ALIGNMENT - 1, dtype=torch.uint8, device=x.device)

    def _workspace_bytes(self, x: torch.Tensor, device: _native.CudaDevice) -> int:
        """Kernels copy rows that are not aligned, so it depends on where x lies."""
        m, stride_x, address = x.shape[0], x.stride(0), x.data_ptr()
        key = (m, stride_x, address % _ALIGNMENT)
        if key not in self._workspaces:
            try:
                _, self._workspaces[key] = _native.cuda_plan(
                    self._address,
                    device,
                    m=m,
                    x=address,
                    stride_x=stride_x,
                    arithmetic=self._arithmetic,
                )
            except ValueError as error:
                shape = f"[{m}, {self.k}] × {self._format} [{self.n}, {self.k}]"
                raise InputError(f"{shape} on {device.name}: {error}") from None
        return self._workspaces[key]

    def _check(self, x: torch.Tensor) -> None:
        if x.dtype != torch.float16:
            why = "Turing has no arithmetic for it, and " if x.dtype == torch.bfloat16 else ""
            kind = str(x.dtype).removeprefix("torch.")
            raise InputError(f"activations are {kind}; {why}our kernels take float16: x.half()")
        if x.ndim != 2 or x.shape[1] != self.k:
            raise InputError(f"x must be [m, {self.k}] for this weight, not {list(x.shape)}")
        if x.device != self._tiles.device:
            raise InputError(f"x is on {x.device} and the weight on {self._tiles.device}")
        if x.stride(1) != 1:
            raise InputError("the columns of x must lie next to each other: x.contiguous()")


class CudaLinear(PathLinear):
    """A linear layer on our GPU kernels; activations are float16."""

    def __init__(
        self,
        weight: QuantTensor,
        bias: torch.Tensor | None,
        arithmetic: Arithmetic,
        device: torch.device | str,
    ) -> None:
        """Pack ``weight`` and copy it to ``device``."""
        super().__init__(weight.n, weight.k, weight.format.name, bias)
        self._weight = DeviceWeight(weight, arithmetic, device)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Multiply [..., in_features] → [..., out_features].

        Raises:
            InputError: activations that are not float16; nothing is converted silently.
        """
        rows = x.detach().reshape(-1, self.in_features)
        out, use = self._weight.multiply(rows if rows.stride(1) == 1 else rows.contiguous())
        self.kernel_uses.add(use)
        if self.bias is not None:
            out += self.bias
        return out.view(*x.shape[:-1], self.out_features)

    @property
    def stored_bytes(self) -> int:
        """Bytes of the packed weight, scales and padding included."""
        return self._weight.nbytes

    def embedding_rows(self, ids: torch.Tensor) -> torch.Tensor:
        """Look rows ``ids`` up in the weight, as an embedding does → float16 [*ids.shape, k]."""
        return self._weight.rows(ids.reshape(-1)).view(*ids.shape, self.in_features)


def matmul(x: torch.Tensor, weight: QuantTensor, arithmetic: Arithmetic) -> torch.Tensor:
    """Multiply fp16 [m, k] on a GPU by a weight, which is copied there on the first call.

    Raises:
        InputError: shapes, types or a format that no kernel multiplies.
    """
    held = weight.__dict__.setdefault("_on_devices", {})
    key = (x.device, arithmetic)
    if key not in held:
        held[key] = DeviceWeight(weight, arithmetic, x.device)
    product: torch.Tensor = held[key].multiply(x)[0]
    return product


def _codes(weight: QuantTensor) -> NDArray[np.uint8] | NDArray[np.int8]:
    """The codes as kernels have them: 2 and 3 bits as nibbles, whose symmetric zero is 8."""
    if weight.format.bits >= 4:
        return weight.codes
    shift = np.uint8(8 - weight.format.zero if weight.format.zero else 0)
    return pack_nibbles(weight.codes.view(np.uint8) + shift)


def _aligned(address: int) -> int:
    return -(-address // _ALIGNMENT) * _ALIGNMENT


def stream_of(where: torch.device) -> int:
    """The queue that torch works in there; the tests' emulated device has none."""
    return 0 if where.type == "cpu" else int(torch.cuda.current_stream(where).cuda_stream)


def _copy(array: NDArray[np.generic], device: torch.device | str) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array)).to(device)
