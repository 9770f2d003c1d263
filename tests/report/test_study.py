"""A study's table from records made by hand: what is slower says so, whatever the row is called."""

from __future__ import annotations

import csv
import io
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sllmbench.cli.display import lines
from sllmbench.measure.quality.intervals import mean, proportion
from sllmbench.measure.statistics import median_interval
from sllmbench.record import Conversion, Metric, QualityRecord, Record, Samples, Study, StudyRow
from sllmbench.report import study as report
from sllmbench.report.study_verdicts import compare_speed, conclusions, gather

STORED = json.loads((Path(__file__).parents[1] / "data" / "run.json").read_text())[0]
BASE = Record.model_validate(STORED)
QUIET = BASE.interference[0].model_copy(update={"causes": ()})
NOISY = QUIET.model_copy(update={"causes": ("steal: 9%",)})
PATHS = ("fp32", "bf16", "gptq", "unfused-gptq", "awq", "unfused-awq")
KERNELS = {"gptq": "int4_int8", "awq": "int4_int8"}
ROUNDS = 6


def timed(path: str, decode_tps: float, prefill_tps: float = 900, **fields: Any) -> Record:
    """Six rounds around a speed; the noise differs from path to path, and not from run to run."""
    noise = random.Random(path)

    def durations(tokens: int, tps: float) -> tuple[int, ...]:
        each = tokens * 1e9 / tps
        return tuple(int(each * noise.uniform(0.98, 1.02)) for _ in range(ROUNDS))

    samples = Samples(
        prefill_ns=durations(BASE.n_prompt, prefill_tps),
        decode_ns=durations(BASE.n_gen, decode_tps),
    )
    kernel = KERNELS.get(path, "torch expand + torch.linear" if "unfused" in path else "torch")
    made = {
        "path": path,
        "kernel": kernel,
        "samples": samples,
        "prefill_tps": median_interval([BASE.n_prompt * 1e9 / ns for ns in samples.prefill_ns]),
        "decode_tps": median_interval([BASE.n_gen * 1e9 / ns for ns in samples.decode_ns]),
        "interleaved_with": tuple(other for other in PATHS if other != path),
        "interference": (QUIET,) * ROUNDS,
        "n_disturbed": 0,
        "disturbed": False,
        "quality": None,
        "perplexity": None,
        "quality_reason": "not asked for",
    }
    return BASE.model_copy(update=made | fields)


def scored(path: str, task: str, metric: Metric) -> QualityRecord:
    names = ("run_id", "created_utc", "sllmbench_version", "machine", "commit", "model", "kernel")
    same = {name: getattr(BASE, name) for name in (*names, "provenance", "format", "isa")}
    return QualityRecord(
        **same,
        path=path,
        arithmetic="exact",
        threads=2,
        lm_head="float32",
        weights_bytes=1,
        task=task,
        data="100 questions, the packaged ones",
        definition="a prompt",
        notes=(),
        reference="fp32",
        seed=None,
        seconds=1.0,
        metrics=(metric,),
        samples={},
    )


def hits(n_right: int) -> Any:
    return np.arange(100) < n_right


def answered(path: str, n_right: int, chance: float = 0.33) -> QualityRecord:
    base = None if path == "fp32" else hits(50)
    metric = proportion("acc_norm", hits(n_right), base, counted="questions", chance=chance)
    return scored(path, "social_iqa", metric)


def read(path: str, worse_by: float) -> QualityRecord:
    nll = np.random.default_rng(1).normal(30, 5, 400)
    own = nll + worse_by + np.random.default_rng(len(path)).normal(0, 0.5, 400)
    base = None if path == "fp32" else (30.0, nll)
    value = 30.0 + (0 if base is None else worse_by)
    metric = mean("perplexity", value, own, base, counted="tokens", higher_is_better=False)
    return scored(path, "perplexity:owt", metric)


def made_study(**changes: Any) -> Study:
    made = Conversion(
        folder="out/gptq",
        kind="gptq",
        settings={"method": "gptq", "bits": 4, "group_size": 64, "sym": True, "desc_act": False},
        calibration={"source": "owt", "samples": 64, "sequence_length": 512, "seed": 0},
        stored_bytes=90_000_000,
        error_of="outputs",
        median_error=0.08,
        worst_error=0.2,
        worst_linear="model.layers.3.mlp.down_proj",
    )
    rows = [StudyRow(weights="vanilla", way=p, path=p, model="m") for p in PATHS[:2]]
    for method in ("gptq", "awq"):
        weights, model = method.upper(), f"out/{method}"
        for way, path in (("fused", method), ("unfused", f"unfused-{method}")):
            rows.append(StudyRow(weights=weights, way=way, path=path, model=model))
    fields: dict[str, Any] = {
        "model": "m",
        "rows": tuple(rows),
        "tasks": ("perplexity:owt", "social_iqa"),
        "limit": None,
        "conversions": {"GPTQ": made},
    }
    return Study(**(fields | changes))


STUDY = made_study()
SPEEDS = {"fp32": 20, "bf16": 30, "gptq": 90, "unfused-gptq": 4, "awq": 25, "unfused-awq": 3}
RUNS = [timed(path, tps) for path, tps in SPEEDS.items()]
QUALITY = [
    *[read(path, 0.0 if path in ("fp32", "bf16") else 3.0) for path in PATHS],
    *[answered(path, 49 if "gptq" in path else 50) for path in PATHS],
]


def text(runs: Any = RUNS, quality: Any = QUALITY, study: Study = STUDY) -> list[str]:
    return lines(lambda width: report.table(study, runs, quality, width))


def paragraph(found: list[str]) -> str:
    return " ".join(" ".join(found).split())


def test_all_fits_80_columns_and_no_column_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    found = text()
    assert max(map(len, found)) <= 80
    for title in ("perplexity", "social_iqa %", "t/s", "× fp32", "weights MB", "peak RSS MB"):
        assert any(title in line for line in found), title
    monkeypatch.setenv("COLUMNS", "200")
    wide = text()
    assert sum("GPTQ unfused" in line and "torch expand" in line for line in wide) >= 1
    header = next(line for line in wide if "perplexity" in line and "kernel" in line)
    assert "peak RSS MB" in header


def test_a_slower_row_says_so_and_only_a_faster_one_is_called_faster() -> None:
    found = gather(STUDY, RUNS, QUALITY)
    decode = conclusions(found)[0]
    assert decode == (
        "decode: faster than every vanilla row: GPTQ fused;"
        " SLOWER than a vanilla row: GPTQ unfused, AWQ fused, AWQ unfused"
    )
    whole = paragraph(text())
    assert "faster than vanilla fp32: 1.2" in whole  # AWQ fused beside the slow baseline
    assert "SLOWER than vanilla bf16: 0.8" in whole  # and beside the better one
    assert "the kernel is another (torch expand + torch.linear); decode: SLOWER than GPTQ" in whole


def test_page_faults_explain_an_expansion_that_is_slower_than_it_need_be() -> None:
    def faulting(record: Record, *faults: int | None) -> Record:
        seen = tuple(QUIET.model_copy(update={"minor_faults": count}) for count in faults)
        return record.model_copy(update={"interference": seen})

    fused = faulting(RUNS[4], 2_000, 3_000, None, 3_000, 4_000, 3_000)
    unfused = faulting(RUNS[5], 24_000_000, *[20_000_000] * 5)
    told = "page faults a repetition: 20,000,000 against 3,000, so the expanded weights went"
    assert told in paragraph(text([*RUNS[:4], fused, unfused]))
    few, unread = faulting(RUNS[5], *[9_000] * 6), faulting(RUNS[5], *[None] * 6)
    for other in (few, unread):
        assert "page faults" not in paragraph(text([*RUNS[:4], fused, other]))


def test_the_papers_own_table_cannot_conclude_that_it_is_faster() -> None:
    slow = {"fp32": 26.15, "bf16": 26, "gptq": 8.72, "unfused-gptq": 8.7, "awq": 13.9}
    runs = [timed(path, tps, prefill_tps=10 * tps) for path, tps in slow.items()]
    found = gather(STUDY, runs, QUALITY)
    for line in conclusions(found)[:2]:
        assert "no quantised row is shown to be faster than every vanilla row" in line
        assert "SLOWER than a vanilla row: GPTQ fused, GPTQ unfused, AWQ fused" in line
    assert "not timed: AWQ unfused" in paragraph(text(runs))


@pytest.mark.parametrize("rounds", [1, 5])
def test_too_few_rounds_show_nothing(rounds: int) -> None:
    def few(record: Record) -> Record:
        kept = {
            name: getattr(record.samples, name)[:rounds] for name in ("prefill_ns", "decode_ns")
        }
        return record.model_copy(
            update={"samples": Samples(**kept), "interference": (QUIET,) * rounds}
        )

    fp32, gptq = few(RUNS[0]), few(RUNS[2])
    assert compare_speed(fp32, gptq, "decode").word == "cannot tell"
    assert "more rounds would tell" in compare_speed(fp32, gptq, "decode").said()


def test_rows_timed_apart_are_compared_as_two_runs() -> None:
    fp32, gptq = (r.model_copy(update={"interleaved_with": ()}) for r in (RUNS[0], RUNS[3]))
    speed = compare_speed(fp32, gptq, "decode")
    assert speed.word == "slower"
    assert speed.verdict.effect is not None
    assert speed.verdict.effect.unit == "block"


def test_disturbed_rounds_of_either_row_do_not_count() -> None:
    many = [timed(path, tps) for path, tps in (("fp32", 20), ("gptq", 40))]
    both = {"samples": None, "interference": None}
    doubled = []
    for place, record in enumerate(many):
        ns = record.samples.decode_ns
        wild = tuple(9 * n for n in ns) if place else ns  # a disturbed GPTQ looks slow
        both = {
            "samples": Samples(prefill_ns=record.samples.prefill_ns * 2, decode_ns=ns + wild),
            "interference": (QUIET,) * ROUNDS + ((NOISY if place else QUIET),) * ROUNDS,
        }
        doubled.append(record.model_copy(update=both))
    speed = compare_speed(doubled[0], doubled[1], "decode")
    assert speed.word == "faster"
    assert speed.verdict.effect is not None
    assert speed.verdict.effect.base_units == ROUNDS


def test_quality_says_what_is_worse_and_what_is_noise() -> None:
    found = gather(STUDY, RUNS, QUALITY)
    rows = ("GPTQ fused", "GPTQ unfused", "AWQ fused", "AWQ unfused")
    listed = ", ".join(f"{row} (perplexity)" for row in rows)
    assert conclusions(found)[-1] == f"quality against vanilla fp32: worse beyond noise: {listed}"
    whole = paragraph(text())
    assert "social_iqa -1.0% (95% -" in whole
    assert "%), within noise" in whole
    assert "perplexity +3.000 (95% +2.9" in whole
    assert "not beyond guessing" not in whole
    weak = [answered(path, 50, chance=0.5) for path in PATHS]
    assert "vanilla fp32 is not beyond guessing (0.5)" in paragraph(text(quality=weak))


def test_it_says_what_was_counted_and_that_a_look_was_quick() -> None:
    whole = paragraph(text(study=made_study(limit=16)))
    for said in (
        "16 questions of each task, keys of each length: a quick look",
        "social_iqa: acc_norm, 100 questions; 100 questions, the packaged ones; a prompt",
        "4 bits, groups of 64, symmetric, calibrated on owt, 64 × 512 tokens",
        "median 0.080, worst 0.200 in model.layers.3.mlp.down_proj",
        "90.0 MB on disk",
        "peak RSS is of one process a row, so it has no interval",
        "peak RSS: from before loading to the last timing",
        BASE.machine.cpu_model,
    ):
        assert said in whole, said
    assert "none: every packaged question" in paragraph(text())


def test_markdown_has_the_whole_table_and_csv_and_json_every_figure() -> None:
    table = report.markdown(STUDY, RUNS, QUALITY).splitlines()
    header = next(line for line in table if line.startswith("| row"))
    assert header.count("|") == 11
    assert "| kernel |" in header
    rows = list(csv.DictReader(io.StringIO(report.csv(STUDY, RUNS, QUALITY))))
    slow = [r for r in rows if r["row"] == "AWQ fused" and r["figure"] == f"tg{BASE.n_gen}"]
    assert [(r["against"], r["verdict"]) for r in slow] == [
        ("vanilla fp32", "faster"),
        ("vanilla bf16", "slower"),
    ]
    assert all(float(r["change_low"]) < float(r["change"]) < float(r["change_high"]) for r in slow)
    peaks = [r for r in rows if r["figure"] == "peak RSS"]
    assert len(peaks) == len(PATHS)
    assert {r["interval"] for r in peaks} == {"none: one process, measured once"}
    assert all(r["interval"] and r["n"] and r["counted"] for r in rows)
    whole = json.loads(report.json(STUDY, RUNS, QUALITY))
    assert len(whole["figures"]) == len(rows)
    assert whole["conclusions"] == conclusions(gather(STUDY, RUNS, QUALITY))
    assert len(whole["runs"]) == len(PATHS)


def test_a_study_that_has_measured_nothing_yet_still_prints() -> None:
    assert "not timed: vanilla fp32, vanilla bf16, GPTQ fused" in paragraph(text([], []))
    assert report.csv(STUDY, [], []) == ""
