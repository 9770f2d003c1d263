"""What the processor reaches: read bandwidth and arithmetic rate, the roofs of every kernel."""

from __future__ import annotations

import statistics
from functools import partial
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict

from sllmbench import _native

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sllmbench.hardware.cpu import Cache

WINDOWS = 3
READ_SECONDS = 0.06
PEAK_SECONDS = 0.04
_LEAST_BYTES_A_THREAD = 4096
_SMALLEST_DRAM_BYTES = 256 * 1024**2


class ReadBandwidth(BaseModel):
    """GB/s (1e9 bytes) at which threads, each in a part of its own, read a working set.

    ``best_gbs`` is the fastest of ``windows`` short windows, the roof; the median beside it says
    how much of it the machine gave at the moment.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    level: Literal["L2", "L3", "DRAM"]
    working_set_bytes: int
    threads: int
    isa: str
    best_gbs: float
    median_gbs: float
    windows: int = WINDOWS


class PeakRate(BaseModel):
    """1e9 operations a second from registers; a multiply-add is two. Windows as above."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["int8", "fp32"]
    isa: str
    threads: int
    best_gops: float
    median_gops: float
    windows: int = WINDOWS


def read_bandwidths(
    caches: Sequence[Cache], threads: int, free_bytes: int | None
) -> tuple[ReadBandwidth, ...]:
    """Measure at 1 and at ``threads`` threads in the caches and in memory.

    Args:
        caches: the machine's; a level that is not among them is left out.
        threads: all that may be used.
        free_bytes: memory that can be taken; the measurement takes a quarter of it at most.
    """
    results = []
    for count in _thread_counts(threads):
        for level, size in working_sets(caches, count, free_bytes).items():
            rates = _repeat(partial(_native.read_bandwidth_gbs, size, count, READ_SECONDS))
            results.append(
                ReadBandwidth(
                    level=level,
                    working_set_bytes=size,
                    threads=count,
                    isa=_native.active_isa(),
                    best_gbs=max(rates),
                    median_gbs=statistics.median(rates),
                )
            )
    return tuple(sorted(results, key=lambda found: found.working_set_bytes))


def peak_rates(threads: int) -> tuple[PeakRate, ...]:
    """Measure int8 and fp32 multiply-adds of each supported ISA at 1 and at ``threads`` threads."""
    kinds: tuple[Literal["int8", "fp32"], ...] = ("int8", "fp32")
    results = []
    for isa in _native.supported_isas():
        for kind in kinds:
            for count in _thread_counts(threads):
                rates = _repeat(partial(_native.peak_gops, kind, isa, count, PEAK_SECONDS))
                results.append(
                    PeakRate(
                        kind=kind,
                        isa=isa,
                        threads=count,
                        best_gops=max(rates),
                        median_gops=statistics.median(rates),
                    )
                )
    return tuple(results)


def read_gbs(size: int, threads: int) -> float:
    """The read bandwidth of a working set of ``size`` bytes, GB/s: the best of a few windows."""
    size = max(size, _LEAST_BYTES_A_THREAD * threads)
    return max(_repeat(partial(_native.read_bandwidth_gbs, size, threads, READ_SECONDS)))


def peak_gops(kind: Literal["int8", "fp32"], isa: str, threads: int) -> float:
    """The peak rate of an arithmetic, 1e9 operations/s: the best of a few windows."""
    return max(_repeat(partial(_native.peak_gops, kind, isa, threads, PEAK_SECONDS)))


def working_sets(
    caches: Sequence[Cache], threads: int, free_bytes: int | None
) -> dict[Literal["L2", "L3", "DRAM"], int]:
    """Choose the bytes that the threads read together, for each level that can be told apart.

    Half of what the threads reach of a cache, so that it stays in; in memory four times the last
    cache that they reach, so that little of it does. A third level whose half is not twice what
    the second holds is left out: the second would answer.
    """
    reached = {
        cache.level: cache.bytes * min(threads, cache.instances)
        for cache in caches
        if cache.kind != "instruction"
    }
    sets: dict[Literal["L2", "L3", "DRAM"], int] = {}
    if 2 in reached:
        sets["L2"] = reached[2] // 2
    if 3 in reached and reached[3] // 2 >= 2 * reached.get(2, 0):
        sets["L3"] = reached[3] // 2
    last = reached[max(reached)] if reached else 0
    wanted = max(_SMALLEST_DRAM_BYTES, 4 * last)
    if free_bytes is None or wanted <= free_bytes // 4:
        sets["DRAM"] = wanted
    return sets


def _thread_counts(threads: int) -> list[int]:
    return sorted({1, threads})


def _repeat(measure: Callable[[], float]) -> list[float]:
    return [measure() for _ in range(WINDOWS)]
