"""One matrix product by one path, of ``sllmbench kernel``."""

from __future__ import annotations

from typing import Literal

from sllmbench.record.base import Origin
from sllmbench.record.energy import Energy  # noqa: TC001  (pydantic reads it at run time)
from sllmbench.record.sampling import Interference, Sampling  # noqa: TC001  (pydantic reads it at run time)

KERNEL_SCHEMA_VERSION = 5
"""History:
1  first version
2  kind, machine and commit
3  interference, sampling, n_disturbed, disturbed; clock_ns is sampling.clock_cost_ns
4  energy
5  device; those before are of a CPU
"""


class KernelRecord(Origin):
    """One matrix product by one path: ``sllmbench kernel``'s row.

    ``samples_ns`` has one entry a turn, the median time of that turn's calls: calls of one turn are
    not independent of each other, turns in random order nearly are.
    """

    kind: Literal["kernel"] = "kernel"
    schema_version: int = KERNEL_SCHEMA_VERSION
    path: str
    device: Literal["cpu", "cuda"] = "cpu"
    kernel: str
    isa: str
    arithmetic: str
    format: str
    n: int
    k: int
    m: int
    threads: int
    cache: Literal["hot", "cold"]
    copies: int
    """Copies of the weight that were walked through; 1 where it is hot."""
    interleaved_with: tuple[str, ...]
    """Paths that took turns with this one."""
    median_ns: float
    """Of the undisturbed samples, or of all (``disturbed``)."""
    ci95_ns: tuple[float, float] | None
    """Distribution-free; None with fewer than six samples."""
    samples_ns: tuple[float, ...]
    batches_per_sample: tuple[int, ...]
    """Timed batches of calls that each sample is the median of."""
    interference: tuple[Interference, ...]
    """Beside each sample, its untimed calls and its batches together."""
    n_disturbed: int
    """Samples that something disturbed."""
    disturbed: bool
    """Whether too few were undisturbed, so that the median is of all."""
    sampling: Sampling
    weight_bytes: int
    moved_bytes: int
    """The stored weight, the activations and the product, once each; these are float32, on a GPU
    float16."""
    gbs: float
    gflops: float
    roof_gbs: float | None
    """Read bandwidth measured at this working set with as many threads."""
    roof_gops: float | None
    """Peak rate measured for this arithmetic with as many threads."""
    roof_fraction: float | None
    """The time that the higher of the two roofs asks, divided by the median."""
    bound: Literal["memory", "compute"] | None
    roof_reason: str | None
    """Why there is no arithmetic roof, or none at all."""
    max_rel_error: float
    """max |y - y64| / max |y64|; y64 is the float64 product of the weights as stored with the
    activations as given."""
    energy: Energy
    """Of products after the turns, one after the other; ``j_per_token`` is None."""
    energy_j_per_product: float | None
