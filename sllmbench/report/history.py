"""A history as a table with sparklines, as markdown, as JSON and as a picture."""

from __future__ import annotations

import json as json_text
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from sllmbench.compare.changes import LEAST_EFFECT, LEVEL
from sllmbench.errors import InputError
from sllmbench.report.columns import Column
from sllmbench.report.grids import markdown_grid, markdown_notes, notes_grid, text_grid
from sllmbench.report.verdicts import duration, shortened, unit_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from rich.console import RenderableType

    from sllmbench.compare.history import History, Line, Point

_BARS = "▁▂▃▄▅▆▇█"
_SPARK_WIDTH, _LEAST_NAME, _BESIDE_NAME = 24, 16, 50
_HASH = 10
_MOST_PLOTS = 12
_SUFFIXES = (".png", ".svg")


def table(history: History, width: int) -> RenderableType:
    """One line's commits, or a row a line; ``width`` columns."""
    from rich.console import Group

    room = max(_LEAST_NAME, width - _BESIDE_NAME)
    return Group(text_grid(_columns(history, room), width), "", notes_grid(_notes(history)))


def markdown(history: History) -> str:
    """Render the same with every column."""
    lines = [*markdown_grid(_columns(history, None)), "", *markdown_notes(_notes(history))]
    return "\n".join(lines) + "\n"


def json(history: History) -> str:
    """One object with every line, point and change."""
    return json_text.dumps(asdict(history), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def sparkline(values: Sequence[float], width: int = _SPARK_WIDTH) -> str:
    """The last ``width`` values as bars between the least and the largest of them."""
    shown = list(values)[-width:]
    low, span = min(shown), max(shown) - min(shown)
    if span <= 0:
        return _BARS[0] * len(shown)
    steps = len(_BARS)
    return "".join(_BARS[min(steps - 1, int((v - low) / span * steps))] for v in shown)


def plot(history: History, path: Path) -> None:
    """Draw every benchmark's medians over its commits, changes as dashed lines.

    Raises:
        InputError: another suffix, too many benchmarks, no matplotlib, or a file that cannot be
            written.
    """
    names = list(dict.fromkeys(line.name for line in history.lines))
    if path.suffix not in _SUFFIXES:
        raise InputError(f"--plot writes {' or '.join(_SUFFIXES)}, not {path.name}")
    if len(names) > _MOST_PLOTS:
        raise InputError(
            f"{len(names)} benchmarks are more than a picture shows ({_MOST_PLOTS}); give a pattern"
        )
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise InputError("--plot needs matplotlib: pip install 'sllmbench[plot]'") from None
    figure = Figure(figsize=(9, 0.8 + 2.6 * len(names)), layout="constrained")
    for axes, name in zip(figure.subplots(len(names), squeeze=False)[:, 0], names, strict=True):
        _draw(axes, name, [line for line in history.lines if line.name == name])
    try:
        figure.savefig(path, dpi=150)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}") from error


def _draw(drawn: Any, name: str, lines: Sequence[Line]) -> None:
    points = [(p.created_utc, p.commit) for line in lines for p in line.points]
    commits = list(dict.fromkeys(commit for _, commit in sorted(points)))
    scale, unit = unit_of(max(p.median_ns for line in lines for p in line.points))
    for number, line in enumerate(lines):
        at = [commits.index(p.commit) for p in line.points]
        colour = f"C{number % 10}"
        medians = [p.median_ns / scale for p in line.points]
        label = _told_apart(line, lines) or None
        drawn.plot(at, medians, "o-", markersize=3, linewidth=1, color=colour, label=label)
        for x, point in zip(at, line.points, strict=True):
            if point.change is not None:
                drawn.axvline(x - 0.5, color=colour, linestyle="--", linewidth=1)
                text = f" {point.commit[:7]} {_percent(point.change.ratio)}"
                drawn.text(
                    x - 0.5,
                    0.98,
                    text,
                    transform=drawn.get_xaxis_transform(),
                    va="top",
                    fontsize=8,
                    color=colour,
                )
    drawn.set_title(name, fontsize=9, loc="left")
    drawn.set_ylabel(unit)
    drawn.margins(y=0.15)
    step = max(1, len(commits) // 10)
    drawn.set_xticks(range(0, len(commits), step), [c[:7] for c in commits[::step]], fontsize=7)
    if len(lines) > 1:
        drawn.legend(fontsize=7)


def _columns(history: History, room: int | None) -> list[Column]:
    if len(history.lines) == 1:
        return _commit_columns(history.lines[0].points)
    lines = history.lines
    names = [line.name if room is None else shortened(line.name, room) for line in lines]
    values = [[p.median_ns for p in line.points] for line in lines]
    return [
        Column("benchmark", tuple(names), 0),
        Column("commits", tuple(str(len(v)) for v in values), 3),
        Column("medians", tuple(sparkline(v) for v in values), 1),
        Column("last", tuple(duration(v[-1]) for v in values), 1),
        Column("change", tuple(_last_change(line) for line in lines), 2),
    ]


def _commit_columns(points: Sequence[Point]) -> list[Column]:
    longest = max(p.median_ns for p in points)
    bars = [round(20 * p.median_ns / longest) * "█" for p in points]
    return [
        Column("commit", tuple(p.commit[:_HASH] + p.commit[40:] for p in points), 0),
        Column("date", tuple(p.created_utc[:10] for p in points), 3),
        Column("runs", tuple(str(len(p.run_medians_ns)) for p in points), 4),
        Column("median", tuple(duration(p.median_ns) for p in points), 0),
        Column(
            "change", tuple("" if p.change is None else _percent(p.change.ratio) for p in points), 1
        ),
        Column("times", tuple(bars), 5),
    ]


def _last_change(line: Line) -> str:
    changed = [p for p in line.points if p.change is not None]
    if not changed or changed[-1].change is None:
        return "none"
    more = f", {len(changed) - 1} before" if len(changed) > 1 else ""
    return f"{_percent(changed[-1].change.ratio)} at {changed[-1].commit[:7]}{more}"


def _change(point: Point) -> str:
    return "" if point.change is None else _percent(point.change.ratio)


def _percent(ratio: float) -> str:
    return f"{(ratio - 1) * 100:+.1f}%"


def _told_apart(line: Line, lines: Sequence[Line]) -> str:
    """The facts in which a line differs from the others of its name."""
    facts = [f for f in line.identity if len({other.identity.get(f) for other in lines}) > 1]
    return ", ".join(f"{fact} {line.identity[fact]}" for fact in facts)


def _notes(history: History) -> list[tuple[str, str]]:
    notes = []
    if len(history.lines) == 1:
        notes.append(("names", history.lines[0].name))
    for line in history.lines:
        same = [other for other in history.lines if other.name == line.name]
        apart = _told_apart(line, same)
        if apart:
            notes.append(("lines", f"{line.name}, row {same.index(line) + 1} of it: {apart}"))
        for point in line.points:
            if point.change is not None:
                when = f"{point.commit[:_HASH]} of {point.created_utc[:10]}"
                what = f"{_percent(point.change.ratio)}, p = {point.change.p:.1g}"
                notes.append(("changed", f"{line.name} at {when}: {what}"))
    notes.append(
        (
            "changes",
            f"of the level, by at least {LEAST_EFFECT:.0%}: binary segmentation by ranks, tested by"
            f" permutation at {LEVEL:g} divided by the lines; about ten commits are the fewest that"
            " can show one; a machine that changed is marked as code that did",
        )
    )
    disturbed = sum(p.disturbed_runs for line in history.lines for p in line.points)
    if disturbed:
        notes.append(("beware", f"{disturbed} runs were mostly disturbed"))
    if history.without_commit:
        notes.append(("left out", f"{history.without_commit} measurements outside a repository"))
    return notes
