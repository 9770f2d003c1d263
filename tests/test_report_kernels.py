"""Kernel reports from stored records: they fit, they say against what, and they lose nothing."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from sllmbench.record import KernelRecord, MachineFacts
from sllmbench.report import kernels

STORED = json.loads((Path(__file__).parent / "data" / "kernel.json").read_text())
RECORDS = [KernelRecord.model_validate(r) for r in STORED["records"]]
MACHINE = MachineFacts.model_validate(STORED["machine"])
BASELINE, MISSING = STORED["baseline"], STORED["missing"]
COMPARISONS = 4
ISSUE_FIELDS = (
    *("path", "kernel", "isa", "arithmetic", "n", "k", "m", "threads", "cache", "median_ns"),
    *("ci95_ns", "samples_ns", "gbs", "gflops", "roof_fraction", "bound", "max_rel_error", "ratio"),
)


def changed(record: KernelRecord, **fields: Any) -> KernelRecord:
    return KernelRecord.model_validate({**record.model_dump(), **fields})


def rendered(records: list[KernelRecord], width: int = 80, baseline: str = BASELINE) -> list[str]:
    console = Console(file=io.StringIO(), width=width, color_system=None, highlight=False)
    console.print(kernels.table(MACHINE, records, baseline, MISSING, width))
    assert isinstance(console.file, io.StringIO)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


@pytest.mark.parametrize("width", [80, 100, 200])
def test_fits_the_terminal_without_wrapped_cells(width: int) -> None:
    lines = rendered(RECORDS, width)
    assert max(map(len, lines)) <= width
    start = 0
    for _ in range(COMPARISONS):  # a title, a header, a row a record, an empty line
        end = lines.index("", start)
        title, header, *rows = lines[start:end]
        assert "m = " in title
        assert len({len(row.split()) for row in rows}) <= 3  # ± and a missing figure apart
        for name in ("path", "µs", "× base", "GB/s", "roof", "error"):
            assert name in header
        start = end + 1


def test_the_fastest_comes_first() -> None:
    lines = rendered(RECORDS)
    paths = [line.strip(" ~").split()[0] for line in lines[2 : lines.index("")]]
    compared = [r for r in RECORDS if (r.n, r.m) == (2048, 1)]
    assert paths == [r.path for r in sorted(compared, key=lambda r: r.median_ns)]


def test_ratios_are_of_the_same_comparison() -> None:
    flat = [kernels.flat(r, RECORDS, BASELINE) for r in RECORDS]
    for record, row in zip(RECORDS, flat, strict=True):
        (base,) = (r for r in RECORDS if r.path == BASELINE and (r.n, r.m) == (record.n, record.m))
        assert row["ratio"] == base.median_ns / record.median_ns
        assert row["baseline"] == BASELINE
    without = [r for r in RECORDS if r.path != BASELINE]
    assert all(kernels.flat(r, without, BASELINE)["ratio"] is None for r in without)
    assert " – " in "\n".join(rendered(without))


def test_json_has_every_field_and_what_could_not_run() -> None:
    whole = json.loads(kernels.json(MACHINE, RECORDS, BASELINE, MISSING))
    assert whole["missing"] == MISSING
    assert whole["machine"]["cpu_model"] == MACHINE.cpu_model
    for row, record in zip(whole["records"], RECORDS, strict=True):
        assert set(ISSUE_FIELDS) <= set(row)
        kept = {name: value for name, value in row.items() if name not in ("baseline", "ratio")}
        assert KernelRecord.model_validate_json(json.dumps(kept)) == record


def test_lines_and_rows_have_the_same_values() -> None:
    lines = [json.loads(line) for line in kernels.jsonl(RECORDS, BASELINE).splitlines()]
    rows = list(csv.DictReader(io.StringIO(kernels.csv(RECORDS, BASELINE))))
    for line, row, record in zip(lines, rows, RECORDS, strict=True):
        assert float(row["median_ns"]) == line["median_ns"] == record.median_ns
        assert tuple(json.loads(row["samples_ns"])) == record.samples_ns
    assert kernels.csv([], BASELINE) == ""


def test_markdown_has_a_table_a_comparison() -> None:
    text = kernels.markdown(MACHINE, RECORDS, BASELINE, MISSING)
    assert text.count("\n| path |") == COMPARISONS
    for record in RECORDS:
        assert f"{record.max_rel_error:.1e}" in text
    assert all(f"- **missing** {reason}" in text for reason in MISSING)


def test_a_wrong_product_is_marked_and_said() -> None:
    assert not any(line.startswith("!") for line in rendered(RECORDS))
    wrong = [changed(RECORDS[0], max_rel_error=0.9), *RECORDS[1:]]
    lines = rendered(wrong)
    assert sum(line.startswith(f"! {RECORDS[0].path}") for line in lines) == 1
    assert any("the product is wrong" in line for line in lines)


def test_notes_name_kernels_machine_and_what_could_not_run() -> None:
    text = " ".join(" ".join(rendered(RECORDS)).split())
    assert "int4-g128" in text
    assert f"({RECORDS[0].isa}, {RECORDS[0].arithmetic})" in text
    assert MACHINE.cpu_model in text
    for reason in MISSING:
        assert reason in text


def test_a_report_of_nothing_still_says_why() -> None:
    assert any("missing" in line for line in rendered([]))


def test_reports_are_made_without_hardware_or_torch() -> None:
    import subprocess
    import sys

    script = "import sys, sllmbench.report.kernels; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-P", "-c", script], capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr


def test_disturbed_medians_are_marked_and_said() -> None:
    quiet = [
        changed(
            r,
            disturbed=False,
            n_disturbed=0,
            interference=[{**w.model_dump(), "causes": ()} for w in r.interference],
        )
        for r in RECORDS
    ]
    assert not any(line.startswith("~") for line in rendered(quiet))
    first = quiet[0]
    causes = ("waiting for a processor: 9% of the time", "pages read from disk: 2")
    seen = [w.model_dump() for w in first.interference]
    seen[1]["causes"], seen[2]["causes"] = causes, causes[:1]
    partly = changed(first, n_disturbed=2, interference=seen)
    text = " ".join(" ".join(rendered([partly, *quiet[1:]])).split())
    assert (
        f"left out as disturbed: {first.path} ({first.n}x{first.k}, m = {first.m}) 2 of 9"
        " (waiting for a processor, pages read from disk)" in text
    )
    lines = rendered([changed(partly, disturbed=True), *quiet[1:]])
    assert sum(line.startswith(f"~ {first.path} ") for line in lines) == 1
    assert any(line.startswith("~") and "fewer than six" in line for line in lines)
    assert any("disturbed, yet taken" in line for line in lines)


def test_energy_stands_in_a_wide_table_where_a_sensor_told() -> None:
    known = [changed(r, energy_j_per_product=2.5e-6) for r in RECORDS]
    assert " µJ " in rendered(known, 200)[1] + " "
    assert "µJ" not in rendered(RECORDS, 200)[1]
