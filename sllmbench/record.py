"""The record: what one path was measured to do, with raw samples, units and provenance.

Records are frozen and self-contained: a report needs nothing else, so it can be made, and tested,
from stored JSON on a machine that never ran the model.

Schema history:
    1  first version

Kernel records' schema history:
    1  first version
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict

SCHEMA_VERSION = 1
KERNEL_SCHEMA_VERSION = 1

Arithmetic = Literal["exact", "int8"]
"""How our own kernels compute."""


@dataclass(frozen=True)
class KernelUse:
    """A kernel that ran: its name, the ISA it was built for, how it computes, what it reads."""

    kernel: str
    isa: str
    arithmetic: str
    format: str


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Interval(_Frozen):
    """The median of the samples and a distribution-free confidence interval for it.

    ``low`` and ``high`` are order statistics; they are None where there are too few samples for
    ``coverage`` (six is the least for 95%).
    """

    median: float
    low: float | None
    high: float | None
    coverage: float = 0.95


class LayerKernel(_Frozen):
    """A kernel that really ran, and in which layers."""

    kernel: str
    isa: str
    arithmetic: str
    format: str
    layers: tuple[str, ...]


class Samples(_Frozen):
    """Raw timings in the order they were taken, one entry a repetition, in nanoseconds."""

    prefill_ns: tuple[int, ...] = ()
    ttft_ns: tuple[int, ...] = ()
    itl_ns: tuple[tuple[int, ...], ...] = ()
    """Inter-token latencies of each repetition's request, n_gen - 1 of them."""
    decode_ns: tuple[int, ...] = ()
    """n_gen decode steps from an empty cache, as llama-bench's tg test times them."""
    energy_j: tuple[float, ...] = ()
    """Joules of each of those decodes; empty where one of them has no figure."""


class Quality(_Frozen):
    """How far the path's predictions are from the text and from the reference path."""

    perplexity: float
    perplexity_stderr: float
    definition: str
    text: str
    context: int
    stride: int
    n_tokens: int
    """Tokens that were predicted and scored."""
    reference_path: str | None
    kl_divergence: float | None
    """Mean KL(reference ‖ this path) a token, in nats."""
    kl_divergence_stderr: float | None
    top1_agreement: float | None
    top1_agreement_stderr: float | None
    kl_n_tokens: int | None
    kl_reason: str | None = None
    """Why there is no divergence."""


class MachineFacts(_Frozen):
    """The fields that identify hardware and libraries: what a fair comparison must find equal."""

    cpu_model: str
    cores: int
    memory_bytes: int
    isas: tuple[str, ...]
    os: str
    libraries: dict[str, str]


class Record(_Frozen):
    """One path of one run. Quantities carry their unit in the name; absent ones a reason."""

    schema_version: int = SCHEMA_VERSION
    run_id: str
    created_utc: str
    sllmbench_version: str
    machine: MachineFacts

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
    n_prompt: int
    n_gen: int
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

    energy_j: float | None
    energy_j_per_token: float | None
    energy_source: str | None
    energy_reason: str | None
    """Why there is no energy figure."""

    perplexity: float | None
    kl_divergence: float | None
    top1_agreement: float | None
    quality: Quality | None
    quality_reason: str | None
    """Why there is no quality figure."""

    samples: Samples


class KernelRecord(_Frozen):
    """One matrix product by one path: ``sllmbench kernel``'s row.

    ``samples_ns`` has one entry a turn, the median time of that turn's calls: calls of one turn are
    not independent of each other, turns in random order nearly are.
    """

    schema_version: int = KERNEL_SCHEMA_VERSION
    run_id: str
    created_utc: str
    sllmbench_version: str
    path: str
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
    ci95_ns: tuple[float, float] | None
    """Distribution-free; None with fewer than six samples."""
    samples_ns: tuple[float, ...]
    batches_per_sample: tuple[int, ...]
    """Timed batches of calls that each sample is the median of."""
    clock_ns: float
    """What reading the clock costs; it is part of every timed batch once."""
    weight_bytes: int
    moved_bytes: int
    """The stored weight, the float32 activations and the float32 product, once each."""
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
