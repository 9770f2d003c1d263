"""Tables of quality from records made by hand: what is worse, what cannot be told."""

from __future__ import annotations

import csv
import io
from typing import Any

import numpy as np
import pytest

from sllmbench.cli.display import lines
from sllmbench.measure.quality.intervals import mean, proportion
from sllmbench.record import MachineFacts, Metric, QualityRecord
from sllmbench.report import quality

MACHINE = MachineFacts(
    cpu_model="a processor", cores=2, memory_bytes=1 << 34, isas=("avx2",), os="Linux", libraries={}
)


def make_record(path: str, metrics: tuple[Metric, ...], **changed: Any) -> QualityRecord:
    fields = {
        "run_id": "r",
        "created_utc": "2026-01-01T00:00:00.000+00:00",
        "sllmbench_version": "0.1.0",
        "machine": MACHINE,
        "commit": None,
        "model": "a-model",
        "provenance": "weights of a test",
        "path": path,
        "format": "float32",
        "kernel": "k",
        "isa": "avx2",
        "arithmetic": "float32",
        "threads": 2,
        "lm_head": "float32",
        "weights_bytes": 1,
        "task": "social_iqa",
        "data": "100 questions",
        "definition": "a prompt",
        "notes": (),
        "reference": "fp32",
        "seed": None,
        "seconds": 1.5,
        "metrics": metrics,
        "samples": {},
    }
    return QualityRecord(**(fields | changed))


def hits(n_right: int, first: int = 0) -> np.ndarray[Any, Any]:
    made = np.zeros(100, bool)
    made[first : first + n_right] = True
    return made


def share(own: np.ndarray[Any, Any], base: np.ndarray[Any, Any] | None) -> Metric:
    return proportion("acc", own, base, counted="questions", chance=1 / 3)


@pytest.fixture
def records() -> list[QualityRecord]:
    base, values = hits(50), np.linspace(2, 4, 100)
    lower = mean("perplexity", 3.0, values, None, counted="tokens", higher_is_better=False)
    noise = values + np.tile([0.4, -0.38], 50)
    higher = mean(
        "perplexity", 3.01, noise, (3.0, values), counted="tokens", higher_is_better=False
    )
    surely = mean(
        "perplexity",
        2.6,
        values * 0.85,
        (3.0, values),
        counted="tokens",
        higher_is_better=False,
    )
    return [
        make_record("fp32", (share(base, None), lower)),
        make_record("int8", (share(hits(48), base), higher)),
        make_record("int4", (share(hits(30), base), surely), notes=("something was left out",)),
    ]


def test_the_verdict_is_of_the_paired_difference(records: list[QualityRecord]) -> None:
    text = quality.markdown(records).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in text if "|" in line]
    header, _, *rows = cells
    verdicts = {(row[1], index < 3): row[header.index("verdict")] for index, row in enumerate(rows)}
    assert verdicts == {
        ("fp32", True): "–",
        ("int8", True): "cannot tell",  # two lost of a hundred
        ("int4", True): "worse",
        ("fp32", False): "–",
        ("int8", False): "cannot tell",
        ("int4", False): "better",  # lower is better
    }
    assert rows[2][header.index("gained, lost")] == "0, 20"
    assert rows[0][0] == "acc"
    assert rows[1][0] == ""
    assert rows[0][2] == "50.0%"
    assert rows[4][4] == "+0.01000"


def test_notes_say_what_was_counted(records: list[QualityRecord]) -> None:
    text = quality.markdown(records)
    for part in ("100 questions", "a prompt", "chance** 0.333", "something was left out", "1.5"):
        assert part.replace("1.5", "2 s") in text
    assert "McNemar" in text


@pytest.mark.parametrize(
    ("width", "kept", "left_out"),
    [(40, "50.0%", "verdict "), (80, "cannot tell", "gained"), (160, "gained, lost", "…\n")],
)
def test_a_narrow_terminal_keeps_the_figures(
    records: list[QualityRecord],
    width: int,
    kept: str,
    left_out: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    text = "\n".join(lines(lambda width: quality.table(records, width)))
    table = text[: text.index("\n\n")]
    assert kept in table
    assert left_out not in table


def test_a_single_path_has_no_columns_of_differences(records: list[QualityRecord]) -> None:
    text = quality.markdown(records[:1])
    assert "verdict" not in text
    assert "McNemar" not in text


def test_csv_has_a_figure_a_row(records: list[QualityRecord]) -> None:
    rows = list(csv.DictReader(io.StringIO(quality.csv(records))))
    assert [(row["path"], row["name"]) for row in rows] == [
        (record.path, metric.name) for record in records for metric in record.metrics
    ]
    assert rows[0]["difference_p_value"] == ""
    assert float(rows[4]["difference_value"]) == pytest.approx(-0.2)
    assert rows[4]["difference_n_lost"] == "20"
