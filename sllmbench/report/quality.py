"""The records of ``sllmbench eval`` as tables and files: a table a task."""

from __future__ import annotations

import json as json_text
from itertools import groupby
from typing import TYPE_CHECKING, Any

from sllmbench.report.columns import MISSING, Column, number
from sllmbench.report.grids import csv_rows, markdown_grid, markdown_notes, notes_grid, text_grid

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType

    from sllmbench.record import Difference, MachineFacts, Metric, QualityRecord

SURE = 0.05
_DEPTH = "/depth "
_COUNTS = ("questions", "keys", "documents")
"""What is counted where a share is of things that were right or wrong."""


def table(records: Sequence[QualityRecord], width: int) -> RenderableType:
    """A table a task for a terminal of ``width`` columns; no cell is wrapped."""
    from rich.console import Group
    from rich.text import Text

    parts: list[RenderableType] = []
    for task, rows in _by_task(records):
        parts += [Text(task, style="bold"), text_grid(_columns(rows), width), ""]
        parts += [notes_grid(_task_notes(rows)), ""]
    return Group(*parts, notes_grid(_notes(records)))


def markdown(records: Sequence[QualityRecord]) -> str:
    """Render the same tables, with every column and figure, in GitHub's markdown."""
    lines = []
    for task, rows in _by_task(records):
        lines += [f"**{task}**", "", *markdown_grid(_columns(rows)), ""]
        lines += [*markdown_notes(_task_notes(rows)), ""]
    return "\n".join([*lines, *markdown_notes(_notes(records))]) + "\n"


def csv(records: Sequence[QualityRecord]) -> str:
    """One figure of one path a row under a header."""
    return csv_rows([_flat(record, metric) for record in records for metric in record.metrics])


def json(machine: MachineFacts, records: Sequence[QualityRecord], reference: str) -> str:
    """One object: the machine, the records and the path that differences are against."""
    whole = {
        "machine": machine.model_dump(mode="json"),
        "records": [record.model_dump(mode="json") for record in records],
        "reference": reference,
    }
    return json_text.dumps(whole, indent=2, ensure_ascii=False) + "\n"


def jsonl(records: Sequence[QualityRecord]) -> str:
    """One record a line."""
    return "".join(record.model_dump_json() + "\n" for record in records)


def _by_task(
    records: Sequence[QualityRecord],
) -> list[tuple[str, list[QualityRecord]]]:
    return [(task, list(rows)) for task, rows in groupby(records, key=lambda r: r.task)]


def _columns(records: Sequence[QualityRecord]) -> list[Column]:
    """Figures with their intervals; those by depth stand in the files alone."""
    reference = records[0].reference
    rows = [
        (record, metric)
        for name in dict.fromkeys(m.name for r in records for m in r.metrics)
        if _DEPTH not in name
        for record in records
        for metric in record.metrics
        if metric.name == name
    ]
    names = [metric.name for _, metric in rows]
    firsts = [i == 0 or names[i - 1] != name for i, name in enumerate(names)]
    differences = [metric.difference for _, metric in rows]
    metrics = [metric for _, metric in rows]
    columns = [
        Column("figure", tuple(n if f else "" for n, f in zip(names, firsts, strict=True)), 0),
        Column("path", tuple(record.path for record, _ in rows), 0),
        Column("value", tuple(figure(metric, metric.value) for metric in metrics), 0),
        Column("95%", tuple(_interval(metric, metric) for metric in metrics), 1),
    ]
    if not any(differences):
        return columns
    columns += [
        Column(f"− {reference}", tuple(_change(metric) for metric in metrics), 2),
        Column("95%", tuple(_interval(m, m.difference, signed=True) for m in metrics), 3),
        Column("p", tuple(_p(difference) for difference in differences), 4),
        Column("verdict", tuple(verdict(metric) for metric in metrics), 2),
    ]
    if any(d is not None and d.n_gained is not None for d in differences):
        columns.append(Column("gained, lost", tuple(map(_flips, differences)), 5))
    return columns


def _task_notes(records: Sequence[QualityRecord]) -> list[tuple[str, str]]:
    first = records[0]
    lines = [("data", first.data), ("how", first.definition)]
    chances = {m.chance for m in first.metrics if m.chance is not None}
    if len(chances) == 1:
        lines.append(("chance", f"{next(iter(chances)):.3g}"))
    errors = [
        f"{metric.name} {number(metric.stderr, 2)}"
        for metric in first.metrics
        if metric.stderr and _DEPTH not in metric.name
    ]
    if errors:
        lines.append(("stderr", f"{first.path}: {', '.join(errors)}"))
    lines += [("note", note) for note in dict.fromkeys(n for r in records for n in r.notes)]
    took = ", ".join(f"{record.path} {record.seconds:.0f} s" for record in records)
    return [*lines, ("took", f"{took}, on a machine that may have had other work")]


def _notes(records: Sequence[QualityRecord]) -> list[tuple[str, str]]:
    first = records[0]
    methods = list(dict.fromkeys(m.method for r in records for m in r.metrics))
    paired = list(
        dict.fromkeys(m.difference.method for r in records for m in r.metrics if m.difference)
    )
    lines = [("95%", f"intervals: {', '.join(methods)}")]
    if paired:
        lines += [
            (
                "−",
                f"the row's figure less {first.reference}'s, over the same items: "
                + "; ".join(paired),
            ),
            (
                "verdict",
                f"worse or better where p < {SURE}, a figure at a time: of twenty equal"
                " figures one is expected to say so",
            ),
        ]
    kernels = dict.fromkeys(
        f"{r.path}: {r.kernel} ({r.isa}, {r.arithmetic}) on {r.format}" for r in records
    )
    lines += [("kernels", "; ".join(kernels))]
    machine = first.machine
    return [
        *lines,
        ("weights", f"{first.model}: {first.provenance}"),
        (
            "machine",
            f"{machine.cpu_model}, {first.threads} threads; sllmbench {first.sllmbench_version}",
        ),
    ]


def is_share(metric: Metric) -> bool:
    """Whether the figure is a share of things, shown in percent."""
    return metric.name.startswith("top-") or (metric.counted in _COUNTS and metric.value <= 1)


def figure(metric: Metric, value: float, *, signed: bool = False) -> str:
    """A value of the metric's kind, in percent where it is a share."""
    sign = "+" if signed and value >= 0 else ""
    if is_share(metric):
        return f"{sign}{100 * value:.1f}%"
    return sign + (number(value, 4) if value >= 0 else f"-{number(-value, 4)}")


def _interval(metric: Metric, of: Metric | Difference | None, *, signed: bool = False) -> str:
    if of is None or of.low is None or of.high is None:
        return MISSING
    low, high = (figure(metric, bound, signed=signed) for bound in (of.low, of.high))
    return f"{low} … {high}"


def _change(metric: Metric) -> str:
    difference = metric.difference
    return MISSING if difference is None else figure(metric, difference.value, signed=True)


def _p(difference: Difference | None) -> str:
    if difference is None or difference.p_value is None:
        return MISSING
    return "<0.0001" if difference.p_value < 1e-4 else f"{difference.p_value:.4f}"


def verdict(metric: Metric) -> str:
    """Whether the difference is real, as far as the items tell."""
    difference = metric.difference
    if difference is None or difference.p_value is None or metric.higher_is_better is None:
        return MISSING
    if difference.p_value >= SURE:
        return "cannot tell"
    return "better" if (difference.value > 0) == metric.higher_is_better else "worse"


def _flips(difference: Difference | None) -> str:
    if difference is None or difference.n_gained is None:
        return MISSING
    return f"{difference.n_gained}, {difference.n_lost}"


def _flat(record: QualityRecord, metric: Metric) -> dict[str, Any]:
    """What identifies the figure, then the figure, then its difference, in plain columns."""
    names = ("run_id", "created_utc", "model", "path", "task", "data", "definition", "reference")
    fields: dict[str, Any] = {name: getattr(record, name) for name in names}
    fields |= metric.model_dump(exclude={"difference"})
    difference = metric.difference
    for name in ("value", "low", "high", "p_value", "method", "n_gained", "n_lost"):
        fields[f"difference_{name}"] = None if difference is None else getattr(difference, name)
    return fields
