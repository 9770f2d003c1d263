"""What a comparison of kernels will do, checked before any process starts."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, cast, get_args

from sllmbench import _native
from sllmbench.errors import InputError
from sllmbench.hardware import cpu, cuda, memory
from sllmbench.hardware.roots import SYSTEM
from sllmbench.matmuls import Arithmetic, matmul_names, resolve
from sllmbench.matmuls.cuda import DEFAULT_PATHS as CUDA_PATHS
from sllmbench.matmuls.native import check_isa
from sllmbench.measure.sampling import Limits

if TYPE_CHECKING:
    from collections.abc import Sequence

Cache = Literal["hot", "cold"]
DEFAULT_SHAPES = ("2048x2048", "8192x2048", "2048x8192")
DEFAULT_M = (1, 4, 16, 128)
DEFAULT_PATHS = (
    "int4-g128",
    "int4-g32",
    "int8",
    "q4_k",
    "torch:bf16",
    "torch:int4pack-g128",
    "torch:int8pack",
    "onnxruntime:int4-g128",
    "onnxruntime:int4-g32",
    "openvino:int4-g128",
    "ggml:q4_0",
    "ggml:q4_k",
    "ggml:q8_0",
)
_COLD_TIMES_CACHE = 4
_PRECISION_SECONDS = 30.0
"""Of one comparison, to reach a precision where nothing else is said."""
_LARGEST_SIDE = 1 << 20
_PROCESS_BYTES = 250 << 20
"""Resident memory of a process with torch or OpenVINO imported; ours takes 50 MB."""
_HELD_BYTES, _BINDING_BYTES = 6, 32
"""A weight beside its stored form, the float32 one and its codes; a weight of the one process that
quantises and checks (measured: up to 8 and 35, libraries included)."""
_BINDING_ROWS = 6
"""As many times the float32 activations and product, while one is checked: two in float64 each,
and their difference."""


@dataclass(frozen=True)
class Shape:
    """A weight [n, k]."""

    n: int
    k: int


@dataclass(frozen=True)
class Case:
    """One comparison: what its candidates all do."""

    shape: Shape
    m: int
    threads: int


@dataclass(frozen=True)
class KernelPlan:
    """Everything that is decided before the first process starts.

    Attributes:
        unavailable: default paths that cannot run here, and why.
        cold_bytes: what a cold walk's copies must exceed together.
    """

    cases: tuple[Case, ...]
    paths: tuple[str, ...]
    unavailable: dict[str, str]
    arithmetic: Arithmetic
    device: str
    isa: str | None
    cache: Cache
    baseline: str
    limits: Limits
    seed: int
    cold_bytes: int


def make_plan(
    shapes: Sequence[str] | None,
    m: Sequence[int] | None,
    paths: Sequence[str] | None,
    *,
    model: str | None,
    threads: Sequence[int] | None,
    arithmetic: str | None,
    isa: str | None,
    device: str = "cpu",
    cache: str,
    baseline: str | None,
    rounds: int,
    precision: float | None = None,
    max_seconds: float | None = None,
    seed: int,
) -> KernelPlan:
    """Check every argument; they are as in :func:`sllmbench.microbench.compare_kernels`.

    Raises:
        InputError: something cannot be done as asked.
    """
    if shapes is not None and model is not None:
        raise InputError("give shapes or a model, not both")
    cuda.require(device)
    if isa is not None and device != "cpu":
        raise InputError("--isa is of CPU kernels; a GPU has one")
    if arithmetic is None:
        arithmetic = cuda.usual_arithmetic(device)
    if arithmetic not in get_args(Arithmetic):
        raise InputError(f"unknown arithmetic {arithmetic!r}; choose exact or int8")
    if cache not in get_args(Cache):
        raise InputError(f"unknown cache state {cache!r}; choose hot or cold")
    if max_seconds is None and precision is not None:
        max_seconds = _PRECISION_SECONDS
    limits = Limits(rounds, precision, max_seconds)
    check_isa(isa)
    try:
        default_threads = _native.threads()
        _native.active_isa()
    except ValueError as error:  # SLLMBENCH_THREADS or SLLMBENCH_ISA
        raise InputError(str(error)) from error
    chosen = cast("Arithmetic", arithmetic)
    runnable, unavailable = _paths(paths, chosen, isa, device)
    if baseline is not None and baseline not in runnable:
        raise InputError(f"the baseline {baseline!r} is not among the paths {', '.join(runnable)}")
    wanted = model_shapes(model) if model is not None else _shapes(shapes or DEFAULT_SHAPES)
    cases = [
        Case(shape, rows, count)
        for count in _positive("threads", threads or [default_threads])
        for rows in _positive("m", m or DEFAULT_M)
        for shape in wanted
    ]
    cold_bytes = _cold_bytes(device) if cache == "cold" else 0
    _check_memory(cases, runnable, cold_bytes, device)
    return KernelPlan(
        tuple(cases),
        runnable,
        unavailable,
        chosen,
        device,
        isa,
        cast("Cache", cache),
        baseline or _default_baseline(runnable),
        limits,
        seed,
        cold_bytes,
    )


def model_shapes(name: str) -> tuple[Shape, ...]:
    """The distinct shapes of a model's layers; embedding and output layer are left out.

    Raises:
        InputError: no such model, or it has no matrices in layers.
    """
    from sllmbench.checkpoints import open_checkpoint
    from sllmbench.checkpoints.random import PARAMETERS

    checkpoint = open_checkpoint(f"random:{name}" if name in PARAMETERS else name)
    found: dict[Shape, None] = {}
    for tensor, shape in checkpoint.shapes().items():
        if len(shape) == 2 and not re.search(r"embed|lm_head|wte|wpe", tensor):
            found[Shape(shape[0], shape[1])] = None
    if not found:
        raise InputError(f"{name} has no linear layers")
    return tuple(found)


def _check_memory(
    cases: Sequence[Case], paths: Sequence[str], cold_bytes: int, device: str
) -> None:
    """Refuse what would not fit: every path's process holds its weight while the others run."""
    free = memory.available_bytes(SYSTEM)
    for case in cases:
        n, k = case.shape.n, case.shape.k
        rows_bytes = 4 * case.m * (n + k)
        resolved = [resolve(path, device=device) for path in paths]
        taking = [path for path in resolved if path.unsupported_shape(n, k) is None]
        held = sum(
            _PROCESS_BYTES
            + (_HELD_BYTES + path.bits_per_weight(k) / 8) * n * k
            + rows_bytes
            + cold_bytes
            for path in taking
        )
        needed = held + _BINDING_BYTES * n * k + _BINDING_ROWS * rows_bytes
        if free is not None and needed > free:
            raise InputError(
                f"{n}x{k} on {len(taking)} paths takes about {needed / 1e9:.1f} GB and"
                f" {free / 1e9:.1f} GB are free; ask for fewer paths or rows or a smaller shape"
            )


def _shapes(texts: Sequence[str]) -> tuple[Shape, ...]:
    shapes = []
    for text in texts:
        match = re.fullmatch(r"(\d{1,9})[xX×](\d{1,9})", text.strip())
        if match is None:
            raise InputError(f"a shape is NxK, as 8192x2048 (out × in), not {text!r}")
        n, k = int(match[1]), int(match[2])
        if not (1 <= n <= _LARGEST_SIDE and 1 <= k <= _LARGEST_SIDE):
            raise InputError(f"the sides of shape {text} must be between 1 and {_LARGEST_SIDE}")
        shapes.append(Shape(n, k))
    return tuple(dict.fromkeys(shapes))


def _positive(what: str, values: Sequence[int]) -> tuple[int, ...]:
    for value in values:
        if value < 1:
            raise InputError(f"{what} must be at least 1, not {value}")
        if what == "threads":
            _check_threads(value)
    return tuple(dict.fromkeys(values))


def _check_threads(threads: int) -> None:
    if threads > 512:
        raise InputError(f"threads must be between 1 and 512, not {threads}")


def _paths(
    names: Sequence[str] | None, arithmetic: Arithmetic, isa: str | None, device: str
) -> tuple[tuple[str, ...], dict[str, str]]:
    """The paths that run, and why the default ones that do not run do not."""
    known = matmul_names(device)
    usual = DEFAULT_PATHS if device == "cpu" else CUDA_PATHS
    wanted = names if names is not None else [name for name in usual if name in known]
    reasons = {name: resolve(name, arithmetic, isa, device).unavailable() for name in wanted}
    missing = {name: reason for name, reason in reasons.items() if reason is not None}
    if names is not None and missing:
        name, reason = next(iter(missing.items()))
        raise InputError(f"path {name} cannot run here: {reason}")
    runnable = tuple(name for name in dict.fromkeys(wanted) if name not in missing)
    if not runnable:
        raise InputError("no path to compare; `sllmbench paths` lists them")
    return runnable, missing


def _default_baseline(paths: Sequence[str]) -> str:
    """torch's bf16, on a GPU fp16, else the first peer, else the first path."""
    if "torch:fp16" in paths:
        return "torch:fp16"
    peers = [name for name in paths if ":" in name]
    return "torch:bf16" if "torch:bf16" in paths else next(iter(peers), paths[0])


def _cold_bytes(device: str) -> int:
    index = cuda.device_index(device)
    if index is not None:
        return _COLD_TIMES_CACHE * cuda.facts(index).l2_bytes
    caches, reason = cpu.caches(SYSTEM)
    if not caches:
        raise InputError(f"--cache cold needs the size of the last-level cache: {reason}")
    last = max(cache.level for cache in caches)
    size = max(cache.bytes * cache.instances for cache in caches if cache.level == last)
    wanted = _COLD_TIMES_CACHE * size
    free = memory.available_bytes(SYSTEM)
    if free is not None and 8 * wanted > free:
        raise InputError(
            f"--cache cold walks through {wanted >> 20} MiB a path, and {free >> 20} MiB are free"
        )
    return wanted
