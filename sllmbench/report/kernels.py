"""Kernel records as tables and as files for other programs. Reads records only."""

from __future__ import annotations

import json as json_text
from itertools import groupby
from typing import TYPE_CHECKING, Any

from sllmbench.record import Interval
from sllmbench.report.columns import DISTURBED_MARK, MISSING, Column, number, ratio_title, spread
from sllmbench.report.grids import csv_rows, markdown_grid, markdown_notes, notes_grid, text_grid
from sllmbench.report.sampling import DISTURBED_NOTE, Sampled, sampling_notes

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rich.console import RenderableType

    from sllmbench.record import KernelRecord, MachineFacts

_WRONG = 0.2
"""A maximum error above this share of the largest value is no rounding of any format here."""
WRONG_MARK = "!"


def table(
    machine: MachineFacts,
    records: Sequence[KernelRecord],
    baseline: str,
    missing: Sequence[str],
    width: int,
) -> RenderableType:
    """A table a comparison, fastest first, and notes, for a terminal of ``width`` columns.

    ``missing`` says what could not run and why, a sentence each.
    """
    from rich.console import Group
    from rich.text import Text

    parts: list[RenderableType] = []
    for title, rows in _comparisons(records):
        columns = _columns(rows, baseline)
        parts += [Text(title, style="bold"), text_grid(columns, width), ""]
    return Group(*parts, notes_grid(_notes(machine, records, baseline, missing)))


def markdown(
    machine: MachineFacts, records: Sequence[KernelRecord], baseline: str, missing: Sequence[str]
) -> str:
    """Render the same tables, with every column, and notes in GitHub's markdown."""
    lines: list[str] = []
    for title, rows in _comparisons(records):
        lines += [f"**{title}**", "", *markdown_grid(_columns(rows, baseline)), ""]
    return "\n".join([*lines, *markdown_notes(_notes(machine, records, baseline, missing))]) + "\n"


def flat(record: KernelRecord, records: Sequence[KernelRecord], baseline: str) -> dict[str, Any]:
    """Return the record's JSON values, with ``ratio`` of the baseline's median to its own."""
    return {
        **record.model_dump(mode="json"),
        "baseline": baseline,
        "ratio": _ratio(record, records, baseline),
    }


def json(
    machine: MachineFacts, records: Sequence[KernelRecord], baseline: str, missing: Sequence[str]
) -> str:
    """One object: the machine, the records, the baseline and what could not run."""
    whole = {
        "machine": machine.model_dump(mode="json"),
        "baseline": baseline,
        "missing": list(missing),
        "records": [flat(record, records, baseline) for record in records],
    }
    return json_text.dumps(whole, indent=2, ensure_ascii=False) + "\n"


def jsonl(records: Sequence[KernelRecord], baseline: str) -> str:
    """One record a line."""
    rows = (flat(record, records, baseline) for record in records)
    return "".join(json_text.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def csv(records: Sequence[KernelRecord], baseline: str) -> str:
    """One record a row under a header; what is not a plain value is JSON in its cell."""
    return csv_rows([flat(record, records, baseline) for record in records]) if records else ""


def _case(record: KernelRecord) -> tuple[int, int, int, int]:
    return record.threads, record.m, record.n, record.k


def _comparisons(
    records: Sequence[KernelRecord],
) -> Iterator[tuple[str, list[KernelRecord]]]:
    for (threads, m, n, k), rows in groupby(records, _case):
        listed = sorted(rows, key=lambda r: r.median_ns)
        plural = "" if threads == 1 else "s"
        yield f"{n} × {k}, m = {m}, {threads} thread{plural}, {listed[0].cache}", listed


def _columns(rows: Sequence[KernelRecord], baseline: str) -> list[Column]:
    marks = [
        WRONG_MARK if r.max_rel_error > _WRONG else DISTURBED_MARK if r.disturbed else " "
        for r in rows
    ]
    return [
        Column("  path", tuple(f"{mark} {r.path}" for mark, r in zip(marks, rows, strict=True)), 0),
        Column("µs", tuple(spread(_interval(r), 1e3) for r in rows), 1),
        Column(
            ratio_title(baseline).replace("ref", "base"),
            tuple(_or_missing(_ratio(r, rows, baseline), "{:.2f}") for r in rows),
            2,
        ),
        Column("GB/s", tuple(number(r.gbs) for r in rows), 5),
        Column("GFLOP/s", tuple(number(r.gflops) for r in rows), 6),
        Column("roof", tuple(_or_missing(r.roof_fraction, "{:.0%}") for r in rows), 4),
        Column("bound", tuple(r.bound or MISSING for r in rows), 8),
        Column("error", tuple(f"{r.max_rel_error:.1e}" for r in rows), 3),
        Column("kernel", tuple(r.kernel for r in rows), 9),
        Column("ISA", tuple(r.isa for r in rows), 10),
    ]


def _notes(
    machine: MachineFacts, records: Sequence[KernelRecord], baseline: str, missing: Sequence[str]
) -> list[tuple[str, str]]:
    libraries = ", ".join(f"{name} {version}" for name, version in machine.libraries.items())
    notes = [
        ("× base", f"{baseline}'s median divided by the row's: above 1 is faster than it"),
        (
            "µs",
            "median of the turns' medians ± the farther end of its 95% interval, every path in a"
            " process of its own, stopped while another has its turn",
        ),
        *[("turns", text) for text in sampling_notes([_of_kernel(r) for r in records])],
        (
            "roof",
            "share of what the machine allows: the stored weight, activations and product once at"
            " the read bandwidth measured for this working set, or the arithmetic at the peak rate"
            " measured, whichever takes longer (bf16 has no measured peak)",
        ),
        (
            "error",
            "max |y - y64| / max |y64|: the float64 product of the weights as stored with the"
            " activations as given, every 509th channel of them 50 times as large",
        ),
        *[("kernels", text) for text in _kernels(records)],
        *[("missing", text) for text in missing],
        ("machine", f"{machine.cpu_model}, {machine.cores} cores; {machine.os}; {libraries}"),
    ]
    if any(r.disturbed for r in records):
        notes.insert(0, (DISTURBED_MARK, DISTURBED_NOTE))
    wrong = [r for r in records if r.max_rel_error > _WRONG]
    if wrong:
        names = ", ".join(dict.fromkeys(f"{r.path} ({r.n}x{r.k})" for r in wrong))
        notes.insert(0, (WRONG_MARK, f"the product is wrong, so its time means nothing: {names}"))
    return notes


def _of_kernel(record: KernelRecord) -> Sampled:
    name = f"{record.path} ({record.n}x{record.k}, m = {record.m})"
    return Sampled(name, record.interference, record.disturbed, record.sampling)


def _kernels(records: Sequence[KernelRecord]) -> list[str]:
    """Every kernel, ISA and arithmetic that ran, behind the paths that ran it."""
    uses: dict[tuple[str, str, str], dict[str, None]] = {}
    for r in records:
        uses.setdefault((r.kernel, r.isa, r.arithmetic), {})[r.path] = None
    return [
        f"{', '.join(paths)}: {kernel} ({isa}, {arithmetic})"
        for (kernel, isa, arithmetic), paths in uses.items()
    ]


def _interval(record: KernelRecord) -> Interval:
    low, high = record.ci95_ns or (None, None)
    return Interval(median=record.median_ns, low=low, high=high)


def _ratio(record: KernelRecord, records: Sequence[KernelRecord], baseline: str) -> float | None:
    """The baseline's median in the same comparison over the record's; None where it is missing."""
    for other in records:
        if other.path == baseline and _case(other) == _case(record):
            return other.median_ns / record.median_ns
    return None


def _or_missing(value: float | None, form: str) -> str:
    return MISSING if value is None else form.format(value)
