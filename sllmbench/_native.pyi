"""The C++ extension: kernels, threads and hardware probes."""

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Arithmetic = Literal["exact", "int8"]

class PackedWeights:
    """A quantised [n, k] weight in panels of 32 rows, ready for every kernel of this build."""

    def __init__(
        self,
        codes: NDArray[Any],
        scales: NDArray[np.float16] | NDArray[np.int8],
        offsets: NDArray[Any] | None,
        *,
        n: int,
        k: int,
        bits: int,
        group_size: int,
        offset: str,
        super_scales: NDArray[np.float16] | None = None,
        super_minima: NDArray[np.float16] | None = None,
        order: NDArray[np.int32] | None = None,
    ) -> None: ...
    @property
    def n(self) -> int: ...
    @property
    def k(self) -> int: ...
    @property
    def nbytes(self) -> int: ...
    def dequantize_rows(self, rows: NDArray[np.int64]) -> NDArray[np.float32]: ...

def matmul(
    x: NDArray[np.float32],
    weights: PackedWeights,
    out: NDArray[np.float32],
    *,
    arithmetic: Arithmetic = "int8",
    isa: str | None = None,
    threads: int | None = None,
) -> tuple[str, str]: ...
def compiled_isas() -> list[str]: ...
def supported_isas() -> list[str]: ...
def isa_unsupported_reason(isa: str) -> str | None: ...
def active_isa() -> str: ...
def threads() -> int: ...
def set_threads(threads: int) -> None: ...
def read_bandwidth_gbs(bytes: int, threads: int, seconds: float) -> float: ...
def peak_gops(kind: Literal["int8", "fp32"], isa: str, threads: int, seconds: float) -> float: ...
