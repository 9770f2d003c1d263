"""One path of one ``sllmbench run``."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from sllmbench.record.base import Frozen, Interval, Origin
from sllmbench.record.energy import Energy  # noqa: TC001  (pydantic reads it at run time)
from sllmbench.record.memory import PhaseMemory  # noqa: TC001
from sllmbench.record.quality import Quality  # noqa: TC001
from sllmbench.record.sampling import Interference, Sampling  # noqa: TC001

SCHEMA_VERSION = 3
"""History:
1  first version
2  kind and commit
3  energy of prefill and decode apart, with its provenance; memory by phase;
   interference, sampling, n_disturbed, disturbed
"""


class LayerKernel(Frozen):
    """A kernel that really ran, and in which layers."""

    kernel: str
    isa: str
    arithmetic: str
    format: str
    layers: tuple[str, ...]


class Samples(Frozen):
    """Raw timings in the order they were taken, one entry a repetition, in nanoseconds."""

    prefill_ns: tuple[int, ...] = ()
    ttft_ns: tuple[int, ...] = ()
    itl_ns: tuple[tuple[int, ...], ...] = ()
    """Inter-token latencies of each repetition's request, n_gen - 1 of them."""
    decode_ns: tuple[int, ...] = ()
    """n_gen decode steps from an empty cache, as llama-bench's tg test times them."""


class Record(Origin):
    """One path of one run. Quantities carry their unit in the name; absent ones a reason."""

    kind: Literal["run"] = "run"
    schema_version: int = SCHEMA_VERSION
    model: str
    provenance: str
    n_params: int
    path: str
    format: str
    kernel: str
    """The kernel most layers ran on; ``layer_kernels`` has them all."""
    isa: str
    arithmetic: str
    device: Literal["cpu", "cuda"]
    layer_kernels: tuple[LayerKernel, ...]
    lm_head: str
    """How the output layer and the embedding are stored, and whether they are tied."""

    threads: int
    n_prompt: int = Field(ge=1)
    n_gen: int = Field(ge=1)
    interleaved_with: tuple[str, ...]
    """Paths that took turns with this one while it was timed."""
    complete: bool
    """False where the run was interrupted before everything was measured."""

    prefill_tps: Interval | None
    decode_tps: Interval | None
    ttft_ns: Interval | None
    tpot_ns: Interval | None
    load_ns: int
    weights_bytes: int
    peak_rss_bytes: int | None
    """Highest resident memory from before loading to the last timing, above the interpreter's."""
    peak_rss_reason: str | None
    """Why there is no peak."""

    memory: tuple[PhaseMemory, ...]
    """Loading, prefill and decode of one untimed request, in this order."""

    prefill_energy: Energy
    decode_energy: Energy
    """Of the decodes that ``samples.decode_ns`` times, short ones repeated."""

    perplexity: float | None
    kl_divergence: float | None
    top1_agreement: float | None
    quality: Quality | None
    quality_reason: str | None
    """Why there is no quality figure."""

    samples: Samples
    interference: tuple[Interference, ...]
    """Beside each repetition, its request and its decode together."""
    n_disturbed: int
    """Repetitions that something disturbed."""
    disturbed: bool
    """Whether too few were undisturbed, so that the medians are of all."""
    sampling: Sampling
    """``precision_reached`` is the wider of prefill's and decode's."""
