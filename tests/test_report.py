"""Reports from stored records: they fit, they say against what, and they lose nothing."""

from __future__ import annotations

import csv
import io
import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from sllmbench import report
from sllmbench.record import Energy, Interval, LayerKernel, PhaseMemory, Record
from sllmbench.report.columns import number, ratio_title, spread
from sllmbench.report.notes import notes

DATA = Path(__file__).parent / "data"
RECORDS = [Record.model_validate(r) for r in json.loads((DATA / "run.json").read_text())]
FP32, OTHERS = RECORDS[0], RECORDS[1:]
ISSUE_FIELDS = (
    "path",
    "kernel",
    "isa",
    "device",
    "format",
    "model",
    "n_prompt",
    "n_gen",
    "prefill_tps",
    "decode_tps",
    "ttft_ns",
    "tpot_ns",
    "load_ns",
    "weights_bytes",
    "peak_rss_bytes",
    "prefill_energy",
    "decode_energy",
    "memory",
    "perplexity",
    "kl_divergence",
    "top1_agreement",
    "samples",
)


def changed(record: Record, **fields: Any) -> Record:
    """A copy with other fields, checked as a new record is."""
    return Record.model_validate({**record.model_dump(), **fields})


def rendered(records: list[Record], reference: str = "fp32", width: int = 80) -> list[str]:
    console = Console(file=io.StringIO(), width=width, color_system=None, highlight=False)
    console.print(report.table(records, reference, width))
    assert isinstance(console.file, io.StringIO)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def note(records: list[Record], label: str, reference: str = "fp32") -> str:
    return " / ".join(text for name, text in notes(records, reference) if name == label)


def rows_of(lines: list[str], path: str) -> list[str]:
    names = (line.lstrip("*† ").split(" ")[0] for line in lines)
    return [line for line, name in zip(lines, names, strict=True) if name == path]


def joules(energy_j: float, j_per_token: float) -> dict[str, Any]:
    return {
        **dict.fromkeys(Energy.model_fields),
        "energy_j": energy_j,
        "uncertainty_j": energy_j / 50,
        "j_per_token": j_per_token,
        "source": "RAPL package-0",
        "windows_j": (energy_j,),
        "domains_j": {"package-0": energy_j},
    }


def no_energy(reason: str) -> dict[str, Any]:
    return {
        **dict.fromkeys(Energy.model_fields),
        "windows_j": (),
        "domains_j": {},
        "reason": reason,
    }


LONG = changed(
    OTHERS[0],
    path="torch:int4pack-g128",
    prefill_tps=Interval(median=123456.7, low=1.0, high=987654.3),
    decode_tps=Interval(median=98765.4, low=98000.1, high=99999.9),
    ttft_ns=Interval(median=9.9e12, low=9.8e12, high=9.99e12),
    tpot_ns=Interval(median=8.8e9, low=1.0, high=8.9e9),
    weights_bytes=987_654_321_000,
    peak_rss_bytes=987_654_321_000,
    prefill_energy=joules(12345.6, 1234.5),
    decode_energy=joules(12345.6, 1234.5),
)


@pytest.mark.parametrize("width", [80, 100, 160])
@pytest.mark.parametrize("records", [RECORDS, [*RECORDS, LONG]], ids=["usual", "long"])
def test_fits_the_terminal_without_wrapped_cells(records: list[Record], width: int) -> None:
    lines = rendered(records, width=width)
    assert max(map(len, lines)) <= width
    for record in records:
        first, second = rows_of(lines, record.path)[:2]
        assert len(first.split()) > 3
        assert len(second.split()) > 2
    # Two tables of a header and its rows with nothing between, or cells have been wrapped.
    assert lines.index("") == len(records) + 1
    assert lines.index("", len(records) + 2) == 2 * (len(records) + 1) + 1


def test_80_columns_show_what_a_user_came_for() -> None:
    lines = rendered(RECORDS)
    header = f"{lines[0]} {lines[len(RECORDS) + 2]}"
    for title in ("pp32 t/s", "tg8 t/s", "TTFT ms", "TPOT ms", "weights MB", "peak RSS MB"):
        assert title in header
    for title in ("perplexity", "KL nats", "top-1", "× fp32"):
        assert title in header


def test_a_wider_terminal_shows_more() -> None:
    assert "kernel" not in rendered(RECORDS)[0]
    assert "kernel" in rendered(RECORDS, width=160)[0]


def test_numbers_are_right_aligned() -> None:
    table = rendered(RECORDS)[: len(RECORDS) + 1]
    end = table[0].index("tg8 t/s") + len("tg8 t/s")
    for line in table[1:]:
        assert line[end - 1].isdigit()
        assert line[end : end + 1] in ("", " ")


def test_ratios_are_of_medians_and_name_their_row() -> None:
    int8 = next(r for r in RECORDS if r.path == "int8")
    assert FP32.decode_tps is not None
    assert int8.decode_tps is not None
    ratio = f"{int8.decode_tps.median / FP32.decode_tps.median:.2f}"
    lines = rendered(RECORDS)
    assert ratio in rows_of(lines, "int8")[0]
    assert "1.00" in rows_of(lines, "fp32")[0]
    assert note(RECORDS, "ratios") == "× fp32: the row's figure divided by fp32's"
    assert ratio_title("torch:int4pack") == "× ref"
    text = note([changed(r, path=f"long-{r.path}") for r in RECORDS], "ratios", "long-fp32")
    assert text == "× ref: the row's figure divided by long-fp32's"


def test_without_the_reference_no_ratio_is_shown() -> None:
    lines = rendered(OTHERS)
    assert "–" in rows_of(lines, "int8")[0].split()
    assert note(OTHERS, "ratios") == "× fp32 cannot be given: fp32 was not measured"


@pytest.mark.parametrize(
    ("interval", "text"),
    [
        (Interval(median=312.4, low=309.0, high=313.1), "312 ±4"),
        (Interval(median=31.24, low=31.20, high=31.31), "31.2 ±0.1"),
        (Interval(median=9.996, low=9.99, high=10.0), "10.0 ±0.1"),
        (Interval(median=5.0, low=5.0, high=5.0), "5.00 ±0.00"),
        (Interval(median=0.01234, low=0.01234, high=0.0124), "0.0123 ±0.0001"),
        (Interval(median=12345.0, low=None, high=None), "12345"),
        (None, "–"),
    ],
)
def test_spread_is_the_farther_end_rounded_up(interval: Interval | None, text: str) -> None:
    assert spread(interval) == text


@given(median=st.floats(1e-3, 1e6), down=st.floats(0, 0.5), up=st.floats(0, 0.5))
def test_spread_covers_the_interval(median: float, down: float, up: float) -> None:
    low, high = median * (1 - down), median * (1 + up)
    shown, around = map(float, spread(Interval(median=median, low=low, high=high)).split(" ±"))
    last_digit = 0.5 * 10 ** -len(number(median).partition(".")[2])
    assert shown - around - 1.001 * last_digit <= low
    assert high <= shown + around + 1.001 * last_digit


AXES = st.one_of(st.none(), st.integers(1, 4))


@given(st.lists(st.tuples(st.integers(1, 4), AXES, AXES), min_size=1, max_size=7))
def test_pareto_by_brute_force(points: list[tuple[int, int | None, int | None]]) -> None:
    records = [
        FP32.model_copy(
            update={
                "path": f"p{index}",
                "decode_tps": Interval(median=speed, low=None, high=None),
                "peak_rss_bytes": rss,
                "perplexity": perplexity,
            }
        )
        for index, (speed, rss, perplexity) in enumerate(points)
    ]
    used = [axis for axis in range(3) if any(p[axis] is not None for p in points)]
    sign = (-1, 1, 1)
    costs = {
        f"p{i}": [sign[a] * value for a in used if (value := p[a]) is not None]
        for i, p in enumerate(points)
        if all(p[axis] is not None for axis in used)
    }
    frontier = set(costs)
    for mine, theirs in itertools.permutations(costs, 2):
        pairs = list(zip(costs[mine], costs[theirs], strict=True))
        if all(t <= m for m, t in pairs) and any(t < m for m, t in pairs):
            frontier.discard(mine)
    assert report.pareto(records) == [path for path in costs if path in frontier]


def test_a_difference_within_noise_costs_no_mark() -> None:
    def row(path: str, tps: tuple[float, float, float], rss: int, perplexity: float) -> Record:
        low, median, high = tps
        return FP32.model_copy(
            update={
                "path": path,
                "decode_tps": Interval(median=median, low=low, high=high),
                "peak_rss_bytes": rss,
                "perplexity": perplexity,
            }
        )

    ahead = row("ahead", (95, 101, 107), 950, 31.9)
    behind = row("behind", (94, 100, 106), 1000, 32.0)
    assert report.pareto([ahead, behind]) == ["ahead", "behind"]
    for clearly in (
        row("faster", (107, 110, 112), 950, 31.9),
        row("leaner", (95, 101, 107), 850, 31.9),
        row("better", (95, 101, 107), 950, 31.0),
    ):
        assert report.pareto([clearly, behind]) == [clearly.path]


def test_pareto_rows_are_marked_and_explained() -> None:
    best = report.pareto(RECORDS)
    assert 0 < len(best) < len(RECORDS)
    for record in RECORDS:
        marked = rows_of(rendered(RECORDS), record.path)[0].startswith("*")
        assert marked == (record.path in best)
    assert note(RECORDS, "*").startswith(
        "Pareto frontier of tg8 (higher), peak RSS (lower), perplexity (lower)"
    )


def test_pareto_says_what_is_left_out() -> None:
    no_quality = [changed(r, perplexity=None, quality=None, quality_reason="x") for r in RECORDS]
    assert "perplexity not measured" in note(no_quality, "*")
    one_without = [*RECORDS[:-1], changed(RECORDS[-1], peak_rss_bytes=None)]
    assert f"not judged: {RECORDS[-1].path}" in note(one_without, "*")
    assert RECORDS[-1].path not in report.pareto(one_without)


def test_missing_values_are_dashes_with_reasons() -> None:
    bare = [
        changed(
            r,
            tpot_ns=None,
            peak_rss_bytes=None,
            peak_rss_reason="the kernel hides it",
            perplexity=None,
            kl_divergence=None,
            top1_agreement=None,
            quality=None,
            quality_reason="random weights",
            prefill_energy=no_energy("no counter"),
            decode_energy=no_energy("no counter"),
        )
        for r in RECORDS
    ]
    lines = rendered(bare)
    assert rows_of(lines, "fp32")[0].split()[-1] == "–"
    assert "–" in rows_of(lines, "fp32")[1].split()
    assert "perplexity" not in lines[len(bare) + 2]
    assert "the kernel hides it" in note(bare, "memory")
    assert note(bare, "quality") == "not measured: random weights"
    assert note(bare, "energy") == "not measured: no counter"


def test_without_intervals_there_is_no_plus_minus() -> None:
    none = Interval(median=1.0, low=None, high=None)
    few = [
        changed(r, prefill_tps=none, decode_tps=none, ttft_ns=none, tpot_ns=none) for r in RECORDS
    ]
    assert not any("±" in line for line in rendered(few)[: len(few) + 1])
    assert "no 95% interval" in note(few, "timing")
    assert "no 95% interval" not in note(RECORDS, "timing")


def test_incomplete_rows_are_marked() -> None:
    stopped = changed(
        RECORDS[1], complete=False, quality=None, perplexity=None, quality_reason="interrupted"
    )
    records = [FP32, stopped]
    assert rows_of(rendered(records), stopped.path)[0].startswith("†")
    repetitions = len(stopped.samples.decode_ns)
    assert note(records, "†") == f"{stopped.path}: {repetitions} repetitions, then interrupted"


def test_disturbed_rows_are_marked_and_said() -> None:
    assert not any("~" in line for line in rendered(RECORDS))
    seen = [what.model_dump() for what in RECORDS[0].interference]
    seen[2]["causes"] = ("other processes: 40% of the processors",)
    records = [changed(RECORDS[0], interference=seen, n_disturbed=1, disturbed=True), *RECORDS[1:]]
    lines = rendered(records)
    assert sum(line.startswith("~") and RECORDS[0].path in line[:12] for line in lines) == 2
    assert "fewer than six" in note(records, "~")
    assert any("disturbed, yet taken" in line for line in lines)


def test_energy_gets_its_columns_by_phase() -> None:
    measured = [
        changed(r, prefill_energy=joules(9.0, 0.0123), decode_energy=joules(90.0, 0.456))
        for r in RECORDS
    ]
    lines = rendered(measured, width=160)
    titles = lines[len(RECORDS) + 2]
    assert "tg8 J/token  pp32 J/token" in titles
    assert "0.456        0.0123" in rows_of(lines, "int8")[1]
    assert "J/token" not in rendered(RECORDS)[len(RECORDS) + 2]
    assert note(measured, "energy") == (
        "J/token: RAPL package-0; the sensor's steps leave pp32 ±2.0%, tg8 ±2.0%"
    )


def test_a_phase_without_energy_has_its_reason() -> None:
    half = [changed(r, decode_energy=joules(9.0, 0.1)) for r in RECORDS]
    lines = rendered(half)
    assert "pp32 J/token" not in lines[len(RECORDS) + 2]
    assert note(half, "energy").startswith("J/token: RAPL package-0; ")
    assert "not measured of pp32: a virtual machine" in note(half, "energy")


def test_the_cache_and_mapped_files_are_told() -> None:
    def phase(name: str, kv_cache_bytes: int | None, mapped: int, resident: int) -> dict[str, Any]:
        return {
            **dict.fromkeys(PhaseMemory.model_fields),
            "phase": name,
            "kv_cache_bytes": kv_cache_bytes,
            "file_mapped_bytes": mapped,
            "file_resident_bytes": resident,
        }

    memory = [phase("load", None, 90_000_000, 0), phase("decode", 2_500_000, 90_000_000, 4_000_000)]
    text = note([changed(FP32, memory=memory), OTHERS[0]], "memory")
    assert "KV cache of up to 40 tokens: 2.50 MB" in text
    assert "mapped from files: fp32: 90.0 MB, 4.00 MB of it resident at the end" in text
    assert "KV cache" not in note(RECORDS, "memory")


def test_kernels_are_told_layer_by_layer_where_they_differ() -> None:
    def use(kernel: str, stored: str, *layers: str) -> LayerKernel:
        return LayerKernel(
            kernel=kernel, isa="avx2", arithmetic="int8", format=stored, layers=layers
        )

    mixed = changed(
        FP32,
        layer_kernels=[
            use("gemv", "q4_1", "a", "b"),
            use("gemm", "q4_1", "a", "b"),
            use("gemv", "q8_0", "lm_head"),
        ],
    )
    assert note([mixed], "kernels") == (
        "gemm+gemv (avx2, int8) on q4_1 in 2 layers; gemv (avx2, int8) on q8_0 in lm_head"
    )


def test_quality_says_how_it_was_defined() -> None:
    quality = FP32.quality
    assert quality is not None
    text = note(RECORDS, "quality")
    for part in (
        quality.text,
        str(quality.n_tokens),
        f"context {quality.context}",
        f"stride {quality.stride}",
        "standard error",
        "KL(fp32 ‖ row)",
    ):
        assert part in text


def test_waves_that_were_timed_apart_are_told() -> None:
    apart = [changed(r, interleaved_with=()) for r in RECORDS]
    assert "timed apart" in note(apart, "timing")
    assert "taking turns" in note(RECORDS, "timing")


def test_libraries_of_another_interpreter_are_told() -> None:
    first, second, *_ = RECORDS
    machine = second.machine.model_copy(
        update={"libraries": first.machine.libraries | {"torch": "1.0", "auto-gptq": "0.7.1"}}
    )
    other = second.model_copy(update={"machine": machine})
    text = report.markdown([first, other], first.path)
    assert f"{second.path}: torch 1.0, auto-gptq 0.7.1" in text
    assert "torch 1.0" not in report.markdown([first, second], first.path)


def test_json_round_trip() -> None:
    whole = json.loads(report.json(FP32.machine, RECORDS, "fp32"))
    assert set(whole) == {"machine", "records", "pareto", "reference"}
    assert whole["machine"]["cpu_model"] == FP32.machine.cpu_model
    assert whole["pareto"] == report.pareto(RECORDS)
    for flat, record in zip(whole["records"], RECORDS, strict=True):
        assert set(ISSUE_FIELDS) <= set(flat)
        assert unflattened(flat) == record


def test_jsonl_round_trip() -> None:
    lines = report.jsonl(RECORDS).splitlines()
    assert [unflattened(json.loads(line)) for line in lines] == RECORDS


def test_csv_round_trip() -> None:
    rows = list(csv.DictReader(io.StringIO(report.csv(RECORDS))))
    assert len(rows) == len(RECORDS)
    for row, record in zip(rows, RECORDS, strict=True):
        flat: dict[str, Any] = {}
        for name, value in report.flat(record).items():
            text = row[name]
            if isinstance(value, dict | list | bool | int | float):
                flat[name] = json.loads(text if not isinstance(value, bool) else text.lower())
            else:
                flat[name] = text or None
        assert unflattened(flat) == record


def unflattened(flat: dict[str, Any]) -> Record:
    fields = dict(flat)
    for name in ("prefill_tps", "decode_tps", "ttft_ns", "tpot_ns"):
        low, high = fields.pop(f"{name}_low"), fields.pop(f"{name}_high")
        if fields[name] is not None:
            fields[name] = {"median": fields[name], "low": low, "high": high}
    return Record.model_validate(fields)


def test_markdown_tables_are_well_formed() -> None:
    piped = changed(RECORDS[1], kernel="a|b")
    text = report.markdown([FP32, piped], "fp32")
    tables = text.split("\n\n")[:2]
    for table in tables:
        lines = table.splitlines()
        assert len(lines) == 4
        counts = {line.replace("\\|", "").count("|") for line in lines}
        assert len(counts) == 1
        assert set(lines[1]) <= set("|:-")
    assert "- **machine** " in text


def test_reading_records_needs_nothing_heavy() -> None:
    script = "import sys, sllmbench.report; print('torch' in sys.modules, 'scipy' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-P", "-c", script], check=True, capture_output=True, text=True
    )
    assert done.stdout.split() == ["False", "False"]
