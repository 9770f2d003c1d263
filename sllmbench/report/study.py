"""A study as one table with its conclusions: text, markdown, JSON and CSV. Reads records only."""

from __future__ import annotations

import json as json_text
from typing import TYPE_CHECKING

from sllmbench.record import Interval
from sllmbench.report import flat
from sllmbench.report.columns import (
    DISTURBED_MARK,
    INCOMPLETE_MARK,
    MISSING,
    Column,
    number,
    spread,
)
from sllmbench.report.grids import (
    csv_rows,
    markdown_grid,
    markdown_notes,
    notes_grid,
    text_blocks,
)
from sllmbench.report.notes import notes as run_notes
from sllmbench.report.quality import SURE, is_share
from sllmbench.report.study_figures import figures
from sllmbench.report.study_verdicts import (
    Found,
    conclusions,
    gather,
    headline_metric,
    row_verdicts,
    task_title,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rich.console import RenderableType

    from sllmbench.record import Conversion, Metric, QualityRecord, Record, Study

_FROM_RUN = (
    *(INCOMPLETE_MARK, DISTURBED_MARK, "timing", "kernels", "lm_head", "memory"),
    *("weights", "machine", "libraries"),
)
"""Labels of a run's notes that hold of a study too."""
_ONE_PROCESS = "; peak RSS is of one process a row, so it has no interval"


def table(
    study: Study, runs: Sequence[Record], quality: Sequence[QualityRecord], width: int
) -> RenderableType:
    """The conclusions, the table, what each row shows and what was counted.

    Where ``width`` has no room for every column, the rest stands below: none is left out.
    """
    from rich.console import Group
    from rich.text import Text

    found = gather(study, runs, quality)
    parts: list[RenderableType] = [Text(line, style="bold") for line in conclusions(found)]
    for block in text_blocks(_columns(found), width):
        parts += ["", block]
    verdicts, below = row_verdicts(found), _notes(found)
    return Group(*parts, "", notes_grid(verdicts), "", notes_grid(below))


def markdown(study: Study, runs: Sequence[Record], quality: Sequence[QualityRecord]) -> str:
    """Render the same with the whole table in one."""
    found = gather(study, runs, quality)
    lines = [line for text in conclusions(found) for line in (f"**{text}**", "")]
    lines += [*markdown_grid(_columns(found)), "", *markdown_notes(row_verdicts(found)), ""]
    return "\n".join([*lines, *markdown_notes(_notes(found))]) + "\n"


def json(study: Study, runs: Sequence[Record], quality: Sequence[QualityRecord]) -> str:
    """One object: the study, what it shows, every figure, and the records they are from."""
    found = gather(study, runs, quality)
    whole = {
        "study": study.model_dump(mode="json"),
        "conclusions": conclusions(found),
        "verdicts": [{"row": row, "text": text} for row, text in row_verdicts(found)],
        "figures": figures(found),
        "runs": [flat(run) for run in runs],
        "quality": [record.model_dump(mode="json") for record in quality],
    }
    return json_text.dumps(whole, indent=2, ensure_ascii=False) + "\n"


def csv(study: Study, runs: Sequence[Record], quality: Sequence[QualityRecord]) -> str:
    """One figure of one row, compared with one other row, a line under a header."""
    rows = figures(gather(study, runs, quality))
    return csv_rows(rows) if rows else ""


def _columns(found: Found) -> list[Column]:
    runs = [found.runs.get(row.label) for row in found.study.rows]
    first = next((run for run in runs if run is not None), None)
    columns = [_labels(found), *_quality_columns(found)]
    if first is None:
        return columns
    against = f"× {found.study.rows[0].way}"  # two columns, which may stand in different blocks
    pp, tg = f"pp{first.n_prompt} t/s", f"tg{first.n_gen} t/s"
    return [
        *columns,
        Column(pp, _cells(runs, lambda r: spread(r.prefill_tps)), 0),
        Column(f"pp {against}", _ratios(runs, lambda r: r.prefill_tps), 0),
        Column(tg, _cells(runs, lambda r: spread(r.decode_tps)), 0),
        Column(f"tg {against}", _ratios(runs, lambda r: r.decode_tps), 0),
        Column("weights MB", _cells(runs, lambda r: number(r.weights_bytes / 1e6)), 0),
        Column("peak RSS MB", _cells(runs, _peak), 0),
        Column("kernel", _cells(runs, lambda r: r.kernel), 0),
    ]


def _labels(found: Found) -> Column:
    marks = []
    for row in found.study.rows:
        run = found.runs.get(row.label)
        unfinished = "" if run is None or run.complete else INCOMPLETE_MARK
        marks.append(unfinished + (DISTURBED_MARK if run is not None and run.disturbed else ""))
    width = max(map(len, marks))
    pad = " " if width else ""
    rows = zip(marks, found.study.rows, strict=True)
    cells = tuple(f"{mark:<{width}}{pad}{row.label}" for mark, row in rows)
    return Column(f"{'':<{width}}{pad}row", cells, 0)


def _quality_columns(found: Found) -> list[Column]:
    columns = []
    for task in found.study.tasks:
        records = [found.quality.get((row.label, task)) for row in found.study.rows]
        metrics = [None if r is None else headline_metric(r) for r in records]
        share = any(metric is not None and is_share(metric) for metric in metrics)
        title = task_title(found.study, task) + (" %" if share else "")
        if any(metrics):
            columns.append(Column(title, tuple(_metric(m, share) for m in metrics), 0))
    return columns


def _metric(metric: Metric | None, share: bool) -> str:
    if metric is None:
        return MISSING
    scale = 0.01 if share else 1.0
    interval = Interval(median=metric.value, low=metric.low, high=metric.high)
    return spread(interval, scale)


def _cells(runs: Sequence[Record | None], get: Callable[[Record], str]) -> tuple[str, ...]:
    return tuple(MISSING if run is None else get(run) for run in runs)


def _ratios(
    runs: Sequence[Record | None], get: Callable[[Record], Interval | None]
) -> tuple[str, ...]:
    base = None if runs[0] is None else get(runs[0])

    def ratio(run: Record) -> str:
        own = get(run)
        return MISSING if own is None or base is None else f"{own.median / base.median:.2f}"

    return _cells(runs, ratio)


def _peak(run: Record) -> str:
    return MISSING if run.peak_rss_bytes is None else number(run.peak_rss_bytes / 1e6)


def _notes(found: Found) -> list[tuple[str, str]]:
    study, runs = found.study, list(found.runs.values())
    from_run = run_notes(runs, found.reference) if runs else []
    unmeasured = [row.label for row in study.rows if row.label not in found.runs]
    lines = [
        ("verdicts", _how_judged(found)),
        *[("quality", text) for text in _counted(found)],
        ("limit", _limit(study.limit)),
        *[(method, _made(made)) for method, made in study.conversions.items()],
        *[
            (label, text + _ONE_PROCESS if label == "memory" else text)
            for label, text in from_run
            if label in _FROM_RUN
        ],
    ]
    if unmeasured:
        lines.append(("missing", f"not timed: {', '.join(unmeasured)}"))
    return lines


def _how_judged(found: Found) -> str:
    return (
        "speeds by rounds that both rows took part in, quality by the same items; 95%, p <"
        f" {SURE}, a figure at a time: of twenty equal figures one is expected to differ;"
        f" × {found.study.rows[0].way} divides medians, which a verdict's ratio need not equal"
    )


def _counted(found: Found) -> list[str]:
    """What each task's column counts, and whether the reference itself is beyond guessing."""
    texts = []
    for task in found.study.tasks:
        records = [r for (_, name), r in found.quality.items() if name == task]
        metric = headline_metric(records[0]) if records else None
        if metric is None:
            continue
        title = task_title(found.study, task)
        texts.append(
            f"{title}: {metric.name}, {metric.n} {metric.counted}; {records[0].data};"
            f" {records[0].definition}; ± the farther end of the 95% interval ({metric.method})"
        )
        texts += [f"{title}: {note}" for note in records[0].notes]
        texts += _guessing(found, task, title)
    return texts


def _guessing(found: Found, task: str, title: str) -> list[str]:
    record = found.quality.get((found.reference, task))
    metric = None if record is None else headline_metric(record)
    if metric is None or metric.chance is None or metric.low is None or metric.low > metric.chance:
        return []
    return [
        f"{title}: {found.reference} is not beyond guessing ({metric.chance:.3g}), so this task"
        " cannot show that something was lost"
    ]


def _limit(limit: int | None) -> str:
    if limit is None:
        return "none: every packaged question"
    return f"{limit} questions of each task, keys of each length: a quick look"


def _made(made: Conversion) -> str:
    settings = dict(made.settings)
    bits, group = settings.pop("bits"), settings.pop("group_size")
    said = [
        f"{bits} bits, {'a scale a row' if group < 0 else f'groups of {group}'}",
        "symmetric" if settings.pop("sym") else "with zero points",
    ]
    settings.pop("method")
    said += [n if v is True else f"{n} {v}" for n, v in settings.items() if v is not False]
    text = made.calibration
    if text is not None:
        said.append(
            f"calibrated on {text['source']}, {text['samples']} × {text['sequence_length']} tokens"
        )
    return (
        f"{', '.join(said)}; relative error of {made.error_of}: median {made.median_error:.3f},"
        f" worst {made.worst_error:.3f} in {made.worst_linear};"
        f" {made.stored_bytes / 1e6:,.1f} MB on disk, embedding and output layer in float"
    )
