"""From what a path's process told to its record, and what a run gives back."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from typing import TYPE_CHECKING, Any

from sllmbench.measure.timing import median_interval
from sllmbench.record import LayerKernel, Record, Samples

if TYPE_CHECKING:
    from sllmbench.bench.plan import Plan
    from sllmbench.errors import Failure
    from sllmbench.record import Interval, MachineFacts, Quality


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
    """What is known of one path so far; ``repetitions`` are the replies to the command ``time``."""

    wave: tuple[str, ...]
    load_ns: int = 0
    repetitions: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Recorder:
    """Makes the records of one run."""

    plan: Plan
    machine: MachineFacts
    run_id: str
    commit: str | None

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
        plan, rows = self.plan, measured.repetitions
        facts = dict(rows[-1]["facts"])
        layer_kernels = tuple(LayerKernel(**use) for use in facts.pop("layer_kernels"))
        itl_ns = tuple(tuple(row["itl_ns"]) for row in rows)
        return Record(
            run_id=self.run_id,
            created_utc=datetime.now(UTC).isoformat(timespec="milliseconds"),
            sllmbench_version=metadata.version("sllmbench"),
            machine=self.machine,
            commit=self.commit,
            model=plan.model,
            provenance=plan.provenance,
            path=path,
            device="cpu",
            **facts,
            layer_kernels=layer_kernels,
            threads=plan.threads,
            n_prompt=plan.n_prompt,
            n_gen=plan.n_gen,
            interleaved_with=tuple(other for other in measured.wave if other != path),
            complete=complete,
            prefill_tps=_per_second(plan.n_prompt, [row["prefill_ns"] for row in rows]),
            decode_tps=_per_second(plan.n_gen, [row["decode_ns"] for row in rows]),
            ttft_ns=median_interval([row["ttft_ns"] for row in rows]),
            tpot_ns=None if plan.n_gen < 2 else median_interval([sum(i) / len(i) for i in itl_ns]),
            load_ns=measured.load_ns,
            peak_rss_bytes=rows[-1]["peak_rss_bytes"],
            peak_rss_reason=rows[-1]["peak_rss_reason"],
            **_energy(rows, plan.n_gen),
            perplexity=None if quality is None else quality.perplexity,
            kl_divergence=None if quality is None else quality.kl_divergence,
            top1_agreement=None if quality is None else quality.top1_agreement,
            quality=quality,
            quality_reason=quality_reason,
            samples=Samples(
                prefill_ns=tuple(row["prefill_ns"] for row in rows),
                ttft_ns=tuple(row["ttft_ns"] for row in rows),
                itl_ns=itl_ns,
                decode_ns=tuple(row["decode_ns"] for row in rows),
                energy_j=_joules(rows) or (),
            ),
        )


def _per_second(tokens: int, durations_ns: list[int]) -> Interval:
    return median_interval([tokens * 1e9 / duration for duration in durations_ns])


def _joules(rows: list[dict[str, Any]]) -> tuple[float, ...] | None:
    """Each repetition's joules, None where one has no figure."""
    joules = tuple(row["energy_j"] for row in rows)
    return None if None in joules else joules


def _energy(rows: list[dict[str, Any]], n_gen: int) -> dict[str, Any]:
    """The decodes' energy; a repetition without a figure leaves the sum without one."""
    missing = next((row["energy_reason"] for row in rows if row["energy_j"] is None), None)
    joules = _joules(rows)
    energy_j = None if joules is None else sum(joules)
    return {
        "energy_j": energy_j,
        "energy_j_per_token": None if energy_j is None else energy_j / (len(rows) * n_gen),
        "energy_source": None if energy_j is None else rows[-1]["energy_source"],
        "energy_reason": missing,
    }
