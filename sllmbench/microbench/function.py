"""One function of this process under our sampling: what ``kernel_benchmark`` runs."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, Literal

from sllmbench import _native
from sllmbench.errors import InputError
from sllmbench.hardware import roofs
from sllmbench.measure.energy import EnergyProbe, add_up, measure_energy
from sllmbench.measure.sampling import LEAST_ROUNDS, bytes_to_evict, evict_caches, sample
from sllmbench.measure.sensors import gpu_state
from sllmbench.record import BenchmarkRecord, GpuState

if TYPE_CHECKING:
    from collections.abc import Callable

    from sllmbench.origin import RunOrigin

Peak = Literal["fp32", "int8"]


@dataclass(frozen=True)
class Work:
    """What one call of a function does, as far as its author says.

    Attributes:
        flops: arithmetic operations, a multiply-add counting two.
        bytes: that must be read and written at least, each once.
        peak: the arithmetic whose measured peak rate bounds the call; None leaves memory's bound.
    """

    flops: float | None = None
    bytes: float | None = None
    peak: Peak | None = None

    def __post_init__(self) -> None:
        """Refuse what is no amount.

        Raises:
            InputError: an amount of nothing or less, or an unknown peak.
        """
        for name, amount in (("flops", self.flops), ("bytes", self.bytes)):
            if amount is not None and not 0 < amount < float("inf"):
                raise InputError(f"{name} must be more than 0, not {amount}")
        if self.peak not in (None, "fp32", "int8"):
            raise InputError(f"peak must be fp32, int8 or None, not {self.peak!r}")
        if self.peak is not None and self.flops is None:
            raise InputError(f"peak={self.peak!r} bounds nothing without flops")


def benchmark_function(
    origin: RunOrigin,
    name: str,
    call: Callable[[], object],
    *,
    work: Work,
    cache: Literal["hot", "cold"] = "hot",
    precision: float | None = 0.01,
    max_seconds: float = 5.0,
    rounds: int = LEAST_ROUNDS,
) -> BenchmarkRecord:
    """Time ``call`` until its median is known well enough.

    Args:
        origin: of the session that it belongs to.
        name: under which later runs find it again.
        call: the function, its arguments bound; GPU work that torch queued is waited for.
        work: what a call does, for its rates.
        cache: ``hot`` calls it over and over, ``cold`` clears the caches before every call.
        precision: half the width of the median's 95% interval as a fraction of it; None takes
            ``rounds`` samples.
        max_seconds: after which no further sample begins.
        rounds: the fewest samples.

    Raises:
        InputError: a number outside its range.
    """
    if cache not in ("hot", "cold"):
        raise InputError(f"cache must be hot or cold, not {cache!r}")
    synchronize = _torch_cuda_synchronize()
    function = call if synchronize is None else partial(_then, call, synchronize)
    series = sample(
        {name: function},
        precision=precision,
        max_seconds=max_seconds,
        rounds=rounds,
        between=evict_caches if cache == "cold" else None,
        gpu=None if synchronize is None else _gpu_state,
    )[name]
    # Of calls alone, one after the other, so that nothing else is in the joules.
    window, _ = measure_energy(function, EnergyProbe("cpu" if synchronize is None else "cuda"))
    return BenchmarkRecord(
        **origin.fields(),
        name=name,
        isa=_native.active_isa(),
        threads=_native.threads(),
        cache=cache,
        median_ns=series.median_ns,
        ci95_ns=series.ci95_ns,
        samples_ns=series.samples_ns,
        calls_per_sample=series.calls_per_sample,
        interference=series.interference,
        n_disturbed=series.kept.n_disturbed,
        disturbed=series.kept.disturbed,
        sampling=series.sampling,
        flops_per_call=work.flops,
        bytes_per_call=work.bytes,
        gflops=None if work.flops is None else work.flops / series.median_ns,
        gbs=None if work.bytes is None else work.bytes / series.median_ns,
        **_roof(work, cache, series.median_ns),
        energy=add_up([window]),
        energy_j_per_call=None if window.energy_j is None else window.energy_j / window.calls,
    )


def _torch_cuda_synchronize() -> Callable[[], object] | None:
    """torch's own, where torch is loaded and has begun to use a GPU."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available() or not torch.cuda.is_initialized():
        return None
    found: Callable[[], object] = torch.cuda.synchronize
    return found


def _gpu_state() -> GpuState | None:
    return gpu_state(sys.modules["torch"].cuda.current_device())[0]


def _then(first: Callable[[], object], second: Callable[[], object]) -> None:
    first()
    second()


def _roof(work: Work, cache: str, median_ns: float) -> dict[str, Any]:
    """The share of what memory and arithmetic allow, or why there is none."""
    bounds_ns = []
    if work.bytes is not None:
        held = bytes_to_evict() if cache == "cold" else 0
        size = max(int(work.bytes), held)
        bounds_ns.append(work.bytes / _read_gbs(size, _native.threads()))
    if work.flops is not None and work.peak is not None:
        rate = _peak_gops(work.peak, _native.active_isa(), _native.threads())
        bounds_ns.append(work.flops / rate)
    if not bounds_ns:
        reason = "neither bytes nor flops with a peak were given"
        return {"roof_fraction": None, "roof_reason": reason}
    return {"roof_fraction": max(bounds_ns) / median_ns, "roof_reason": None}


_read_gbs, _peak_gops = lru_cache(roofs.read_gbs), lru_cache(roofs.peak_gops)
"""Measured once a process."""
