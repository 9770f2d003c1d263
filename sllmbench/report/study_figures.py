"""Every figure of a study as plain fields, each beside those that it is compared with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sllmbench.report.quality import verdict
from sllmbench.report.study_verdicts import PHASES, against_fused, against_vanilla

if TYPE_CHECKING:
    from sllmbench.record import Metric, QualityRecord, Record
    from sllmbench.report.study_verdicts import Found, Phase, Speed

_FIELDS = (
    *("row", "path", "model", "kernel", "figure", "unit", "value", "low", "high", "stderr"),
    *("interval", "n", "counted", "against", "change", "change_is", "change_low", "change_high"),
    *("p_value", "verdict"),
)
_NO_INTERVAL = "none: one process, measured once"


def figures(found: Found) -> list[dict[str, Any]]:
    """One figure of one row compared with one other row each; all have the same fields."""
    made: list[dict[str, Any]] = []
    for row in found.study.rows:
        run = found.runs.get(row.label)
        own: dict[str, Any] = {"row": row.label, "path": row.path, "model": row.model}
        if run is not None:
            timed = [_speed(found, run, phase) for phase in PHASES]
            made += [own | {"kernel": run.kernel} | one for rows in timed for one in rows]
            made += [own | {"kernel": run.kernel} | one for one in _memory(run)]
        for task in found.study.tasks:
            record = found.quality.get((row.label, task))
            if record is not None:
                kernel = {"kernel": record.kernel}
                made += [own | kernel | _quality(found, record, m) for m in record.metrics]
    return [dict.fromkeys(_FIELDS) | figure for figure in made]


def _speed(found: Found, run: Record, phase: Phase) -> list[dict[str, Any]]:
    interval = run.decode_tps if phase == "decode" else run.prefill_tps
    name = f"tg{run.n_gen}" if phase == "decode" else f"pp{run.n_prompt}"
    base = {
        "figure": name,
        "unit": "tokens/s",
        "value": None if interval is None else interval.median,
        "low": None if interval is None else interval.low,
        "high": None if interval is None else interval.high,
        "interval": "95%, order statistics of the repetitions",
        "n": len(run.samples.decode_ns),
        "counted": "repetitions",
    }
    beside = against_vanilla(found, run.path, phase)
    fused = against_fused(found, run.path, phase)
    beside += [] if fused is None else [fused]
    return [base | _ratio(speed) for speed in beside] or [base]


def _ratio(speed: Speed) -> dict[str, Any]:
    value, low, high = speed.ratio or (None, None, None)
    effect = speed.verdict.effect
    known = low is not None and low > 0
    return {
        "against": speed.base,
        "change": value,
        "change_is": "ratio of speeds",
        "change_low": low if known else None,
        "change_high": high if known else None,
        "p_value": None if effect is None else effect.p,
        "verdict": speed.word,
    }


def _memory(run: Record) -> list[dict[str, Any]]:
    weights = {"figure": "weights", "value": run.weights_bytes, "interval": "none: counted"}
    peak = {
        "figure": "peak RSS",
        "value": run.peak_rss_bytes,
        "interval": run.peak_rss_reason or _NO_INTERVAL,
    }
    counted = {
        "weights": "all tensors as held, tied ones once",
        "peak RSS": "from before loading to the last timing, above the process after its imports",
    }
    return [
        {"unit": "bytes", "n": 1, "counted": counted[str(one["figure"])]} | one
        for one in (weights, peak)
    ]


def _quality(found: Found, record: QualityRecord, metric: Metric) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "figure": f"{record.task} {metric.name}",
        "value": metric.value,
        "low": metric.low,
        "high": metric.high,
        "stderr": metric.stderr,
        "interval": f"95%, {metric.method}",
        "n": metric.n,
        "counted": f"{metric.counted}: {record.data}",
    }
    difference = metric.difference
    if difference is None:
        return fields
    return fields | {
        "against": found.reference,
        "change": difference.value,
        "change_is": f"difference, {difference.method}",
        "change_low": difference.low,
        "change_high": difference.high,
        "p_value": difference.p_value,
        "verdict": verdict(metric).replace("cannot tell", "within noise"),
    }
