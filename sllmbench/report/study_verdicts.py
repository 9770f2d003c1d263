"""What a study's rows may be said to show: faster, slower, worse, or nothing beyond noise.

No sentence here is written by hand for a result: each comes from a comparison with an interval, so
a row that is slower than the vanilla weights cannot stand under a conclusion that it is faster.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Literal

from sllmbench.compare.series import Run, Series
from sllmbench.compare.verdict import Verdict, judge_rounds, judge_series
from sllmbench.record import undisturbed
from sllmbench.report.quality import SURE, figure, verdict

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from sllmbench.record import Metric, QualityRecord, Record, Study

Phase = Literal["prefill", "decode"]
PHASES: tuple[Phase, ...] = ("decode", "prefill")
VANILLA = "vanilla"
MANY_FAULTS = 10_000
"""Page faults a repetition that take milliseconds."""
_HEADLINES = ("perplexity", "acc_norm", "acc")


@dataclass(frozen=True)
class Found:
    """A study and its records, by what the table calls their rows.

    Attributes:
        runs: the timing of each row that has one, its ``path`` and its neighbours' being labels.
        quality: by row and task.
    """

    study: Study
    runs: Mapping[str, Record]
    quality: Mapping[tuple[str, str], QualityRecord]

    @property
    def reference(self) -> str:
        """The row that quality is compared with."""
        return self.study.rows[0].label

    @property
    def vanilla(self) -> list[str]:
        """The rows of weights that were not quantised."""
        return [row.label for row in self.study.rows if row.weights == VANILLA]

    @property
    def quantised(self) -> list[str]:
        """The other rows."""
        return [row.label for row in self.study.rows if row.weights != VANILLA]


def gather(study: Study, runs: Sequence[Record], quality: Sequence[QualityRecord]) -> Found:
    """Call the records' paths what the study's rows are called."""
    labels = {row.path: row.label for row in study.rows}
    timed = {}
    for run in runs:
        beside = tuple(labels[path] for path in run.interleaved_with)
        named = {"path": labels[run.path], "interleaved_with": beside}
        timed[labels[run.path]] = run.model_copy(update=named)
    return Found(study, timed, {(labels[r.path], r.task): r for r in quality})


@dataclass(frozen=True)
class Speed:
    """A row's speed beside another's, in one phase."""

    row: str
    base: str
    phase: Phase
    verdict: Verdict

    @property
    def word(self) -> str:
        """``faster``, ``slower``, ``same`` or ``cannot tell``."""
        return self.verdict.word

    @property
    def ratio(self) -> tuple[float, float, float] | None:
        """The row's speed as a multiple of the base's, and the 95% interval: 0 and ∞ for none."""
        effect = self.verdict.effect
        if effect is None:
            return None
        return 1 / effect.ratio, 1 / effect.high, 1 / effect.low if effect.low else math.inf

    def said(self) -> str:
        """The word and the multiple, as a sentence has it."""
        often = self._multiple()
        match self.word:
            case "faster":
                return f"faster than {self.base}: {often}"
            case "slower":
                return f"SLOWER than {self.base}: {often}"
            case "same":
                return f"as fast as {self.base}, within {self.verdict.threshold:.0%}: {often}"
        return f"not shown to differ from {self.base}: {often}; {self.verdict.reason}"

    def _multiple(self) -> str:
        if self.ratio is None:
            return "no ratio"
        value, low, high = self.ratio
        known = low > 0 and math.isfinite(high)
        return f"{value:.2f} × its speed" + (f" (95% {low:.2f} … {high:.2f})" if known else "")


def compare_speed(base: Record, new: Record, phase: Phase) -> Speed:
    """Compare round by round where both took turns, else as two runs; 95%, a figure at a time."""
    times = [_times(record, phase) for record in (base, new)]
    flags = [[bool(what.causes) for what in record.interference] for record in (base, new)]
    if new.path in base.interleaved_with and len(times[0]) == len(times[1]):
        quiet = undisturbed([a or b for a, b in zip(*flags, strict=True)])
        kept = range(len(times[0])) if quiet is None else quiet
        rounds = ([times[0][i] for i in kept], [times[1][i] for i in kept])
        found = judge_rounds({phase: rounds}, alpha=SURE)[0]
    else:
        sides = [
            Series(phase, (Run(tuple(ns), tuple(bad)),))
            for ns, bad in zip(times, flags, strict=True)
        ]
        found = judge_series([(sides[0], sides[1])], alpha=SURE)[0]
    return Speed(new.path, base.path, phase, found)


def against_vanilla(found: Found, row: str, phase: Phase) -> list[Speed]:
    """A row beside each vanilla row that is not itself."""
    if row not in found.runs:
        return []
    others = [v for v in found.vanilla if v in found.runs and v != row]
    return [compare_speed(found.runs[v], found.runs[row], phase) for v in others]


def against_fused(found: Found, row: str, phase: Phase) -> Speed | None:
    """An unfused row beside the fused one of the same weights; None for other rows."""
    own = next(r for r in found.study.rows if r.label == row)
    fused = f"{own.weights} fused"
    if own.way != "unfused" or row not in found.runs or fused not in found.runs:
        return None
    return compare_speed(found.runs[fused], found.runs[row], phase)


def headline_metric(record: QualityRecord) -> Metric | None:
    """The figure that a task's column shows."""
    by_name = {metric.name: metric for metric in record.metrics}
    named = (by_name[name] for name in _HEADLINES if name in by_name)
    return next(named, record.metrics[0] if record.metrics else None)


def conclusions(found: Found) -> list[str]:
    """What the whole table shows, in a sentence a phase and one on quality."""
    said = [_speed_conclusion(found, phase) for phase in PHASES if found.runs]
    return [*said, *([_quality_conclusion(found)] if found.quality else [])]


def row_verdicts(found: Found) -> list[tuple[str, str]]:
    """Each row's label and its sentences."""
    said: list[tuple[str, str]] = []
    for row in (*found.vanilla, *found.quantised):
        for phase in PHASES:
            beside = "; ".join(speed.said() for speed in against_vanilla(found, row, phase))
            said += [(row, f"{phase}: {beside}")] if beside else []
        said += [(row, text) for text in (_why_unfused(found, row), _quality(found, row)) if text]
    return said


def _times(record: Record, phase: Phase) -> list[float]:
    samples = record.samples
    return [float(ns) for ns in (samples.decode_ns if phase == "decode" else samples.prefill_ns)]


def _speed_conclusion(found: Found, phase: Phase) -> str:
    words = {
        row: {s.word for s in against_vanilla(found, row, phase)}
        for row in found.quantised
        if row in found.runs
    }
    groups = {
        "faster than every vanilla row": [r for r, w in words.items() if w == {"faster"}],
        "SLOWER than a vanilla row": [r for r, w in words.items() if "slower" in w],
    }
    decided = {row for rows in groups.values() for row in rows}
    groups["neither shown"] = [row for row in words if row not in decided]
    listed = [f"{what}: {', '.join(rows)}" for what, rows in groups.items() if rows]
    if not groups["faster than every vanilla row"]:
        listed.insert(0, "no quantised row is shown to be faster than every vanilla row")
    return f"{phase}: {'; '.join(listed)}"


def _quality_conclusion(found: Found) -> str:
    groups: dict[str, list[str]] = {"worse": [], "better": [], "within noise": []}
    for row in found.quantised:
        words = {title: verdict(metric) for title, metric in _differing(found, row)}
        for word in ("worse", "better"):
            tasks = [title for title, given in words.items() if given == word]
            if tasks:
                groups[word].append(f"{row} ({', '.join(tasks)})")
        if words and not {"worse", "better"} & set(words.values()):
            groups["within noise"].append(row)
    listed = [
        f"{what}: {', '.join(rows)}"
        for what, rows in zip(
            ("worse beyond noise", "better beyond noise", "within noise in every task"),
            groups.values(),
            strict=True,
        )
        if rows
    ]
    return f"quality against {found.reference}: {'; '.join(listed) or 'nothing to compare'}"


def _why_unfused(found: Found, row: str) -> str | None:
    """How much of an unfused row's slowness its kernel makes: the weights are the same."""
    speed = against_fused(found, row, "decode")
    if speed is None or speed.word not in ("faster", "slower"):
        return None
    return (
        f"why: the weights are {speed.base}'s and the kernel is another"
        f" ({found.runs[row].kernel}); decode: {speed.said()}"
        + _paging(found.runs[row], found.runs[speed.base])
    )


def _paging(own: Record, fused: Record) -> str:
    """Page faults, where there are so many: a fresh page costs more than expanding into it does."""
    counts = [
        [seen.minor_faults for seen in record.interference if seen.minor_faults is not None]
        for record in (own, fused)
    ]
    if not all(counts):
        return ""
    faults, base = (int(median(count)) for count in counts)
    if faults < max(MANY_FAULTS, 10 * base):
        return ""
    return (
        f"; page faults a repetition: {faults:,} against {base:,}, so the expanded weights went"
        " into pages that the system had to hand out anew"
    )


def _quality(found: Found, row: str) -> str | None:
    texts = [
        f"{title} {_change(metric)}, "
        + {"cannot tell": "within noise", "–": "not compared"}.get(verdict(metric), verdict(metric))
        for title, metric in _differing(found, row)
    ]
    return f"quality less {found.reference}'s: {'; '.join(texts)}" if texts else None


def _differing(found: Found, row: str) -> Iterable[tuple[str, Metric]]:
    for task in found.study.tasks:
        record = found.quality.get((row, task))
        metric = None if record is None else headline_metric(record)
        if metric is not None and metric.difference is not None:
            yield task_title(found.study, task), metric


def task_title(study: Study, task: str) -> str:
    """A task's short name: its kind where no other task is of that kind."""
    kind = task.partition(":")[0]
    alone = sum(other.partition(":")[0] == kind for other in study.tasks) == 1
    return kind if alone else f"{kind}:{task.rpartition('/')[2].rpartition(':')[2]}"


def _change(metric: Metric) -> str:
    difference = metric.difference
    assert difference is not None
    said = figure(metric, difference.value, signed=True)
    if difference.low is None or difference.high is None:
        return said
    low, high = (figure(metric, end, signed=True) for end in (difference.low, difference.high))
    return f"{said} (95% {low} … {high})"
