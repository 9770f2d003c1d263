"""Columns as text for a terminal, as GitHub's markdown, and rows as CSV: what reports share."""

from __future__ import annotations

import csv
import io
import json
from typing import TYPE_CHECKING, Any

from sllmbench.report.columns import Column, fitted

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rich.table import Table

_GAP = 2
_TEXT_COLUMNS = ("path", "row", "figure", "kernel", "ISA", "bound", "benchmark", "verdict")


def text_grid(columns: Sequence[Column], width: int) -> Table:
    """A table of the columns that fit into ``width``; no cell is wrapped."""
    from rich.table import Table
    from rich.text import Text

    grid = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="bold")
    kept = fitted(columns, width, _GAP)
    for column in kept:
        grid.add_column(
            Text(column.title), justify="left" if _is_text(column) else "right", no_wrap=True
        )
    for row in zip(*(column.cells for column in kept), strict=True):
        grid.add_row(*(Text(cell) for cell in row))
    return grid


def text_blocks(columns: Sequence[Column], width: int) -> list[Table]:
    """All columns, in as many tables below each other as ``width`` asks for.

    The first column names the rows and stands in each.
    """
    first, *rest = columns
    blocks: list[list[Column]] = [[first]]
    for column in rest:
        wider = [*blocks[-1], column]
        if len(wider) > 2 and len(fitted(wider, width, _GAP)) < len(wider):
            wider = [first, column]
            blocks.append(wider)
        blocks[-1] = wider
    return [text_grid(block, width) for block in blocks]


def notes_grid(labelled: Iterable[tuple[str, str]]) -> Table:
    """Notes below a table, a label said once."""
    from rich.table import Table
    from rich.text import Text

    below = Table.grid(padding=(0, 1, 0, 0))
    below.add_column(no_wrap=True)
    below.add_column(ratio=1)
    previous = None
    for label, text in labelled:
        below.add_row(Text("" if label == previous else label, style="bold"), Text(text))
        previous = label
    return below


def markdown_grid(columns: Sequence[Column]) -> list[str]:
    """Every column as lines of a markdown table."""
    lines = [_markdown_row([column.title.strip() for column in columns])]
    lines.append("|" + "|".join(":--" if _is_text(c) else "--:" for c in columns) + "|")
    cells = zip(*(column.cells for column in columns), strict=True)
    return lines + [_markdown_row([cell.strip() for cell in row]) for row in cells]


def markdown_notes(labelled: Iterable[tuple[str, str]]) -> list[str]:
    """Notes as a markdown list."""
    return [
        f"- {_escaped(label)} {_escaped(text)}" if len(label) == 1 else f"- **{label}** {text}"
        for label, text in labelled
    ]


def csv_rows(rows: Sequence[dict[str, Any]]) -> str:
    """One row a line under a header; what is not a plain value is JSON in its cell."""
    out = io.StringIO()
    writer = csv.DictWriter(out, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow(
            {
                name: json.dumps(value) if isinstance(value, dict | list) else value
                for name, value in row.items()
            }
        )
    return out.getvalue()


def _is_text(column: Column) -> bool:
    return column.title.strip() in _TEXT_COLUMNS


def _markdown_row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(_escaped(cell) for cell in cells)} |"


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("*", "\\*")
