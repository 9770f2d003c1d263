"""From what a path's process told to its record, and what a run gives back."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from sllmbench.measure.energy import EnergyWindow, add_up
from sllmbench.measure.interference import compare_clocks, keep
from sllmbench.measure.sampling import ClockFacts, open_clock
from sllmbench.measure.statistics import half_width
from sllmbench.record import Interference, LayerKernel, PhaseMemory, Record, Samples

if TYPE_CHECKING:
    from sllmbench.bench.plan import Plan
    from sllmbench.errors import Failure
    from sllmbench.measure.interference import Kept
    from sllmbench.measure.sampling import Rounds
    from sllmbench.origin import RunOrigin
    from sllmbench.record import Energy, Interval, MachineFacts, Quality, Sampling


@dataclass(frozen=True)
class RunResult:
    """What a run measured.

    Attributes:
        reference: the path that ratios and divergences are against.
        failures: paths that died and records that could not be stored.
        disturbances: what else was busy on the machine when the run began.
        interrupted: a Ctrl-C ended the run; ``records`` holds what was measured before it.
    """

    machine: MachineFacts
    records: tuple[Record, ...]
    reference: str
    failures: tuple[Failure, ...] = ()
    disturbances: tuple[str, ...] = ()
    interrupted: bool = False


@dataclass
class Measured:
    """What is known of one path so far.

    Attributes:
        repetitions: the replies to the command ``time``, those of the warm-up too.
        rounds: what took them.
        libraries: versions of those in the path's own process.
    """

    wave: tuple[str, ...]
    rounds: Rounds | None = None
    load_ns: int = 0
    libraries: dict[str, str] = field(default_factory=dict)
    repetitions: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Recorder:
    """Makes the records of one run."""

    plan: Plan
    origin: RunOrigin

    def record(
        self,
        path: str,
        measured: Measured,
        quality: Quality | None,
        quality_reason: str | None,
        *,
        complete: bool,
    ) -> Record:
        """Make the record of a path that was timed at least once."""
        assert measured.rounds is not None
        plan, rows = self.plan, measured.repetitions[measured.rounds.warm_up :]
        facts = dict(rows[-1]["facts"])
        layer_kernels = tuple(LayerKernel(**use) for use in facts.pop("layer_kernels"))
        itl_ns = tuple(tuple(row["itl_ns"]) for row in rows)
        seen = compare_clocks([Interference.model_validate(row["interference"]) for row in rows])
        kept = keep(seen)
        prefill_ns = [row["prefill_ns"] for row in rows]
        decode_ns = [row["decode_ns"] for row in rows]
        return Record(
            **self.origin.fields(measured.libraries),
            model=plan.subjects[path].model,
            provenance=plan.subjects[path].provenance,
            path=path,
            device="cpu" if plan.device == "cpu" else "cuda",
            **facts,
            layer_kernels=layer_kernels,
            threads=plan.threads,
            n_prompt=plan.n_prompt,
            n_gen=plan.n_gen,
            interleaved_with=tuple(other for other in measured.wave if other != path),
            complete=complete,
            prefill_tps=_per_second(plan.n_prompt, prefill_ns, kept),
            decode_tps=_per_second(plan.n_gen, decode_ns, kept),
            ttft_ns=kept.interval([row["ttft_ns"] for row in rows]),
            tpot_ns=None if plan.n_gen < 2 else kept.interval([sum(i) / len(i) for i in itl_ns]),
            load_ns=measured.load_ns,
            peak_rss_bytes=rows[-1]["peak_rss_bytes"],
            peak_rss_reason=rows[-1]["peak_rss_reason"],
            memory=tuple(PhaseMemory(**phase) for phase in rows[-1]["memory"]),
            prefill_energy=_energy(rows, "prefill_energy", plan.n_prompt),
            decode_energy=_energy(rows, "decode_energy", plan.n_gen),
            perplexity=None if quality is None else quality.perplexity,
            kl_divergence=None if quality is None else quality.kl_divergence,
            top1_agreement=None if quality is None else quality.top1_agreement,
            quality=quality,
            quality_reason=quality_reason,
            samples=Samples(
                prefill_ns=tuple(prefill_ns),
                ttft_ns=tuple(row["ttft_ns"] for row in rows),
                itl_ns=itl_ns,
                decode_ns=tuple(decode_ns),
            ),
            interference=seen,
            n_disturbed=kept.n_disturbed,
            disturbed=kept.disturbed,
            sampling=_sampling(
                path, measured.rounds, kept.interval(prefill_ns), kept.interval(decode_ns)
            ),
        )


def _per_second(tokens: int, durations_ns: list[int], kept: Kept) -> Interval:
    return kept.interval([tokens * 1e9 / duration for duration in durations_ns])


def _sampling(path: str, rounds: Rounds, *intervals: Interval) -> Sampling:
    """How the repetitions were taken; the widest of the times' intervals is the precision."""
    widths = [half_width(interval) for interval in intervals]
    known = [width for width in widths if width is not None]
    reached = max(known) if len(known) == len(widths) else None
    return rounds.sampling(path, _clock(), reached)


@lru_cache
def _clock() -> ClockFacts:
    """The clock that Python reads, as the path's process does; nothing is called in between."""
    monotonic = open_clock("monotonic")
    cost_ns = min(monotonic.time_batch(time.perf_counter_ns, 1000) / 1000 for _ in range(9))
    return ClockFacts("monotonic", cost_ns, monotonic.resolution_ns, 0.0, None)


def _energy(rows: list[dict[str, Any]], phase: str, tokens_per_call: int) -> Energy:
    return add_up([EnergyWindow(**row[phase]) for row in rows], tokens_per_call)
