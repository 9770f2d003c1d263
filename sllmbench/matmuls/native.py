"""Our own kernels on one matrix."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from sllmbench import _native
from sllmbench.errors import InputError
from sllmbench.formats import FORMAT_NAMES, QuantTensor, parse_format
from sllmbench.matmuls.base import BoundMatmul, MatmulPath, Operands
from sllmbench.quantizers import quantize
from sllmbench.record import Arithmetic, KernelUse

if TYPE_CHECKING:
    from numpy.typing import NDArray

NAMES = FORMAT_NAMES


class NativeMatmul(MatmulPath):
    """``_native.matmul`` on a weight in one of our formats."""

    def __init__(self, name: str, arithmetic: Arithmetic = "int8", isa: str | None = None) -> None:
        """Take the format called ``name``; ``isa`` None is the one that this machine uses."""
        super().__init__(name, f"our kernels on {name}")
        self._format = parse_format(name)
        self._arithmetic = arithmetic
        self._isa = isa

    def unavailable(self) -> str | None:
        """An instruction set that was asked for may be missing here."""
        try:
            return None if self._isa is None else _native.isa_unsupported_reason(self._isa)
        except ValueError as error:
            return str(error)

    def unsupported_shape(self, n: int, k: int) -> str | None:
        """K-quants have whole super-groups only."""
        try:
            self._format.super_groups(k)
        except InputError as error:
            return str(error)
        return None

    def bits_per_weight(self, k: int) -> float:
        """The format's."""
        # 2 and 3 bits are held as nibbles.
        return self._format.bits_per_weight(k) + max(0, 4 - self._format.bits)

    def bind(self, operands: Operands) -> BoundMatmul:
        """Round the weight to the format, pack it and bind the arrays."""
        return bind_tensor(
            quantized(operands.weight, self._format.name), operands, self._arithmetic, self._isa
        )


def bind_tensor(
    weight: QuantTensor, operands: Operands, arithmetic: Arithmetic, isa: str | None
) -> BoundMatmul:
    """Bind a weight that is quantised already."""
    out = np.empty((operands.x.shape[0], weight.n), np.float32)
    packed = [weight.native, *(rotated(weight, i).native for i in range(1, operands.copies))]
    calls = [
        partial(
            _native.matmul,
            operands.x,
            each,
            out,
            arithmetic=arithmetic,
            isa=isa or _native.active_isa(),
            threads=operands.threads,
        )
        for each in packed
    ]

    def product() -> NDArray[np.float32]:
        out.fill(np.nan)  # a value that the kernel leaves out must show
        calls[0]()
        return out

    return BoundMatmul(
        calls=calls,
        product=product,
        use=lambda: KernelUse(*calls[0](), arithmetic, weight.format.name),
        weight_bytes=packed[0].nbytes,
        values=weight.dequantize(),
    )


_latest: tuple[NDArray[np.float32], str, QuantTensor] | None = None


def quantized(weight: NDArray[np.float32], format: str) -> QuantTensor:
    """Quantise, or return the latest result where the very same array is asked for again."""
    global _latest
    if _latest is None or _latest[0] is not weight or _latest[1] != format:
        _latest = (weight, format, quantize(weight, format))
    return _latest[2]


def rotated(weight: QuantTensor, by: int) -> QuantTensor:
    """Another weight for a cold walk, its rows moved, made without quantising again."""
    arrays = {
        name: np.roll(array, by, axis=0)
        for name in ("codes", "scales", "offsets", "super_scales", "super_minima")
        if (array := getattr(weight, name, None)) is not None
    }
    return replace(weight, **arrays)


def check_isa(isa: str | None) -> None:
    """Refuse an instruction set that this build lacks or this machine cannot run.

    Raises:
        InputError: with the reason.
    """
    if isa is None:
        return
    reason = NativeMatmul("int8", isa=isa).unavailable()
    if reason is not None:
        raise InputError(f"--isa {isa}: {reason}")
