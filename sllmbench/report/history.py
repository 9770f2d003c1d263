"""Lines of a history as a table, as markdown, as JSON and as a picture."""

from __future__ import annotations

import json as json_text
from dataclasses import asdict
from typing import TYPE_CHECKING

from sllmbench.errors import InputError
from sllmbench.report.columns import Column
from sllmbench.report.grids import markdown_grid, markdown_notes, notes_grid, text_grid
from sllmbench.report.verdicts import common_prefix, duration, shortened, unit_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from rich.console import RenderableType

    from sllmbench.compare.history import Change, Line, Point

_BARS = "▁▂▃▄▅▆▇█"
_SHOWN, _SHORT = 20, 8
_LEAST_NAME, _BESIDE_NAME = 16, 58
_ALIKE = 0.01
"""A range below this share of the median is drawn flat: noise must not look like mountains."""


def table(lines: Sequence[Line], unknown: int, width: int) -> RenderableType:
    """A row a line, and its change points, for a terminal of ``width`` columns."""
    from rich.console import Group

    prefix = common_prefix([line.name for line in lines])
    room = max(_LEAST_NAME, width - _BESIDE_NAME)
    names = [shortened(line.name.removeprefix(prefix), room) for line in lines]
    return Group(
        text_grid(_columns(lines, names), width), "", notes_grid(_notes(lines, unknown, prefix))
    )


def markdown(lines: Sequence[Line], unknown: int) -> str:
    """Render the same with whole names."""
    grid = markdown_grid(_columns(lines, [f"`{line.name}`" for line in lines]))
    return "\n".join([*grid, "", *markdown_notes(_notes(lines, unknown, ""))]) + "\n"


def json(lines: Sequence[Line], unknown: int) -> str:
    """One object with every point and change."""
    whole = {"lines": [asdict(line) for line in lines], "runs_without_commit": unknown}
    return json_text.dumps(whole, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def plot(lines: Sequence[Line], file: Path) -> None:
    """Draw a panel a line; a change point is a dashed line, a disturbed commit is hollow.

    Raises:
        InputError: matplotlib is missing, or the file cannot be written in that format.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise InputError("--plot needs matplotlib: pip install 'sllmbench[plot]'") from None
    figure = Figure(figsize=(9, 2.6 * len(lines) + 0.4), layout="constrained")
    for number, line in enumerate(lines):
        axes = figure.add_subplot(len(lines), 1, number + 1)
        scale, unit = unit_of(max(point.median_ns for point in line.points))
        medians = [point.median_ns / scale for point in line.points]
        places = list(range(len(medians)))
        axes.plot(places, medians, color="tab:blue", linewidth=1)
        for place, point in enumerate(line.points):
            face = "white" if point.disturbed else "tab:blue"
            axes.plot(place, medians[place], "o", markersize=4, mfc=face, mec="tab:blue")
        for change in line.changes:
            axes.axvline(change.index - 0.5, color="tab:red", linestyle="--", linewidth=1)
            axes.annotate(
                f"{change.ratio - 1:+.1%}",
                (change.index - 0.5, 1),
                xycoords=("data", "axes fraction"),
                xytext=(3, -10),
                textcoords="offset points",
                color="tab:red",
                fontsize=8,
            )
        axes.set_title(line.name, fontsize=9, loc="left")
        axes.set_ylabel(f"median, {unit}")
        axes.set_ylim(bottom=0, top=1.25 * max(medians))
        step = max(1, len(places) // 8)
        axes.set_xticks(places[::step], [_short(p) for p in line.points[::step]], fontsize=7)
    try:
        figure.savefig(file, dpi=150)
    except (OSError, ValueError) as error:
        raise InputError(f"--plot {file}: {' '.join(str(error).split())}") from error


def sparkline(medians_ns: Sequence[float]) -> str:
    """The latest medians as bars from the smallest to the largest."""
    latest = list(medians_ns[-_SHOWN:])
    low, high = min(latest), max(latest)
    if high - low <= _ALIKE * low:
        return _BARS[0] * len(latest)
    top = len(_BARS) - 1
    return "".join(_BARS[round((value - low) / (high - low) * top)] for value in latest)


def _columns(lines: Sequence[Line], names: Sequence[str]) -> list[Column]:
    medians = [[point.median_ns for point in line.points] for line in lines]
    return [
        Column("benchmark", tuple(names), 0),
        Column("commits", tuple(str(len(line.points)) for line in lines), 2),
        Column("first", tuple(duration(values[0]) for values in medians), 3),
        Column("last", tuple(duration(values[-1]) for values in medians), 0),
        Column("medians", tuple(sparkline(values) for values in medians), 1),
        Column("changes", tuple(str(len(line.changes)) for line in lines), 0),
    ]


def _notes(lines: Sequence[Line], unknown: int, prefix: str) -> list[tuple[str, str]]:
    notes = [("change", _said(line, change, prefix)) for line in lines for change in line.changes]
    disturbed = len({p.commit for line in lines for p in line.points if p.disturbed})
    if disturbed:
        notes.append(("unclear", f"{disturbed} commits: a benchmark was disturbed in most samples"))
    if unknown:
        notes.append(("left out", f"{unknown} runs that were made outside a repository"))
    if prefix:
        notes.append(("names", f"all begin with {prefix}"))
    if len({line.name for line in lines}) < len(lines):
        notes.append(("lines", "a benchmark has one for each machine and set of libraries"))
    notes.append(
        (
            "medians",
            f"of the last {_SHOWN} commits in time order, lowest to highest; lower is better",
        )
    )
    return notes


def _said(line: Line, change: Change, prefix: str) -> str:
    point = line.points[change.index]
    way = "slower" if change.ratio > 1 else "faster"
    return (
        f"{line.name.removeprefix(prefix)}: {abs(change.ratio - 1):.1%} {way} from {_short(point)}"
        f" ({point.created_utc[:10]}) on, p = {change.p:.2g}"
    )


def _short(point: Point) -> str:
    return point.commit[:_SHORT] + ("+" if point.commit.endswith("+") else "")
