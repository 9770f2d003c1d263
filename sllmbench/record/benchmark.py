"""One benchmark of a pytest session, or of any program that ``sllmbench ab`` runs."""

from __future__ import annotations

from typing import Literal

from sllmbench.record.base import Origin
from sllmbench.record.energy import Energy  # noqa: TC001  (pydantic reads it at run time)
from sllmbench.record.sampling import Interference, Sampling  # noqa: TC001

BENCHMARK_SCHEMA_VERSION = 1


class BenchmarkRecord(Origin):
    """A function's times under our sampling; rates where the caller said what a call moves."""

    kind: Literal["benchmark"] = "benchmark"
    schema_version: int = BENCHMARK_SCHEMA_VERSION
    name: str
    """pytest's node id."""
    isa: str
    threads: int
    cache: Literal["hot", "cold"]
    median_ns: float
    """Of the undisturbed samples, or of all where those are too few; a call's time."""
    ci95_ns: tuple[float, float] | None
    samples_ns: tuple[float, ...]
    """A call's time, in the order they were taken, the disturbed ones too."""
    calls_per_sample: tuple[int, ...]
    interference: tuple[Interference, ...]
    """Beside each sample."""
    n_disturbed: int
    disturbed: bool
    """Whether so many samples are that the median is of all of them."""
    sampling: Sampling
    flops_per_call: float | None
    bytes_per_call: float | None
    gflops: float | None
    gbs: float | None
    roof_fraction: float | None
    roof_reason: str | None
    energy: Energy
    """Of calls after the samples, one after the other; ``j_per_token`` is None."""
    energy_j_per_call: float | None
