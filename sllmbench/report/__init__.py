"""Records as tables and as files for other programs. Reads records only."""

from __future__ import annotations

import json as json_text
from typing import TYPE_CHECKING, Any

from sllmbench.report.columns import cost_columns, pareto, speed_columns
from sllmbench.report.grids import csv_rows, markdown_grid, markdown_notes, notes_grid, text_grid
from sllmbench.report.notes import notes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType

    from sllmbench.record import MachineFacts, Record

__all__ = ["csv", "flat", "json", "jsonl", "markdown", "pareto", "table"]


def table(records: Sequence[Record], reference: str, width: int) -> RenderableType:
    """Two tables and their notes for a terminal of ``width`` columns; no cell is wrapped.

    Args:
        records: of one run, at least one, in the order of the rows.
        reference: the path that ratios are against.
        width: columns that there are; what does not fit is left out, the least wanted first.
    """
    from rich.console import Group

    parts: list[RenderableType] = []
    for columns in (speed_columns(records, reference), cost_columns(records, reference)):
        parts += [text_grid(columns, width), ""]
    return Group(*parts, notes_grid(notes(records, reference)))


def markdown(records: Sequence[Record], reference: str) -> str:
    """Render the same tables, with every column, and notes in GitHub's markdown."""
    lines = []
    for columns in (speed_columns(records, reference), cost_columns(records, reference)):
        lines += [*markdown_grid(columns), ""]
    lines += markdown_notes(notes(records, reference))
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
    return csv_rows([flat(record) for record in records])
