"""The C++ extension: kernels, threads and hardware probes."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Arithmetic = Literal["exact", "int8"]

optimized: bool
"""Whether the compiler was told to optimise."""

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
def gptq_columns(
    weights: NDArray[np.float32],
    targets: NDArray[np.float32],
    factor: NDArray[np.float32],
    pivots: NDArray[np.float32],
    scales: NDArray[np.float32],
    zeros: NDArray[np.float32],
    groups_of: NDArray[np.int32],
    codes: NDArray[np.uint8],
    errors: NDArray[np.float32],
    losses: NDArray[np.float64],
    *,
    first: int,
    top: int,
) -> None: ...
def search_blocks(
    values: NDArray[np.float32],
    importance: NDArray[np.float32],
    codes: NDArray[np.uint8],
    scales: NDArray[np.uint16],
    *,
    minima: NDArray[np.uint16] | None = None,
    factors: NDArray[np.int8] | None = None,
    minimum_factors: NDArray[np.uint8] | None = None,
    bits: int,
    group_size: int,
    factor_max: int = 0,
) -> None: ...
def pack_cuda(
    codes: NDArray[Any],
    scales: NDArray[np.float16],
    zeros: NDArray[Any] | None,
    *,
    n: int,
    k: int,
    bits: int,
    group: int,
) -> tuple[NDArray[np.uint8], NDArray[np.float16], NDArray[np.uint8] | None]: ...

cuda_toolkit: str | None
"""The toolkit that this build's kernels are compiled by; None without, and without all below."""

class CudaError(RuntimeError):
    """What the CUDA runtime says, in one line."""

class CudaDevice:
    """What launches must know of a device."""

    def __init__(self, index: int) -> None: ...
    @property
    def index(self) -> int: ...
    @property
    def name(self) -> str: ...
    @property
    def sm(self) -> int: ...
    @property
    def has_tensor_cores(self) -> bool: ...
    @property
    def multiprocessors(self) -> int: ...
    @property
    def l2_bytes(self) -> int: ...
    @property
    def memory_bytes(self) -> int: ...

class CudaWeight:
    """Where a weight from pack_cuda lies in a device's memory; 0: absent."""

    def __init__(
        self,
        *,
        bits: int,
        n: int,
        k: int,
        group: int,
        tiles: int,
        scales: int,
        zeros: int = 0,
        order: int = 0,
    ) -> None: ...

def cuda_unavailable() -> str | None: ...
def cuda_device_count() -> int: ...
def cuda_plan(
    weight: CudaWeight,
    device: CudaDevice,
    *,
    m: int,
    x: int,
    stride_x: int,
    arithmetic: Arithmetic,
) -> tuple[str, int]: ...
def cuda_matmul(
    weight: CudaWeight,
    device: CudaDevice,
    *,
    m: int,
    x: int,
    stride_x: int,
    y: int,
    workspace: int,
    stream: int,
    arithmetic: Arithmetic,
) -> str: ...
def cuda_dequantize(weight: CudaWeight, device: CudaDevice, *, out: int, stream: int) -> None: ...
def cuda_rope_append(
    *,
    device: int,
    stream: int,
    tokens: int,
    query_heads: int,
    kv_heads: int,
    dim: int,
    value_dim: int,
    q: int,
    k: int,
    v: int,
    stride_q: int,
    stride_k: int,
    stride_v: int,
    cos: int,
    sin: int,
    table_positions: int,
    table_pairs: int,
    pairs: int,
    positions: int,
    slots: int,
    k_cache: int,
    v_cache: int,
    capacity: int,
) -> None: ...
def compiled_isas() -> list[str]: ...
def supported_isas() -> list[str]: ...
def isa_unsupported_reason(isa: str) -> str | None: ...
def active_isa() -> str: ...
def threads() -> int: ...
def set_threads(threads: int) -> None: ...
def share_openmp() -> bool: ...
def read_bandwidth_gbs(bytes: int, threads: int, seconds: float) -> float: ...
def peak_gops(kind: Literal["int8", "fp32"], isa: str, threads: int, seconds: float) -> float: ...

class Clock:
    """CLOCK_MONOTONIC, the time stamp counter or a CUDA stream's events."""

    def __init__(self, name: str, *, sys: str = "/sys", stream: int = 0) -> None: ...
    @property
    def name(self) -> Literal["monotonic", "tsc", "cuda_event"]: ...
    @property
    def cost_ns(self) -> float: ...
    @property
    def resolution_ns(self) -> float: ...
    @property
    def rate_uncertainty(self) -> float: ...
    def time_batch(
        self,
        calls: Callable[[], object] | Sequence[Callable[[], object]],
        count: int,
        first: int = 0,
    ) -> float: ...
    def call_cost_ns(self) -> float: ...

def tsc_unsupported_reason(sys: str = "/sys") -> str | None: ...

class Snapshot:
    """Counters of the kernel at one moment."""

    @property
    def at_ns(self) -> int: ...

class InterferenceProbe:
    """Reads what else happens on the machine."""

    def __init__(self, *, proc: str = "/proc", sys: str = "/sys") -> None: ...
    def take(self, with_core_hz: bool = False) -> Snapshot: ...
    def between(self, before: Snapshot, after: Snapshot) -> dict[str, Any]: ...
    @property
    def reasons(self) -> dict[str, str]: ...
    @property
    def tick_ns(self) -> int: ...
    @property
    def processors(self) -> int: ...

def evict(bytes: int) -> None: ...

class CounterWindow:
    """A window over energy counters that only grow."""

    def __init__(self, most_watts: float) -> None: ...
    def add_file(
        self, name: str, path: str, joules_per_unit: float, range: int, update_ns: int
    ) -> None: ...
    def add_perf(
        self,
        name: str,
        type: int,
        config: int,
        cpu: int,
        joules_per_unit: float,
        update_ns: int,
    ) -> None: ...
    def start(self) -> None: ...
    def stop(self) -> list[tuple[str, float | None, str | None, int]]: ...

class Nvml:
    """NVIDIA's management library, loaded at run time."""

    def __init__(self, library: str = "libnvidia-ml.so.1") -> None: ...
    def count(self) -> int: ...
    def name(self, gpu: int) -> str: ...
    def has_energy_counter(self, gpu: int) -> bool: ...
    def memory_used_bytes(self, gpu: int) -> int: ...
    def update_period_ns(self, gpu: int, limit_s: float) -> int | None: ...
    def state(
        self, gpu: int
    ) -> tuple[float | None, list[str] | None, float | None, list[int] | None, str | None]: ...

class GpuEnergyWindow:
    """A window over a GPU's energy counter, or over its power."""

    def __init__(self, nvml: Nvml, gpu: int, update_ns: int) -> None: ...
    def start(self) -> None: ...
    def stop(self) -> tuple[float | None, str, str | None, int]: ...
