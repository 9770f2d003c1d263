"""What a conversion made, as text for a terminal and as JSON."""

from __future__ import annotations

import dataclasses
import json as json_text
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sllmbench.convert import Summary
    from sllmbench.convert.scratch import LinearReport

_WORST = 5
_MB = 1e6


def text(summary: Summary) -> str:
    """Say what stands where, how it was made, and which linears came out worst."""
    rows = [
        ("model", f"{summary.model} ({summary.provenance})"),
        ("written", f"{summary.out}, {summary.kind}, {summary.stored_bytes / _MB:,.1f} MB"),
    ]
    if summary.settings:
        rows.append(("method", _settings(summary.settings)))
    rows += [
        ("text", _calibration(summary.calibration)),
        ("error", _errors(summary)),
        *_worst(summary),
    ]
    if retried := summary.retried():
        rows.append(("damped", f"more than asked for: {_named(retried)}"))
    if summary.resumed_layers:
        resumed = f"{summary.resumed_layers} of {summary.layers} layers were there already"
        rows.append(("resumed", resumed))
    if summary.restarted:
        rows.append(("restarted", "layers of another conversion were thrown away"))
    rows += [("note", note) for note in summary.notes]
    peak = summary.peak_rss_bytes / _MB
    rows.append(("took", f"{_duration(summary.seconds)}, {peak:,.0f} MB of memory at most"))
    return "".join(f"{label:<11}{said}\n" for label, said in rows)


def json(summary: Summary) -> str:
    """One object: the summary, the linears from the largest error to the smallest."""
    whole = dataclasses.asdict(summary)
    whole["linears"] = [dataclasses.asdict(one) for one in summary.worst(len(summary.linears))]
    return json_text.dumps(whole, indent=2, ensure_ascii=False) + "\n"


def _settings(settings: dict[str, Any]) -> str:
    """The method, its width and groups, and what else was switched on."""
    group = settings["group_size"]
    said = [
        f"{settings['method']}, {settings['bits']} bits",
        "a scale a row" if group < 0 else f"groups of {group}",
        "symmetric" if settings["sym"] else "with zero points",
    ]
    said += [name for name, value in settings.items() if value is True and name != "sym"]
    if "damp_percent" in settings:
        said.append(f"damp_percent {settings['damp_percent']:g}")
    return ", ".join(said)


def _calibration(facts: dict[str, Any] | None) -> str:
    if facts is None:
        return "none"
    return (
        f"{facts['source']}, {facts['samples']} samples of {facts['sequence_length']} tokens, "
        f"seed {facts['seed']}"
    )


def _errors(summary: Summary) -> str:
    """The definition, and the median over the linears."""
    if not summary.linears:
        return "nothing was quantised"
    ordered = sorted(linear.relative_error for linear in summary.linears)
    what = (
        "of each linear's outputs, sqrt(mean |e|² / mean |y|²)"
        if summary.error_of == "outputs"
        else "of each matrix, sqrt(Σ e² / Σ w²)"
        + (", weighed by its inputs" if summary.calibration else "")
    )
    return f"{what}: median {ordered[len(ordered) // 2]:.4f}"


def _worst(summary: Summary) -> list[tuple[str, str]]:
    labels = ["worst", *[""] * (_WORST - 1)]
    return [
        (label, f"{linear.relative_error:.4f}  {linear.name}")
        for label, linear in zip(labels, summary.worst(_WORST), strict=False)
    ]


def _named(linears: Sequence[LinearReport]) -> str:
    said = [f"{one.name} to {one.damp_percent:g}" for one in linears[:_WORST]]
    more = len(linears) - len(said)
    return ", ".join(said) + (f" and {more} more" if more else "")


def _duration(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 120 else f"{seconds / 60:.1f} min"
