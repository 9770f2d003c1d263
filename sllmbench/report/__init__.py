"""Records as tables and as files for other programs. Reads records only."""

from __future__ import annotations

import csv as csv_files
import io
import json as json_text
from typing import TYPE_CHECKING, Any

from sllmbench.report.columns import Column, cost_columns, fitted, pareto, speed_columns
from sllmbench.report.notes import notes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType

    from sllmbench.record import MachineFacts, Record

__all__ = ["csv", "flat", "json", "jsonl", "markdown", "pareto", "table"]

_GAP = 2
_TEXT_COLUMNS = ("path", "kernel", "ISA")


def table(records: Sequence[Record], reference: str, width: int) -> RenderableType:
    """Two tables and their notes for a terminal of ``width`` columns; no cell is wrapped.

    Args:
        records: of one run, at least one, in the order of the rows.
        reference: the path that ratios are against.
        width: columns that there are; what does not fit is left out, the least wanted first.
    """
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    parts: list[RenderableType] = []
    for columns in (speed_columns(records, reference), cost_columns(records, reference)):
        grid = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="bold")
        kept = fitted(columns, width, _GAP)
        for column in kept:
            grid.add_column(
                Text(column.title), justify="left" if _is_text(column) else "right", no_wrap=True
            )
        for row in zip(*(column.cells for column in kept), strict=True):
            grid.add_row(*(Text(cell) for cell in row))
        parts += [grid, ""]
    below = Table.grid(padding=(0, 1, 0, 0))
    below.add_column(no_wrap=True)
    below.add_column(ratio=1)
    previous = None
    for label, text in notes(records, reference):
        below.add_row(Text("" if label == previous else label, style="bold"), Text(text))
        previous = label
    return Group(*parts, below)


def markdown(records: Sequence[Record], reference: str) -> str:
    """Render the same tables, with every column, and notes in GitHub's markdown."""
    lines = []
    for columns in (speed_columns(records, reference), cost_columns(records, reference)):
        lines.append(_markdown_row([column.title.strip() for column in columns]))
        lines.append("|" + "|".join(":--" if _is_text(c) else "--:" for c in columns) + "|")
        cells = zip(*(column.cells for column in columns), strict=True)
        lines += [_markdown_row([cell.strip() for cell in row]) for row in cells]
        lines.append("")
    lines += [
        f"- {_escaped(label)} {_escaped(text)}" if len(label) == 1 else f"- **{label}** {text}"
        for label, text in notes(records, reference)
    ]
    return "\n".join(lines) + "\n"


def flat(record: Record) -> dict[str, Any]:
    """Return the record's JSON values; interval ``X`` becomes its median, ``X_low``, ``X_high``."""
    fields: dict[str, Any] = {}
    for name, value in record.model_dump(mode="json").items():
        if name in ("prefill_tps", "decode_tps", "ttft_ns", "tpot_ns"):
            interval = value or {"median": None, "low": None, "high": None}
            fields[name] = interval["median"]
            fields[f"{name}_low"], fields[f"{name}_high"] = interval["low"], interval["high"]
        else:
            fields[name] = value
    return fields


def json(machine: MachineFacts, records: Sequence[Record], reference: str) -> str:
    """One object: the machine, the records, the Pareto frontier and the path ratios are against."""
    whole = {
        "machine": machine.model_dump(mode="json"),
        "records": [flat(record) for record in records],
        "pareto": pareto(records),
        "reference": reference,
    }
    return json_text.dumps(whole, indent=2, ensure_ascii=False) + "\n"


def jsonl(records: Sequence[Record]) -> str:
    """One record a line."""
    return "".join(json_text.dumps(flat(r), ensure_ascii=False) + "\n" for r in records)


def csv(records: Sequence[Record]) -> str:
    """One record a row under a header; what is not a plain value is JSON in its cell."""
    rows = [flat(record) for record in records]
    out = io.StringIO()
    writer = csv_files.DictWriter(out, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow(
            {
                name: json_text.dumps(value) if isinstance(value, dict | list) else value
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
