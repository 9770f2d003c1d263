"""Runs with real processes on a tiny model, and what a plan refuses before any of them starts."""

from __future__ import annotations

import json
import math
import os
import random
import signal
import statistics
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from sllmbench.bench import RunResult, execute, make_plan, run
from sllmbench.bench.plan import split_into_waves
from sllmbench.errors import InputError
from sllmbench.hardware import load
from sllmbench.store import Store

if TYPE_CHECKING:
    from pathlib import Path

MANY_BYTES = 1 << 40
ISSUE_FIELDS = {
    *("path", "kernel", "isa", "device", "format", "model", "n_prompt", "n_gen", "prefill_tps"),
    *("decode_tps", "ttft_ns", "tpot_ns", "load_ns", "weights_bytes", "peak_rss_bytes"),
    *("prefill_energy", "decode_energy", "perplexity", "kl_divergence", "top1_agreement"),
    *("memory", "samples"),
}


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    words = random.Random(1)
    file = tmp_path_factory.mktemp("text") / "words.txt"
    file.write_text(" ".join(f"w{words.randrange(1, 512)}" for _ in range(4000)))
    return file


@pytest.fixture(scope="module")
def told() -> list[tuple[str, float | None]]:
    return []


@pytest.fixture(scope="module")
def moving() -> list[int]:
    """How many of the paths' processes were not stopped as each turn began."""
    return []


def children_that_move(patience_s: float = 2.0) -> int:
    """Count our children that are not stopped; a stop takes a moment to arrive."""
    deadline = time.monotonic() + patience_s
    while True:
        trials = [p for p in psutil.Process().children() if "sllmbench.trial" in p.cmdline()]
        states = [trial.status() for trial in trials]
        count = sum(state != psutil.STATUS_STOPPED for state in states)
        if count == 0 or time.monotonic() > deadline:
            return count
        time.sleep(0.01)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store") / "records.sqlite"


@pytest.fixture(scope="module")
def result(
    tiny_llama: Path,
    text: Path,
    store: Path,
    told: list[tuple[str, float | None]],
    moving: list[int],
) -> RunResult:
    def note(what: str, fraction: float | None) -> None:
        told.append((what, fraction))
        if "timing" in what:
            moving.append(children_that_move())

    return run(
        str(tiny_llama),
        ["int8", "fp32"],
        n_prompt=16,
        n_gen=4,
        threads=1,
        eval_tokens=300,
        text=str(text),
        store=store,
        progress=note,
    )


def test_every_path_gets_a_complete_record(result: RunResult) -> None:
    assert [r.path for r in result.records] == ["fp32", "int8"]
    assert result.failures == ()
    assert not result.interrupted
    for record in result.records:
        assert record.complete
        assert record.provenance
        assert (record.n_prompt, record.n_gen, record.threads) == (16, 4, 1)
        assert record.device == "cpu"
        assert record.load_ns > 0
    assert result.records[0].interleaved_with == ("int8",)


def test_figures_follow_from_the_samples(result: RunResult) -> None:
    for record in result.records:
        samples = record.samples
        for values in (samples.prefill_ns, samples.ttft_ns, samples.itl_ns, samples.decode_ns):
            assert len(values) == 6
        assert len(record.interference) == 6
        assert record.disturbed == (record.n_disturbed > 0)  # five of six give no interval
        assert record.sampling.stopped_by == "rounds"
        assert record.prefill_tps is not None
        assert record.decode_tps is not None
        assert record.tpot_ns is not None
        rates = [16e9 / ns for ns in samples.prefill_ns]
        assert record.prefill_tps.median == pytest.approx(statistics.median(rates))
        assert (record.prefill_tps.low, record.prefill_tps.high) == (min(rates), max(rates))
        rates = [4e9 / ns for ns in samples.decode_ns]
        assert record.decode_tps.median == pytest.approx(statistics.median(rates))
        tpots = [sum(itl) / 3 for itl in samples.itl_ns]
        assert record.tpot_ns.median == pytest.approx(statistics.median(tpots))


def test_energy_is_joules_or_a_reason(result: RunResult) -> None:
    for record in result.records:
        for energy in (record.prefill_energy, record.decode_energy):
            if energy.energy_j is None:
                assert energy.reason
                assert energy.j_per_token is None
            else:
                assert len(energy.windows_j) == 6
                assert energy.energy_j == pytest.approx(sum(energy.windows_j))


def test_memory_is_told_phase_by_phase(result: RunResult) -> None:
    for record in result.records:
        load, prefill, decode = record.memory
        assert (load.phase, prefill.phase, decode.phase) == ("load", "prefill", "decode")
        assert load.kv_cache_bytes is None
        # Two layers of two key-value heads, 96 / 4 wide, keys and values in float32.
        a_token = 2 * 2 * 24 * 2 * 4
        assert prefill.kv_cache_bytes == 16 * a_token
        assert decode.kv_cache_bytes == (16 + 3) * a_token
        if record.peak_rss_bytes is not None:
            assert record.peak_rss_bytes >= max(p.peak_rss_bytes or 0 for p in record.memory)
        for phase in record.memory:
            assert (phase.pss_bytes is None) <= (phase.reason is not None)
            assert phase.cuda_allocated_bytes is None


def test_quality_is_against_the_reference(result: RunResult, text: Path) -> None:
    fp32, int8 = result.records
    assert fp32.kl_divergence is None
    assert fp32.quality is not None
    assert fp32.quality.text == text.name
    assert int8.quality is not None
    assert int8.quality.reference_path == "fp32"
    assert int8.quality.kl_reason is None
    assert int8.kl_divergence is not None
    assert 0 < int8.kl_divergence < 0.1
    assert int8.perplexity != fp32.perplexity


def test_records_are_in_the_store(result: RunResult, store: Path) -> None:
    with Store(store) as opened:
        assert opened.records() == list(result.records)


def test_kernels_that_ran_are_named(result: RunResult) -> None:
    fp32, int8 = result.records
    assert fp32.kernel.startswith("torch")
    assert int8.arithmetic == "int8"
    assert {use.format for use in int8.layer_kernels} == {"int8"}
    assert len({name for use in int8.layer_kernels for name in use.layers}) == 15


def test_progress_only_grows(result: RunResult, told: list[tuple[str, float | None]]) -> None:
    assert result.records
    steps = [what for what, _ in told]
    fractions = [fraction or 0 for _, fraction in told[steps.index("fp32: loading") :]]
    assert fractions == sorted(fractions)
    assert 0 <= fractions[0] < 0.9 < fractions[-1] <= 1
    for step in ("fp32: loading", "int8: timing 6/6", "fp32: quality", "int8: quality"):
        assert step in steps


def test_all_others_stand_still_during_a_turn(result: RunResult, moving: list[int]) -> None:
    assert result.records
    assert moving == [0] * 12


def test_turns_are_shuffled_the_same_way_for_a_seed(told: list[tuple[str, float | None]]) -> None:
    turns = [what for what, _ in told if "timing" in what]
    by_round = [tuple(sorted(turns[i : i + 2])) for i in range(0, 12, 2)]
    assert by_round == [(f"fp32: timing {n}/6", f"int8: timing {n}/6") for n in range(1, 7)]
    assert len({turn.partition(":")[0] for turn in turns[::2]}) == 2, "one path always went first"


def test_a_precision_takes_more_repetitions_until_the_time_is_up(
    tiny_llama: Path, tmp_path: Path
) -> None:
    for precision, seconds, stopped_by in ((0.9, 60, "precision"), (1e-6, 1, "time")):
        plan = a_plan(tiny_llama, ["int8"], quality=False, precision=precision, max_seconds=seconds)
        with Store(tmp_path / "s.sqlite") as store:
            (record,) = execute(plan, store).records
        assert record.sampling.stopped_by == stopped_by
        assert record.sampling.precision_asked == precision
        taken = len(record.samples.decode_ns)
        assert taken == len(record.samples.itl_ns) == len(record.interference)
        reached = record.sampling.precision_reached
        assert reached is not None
        assert (reached <= precision) == (stopped_by == "precision")


def test_the_smallest_run_and_a_store_that_fails(tiny_llama: Path, tmp_path: Path) -> None:
    sizes = {"n_prompt": 1, "n_gen": 1, "repetitions": 1, "threads": None}
    plan = a_plan(tiny_llama, ["int4-g32"], quality=False, **sizes)
    store = Store(tmp_path / "s.sqlite")
    store.close()  # every append fails from here on
    result = execute(plan, store)
    (record,) = result.records
    assert result.reference == "int4-g32"
    assert record.tpot_ns is None
    assert record.decode_tps is not None
    assert record.decode_tps.low is None
    assert (record.quality, record.quality_reason) == (None, "not asked for")
    assert record.interleaved_with == ()
    assert record.complete
    assert "path int4-g32 was not stored" in result.failures[0].message


def test_a_busy_machine_is_told_of() -> None:
    # Our own children are no disturbance: the shell ends, and what it began is no child of ours.
    spin = "import os\nprint(os.getpid(), flush=True)\nwhile True: pass"
    command = ["sh", "-c", '"$0" -c "$1" 2>/dev/null &', sys.executable, spin]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as shell:
        assert shell.stdout is not None
        pid = int(shell.stdout.readline())
        shell.wait()
        try:
            told = "; ".join(load.disturbances())
        finally:
            os.kill(pid, signal.SIGKILL)
    assert f"(process {pid}) took " in told


@pytest.mark.slow
def test_a_killed_child_leaves_the_others_running(
    tiny_llama: Path, text: Path, tmp_path: Path
) -> None:
    def kill_second(what: str, _: float | None) -> None:
        if what == "int8: timing 3/3":
            trials = sorted(psutil.Process().children(), key=lambda p: p.create_time())
            trials[-1].kill()

    with Store(tmp_path / "s.sqlite") as store:
        plan = a_plan(tiny_llama, ["fp32", "int8"], text=str(text), repetitions=3)
        result = execute(plan, store, kill_second)
        stored = store.records()
    (failure,) = result.failures
    assert failure.path == "int8"
    assert "path int8 failed: its process was killed by SIGKILL" in failure.message
    fp32, int8 = result.records
    assert fp32.complete
    assert not int8.complete
    assert len(int8.samples.decode_ns) == 2
    assert int8.quality_reason == failure.message
    assert stored == [int8, fp32], "each was committed as it ended"


def start_run(model: Path, text: Path, store: Path, *paths: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-P", "-m", "sllmbench", "run", str(model)]
    sizes = ["-p", "8", "-n", "2", "-r", "2", "-t", "1", "--eval-tokens", "3900"]
    places = ["--text", str(text), "--store", str(store), "-o", "json"]
    return subprocess.Popen(
        [*command, *sizes, *places, "--paths", ",".join(paths)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(process: subprocess.Popen[str], step: str) -> None:
    assert process.stderr is not None
    for line in process.stderr:
        if step in line:
            return
    pytest.fail(f"the run ended before {step!r}")


@pytest.mark.slow
def test_kill_in_mid_run_keeps_finished_paths_and_the_next_run_works(
    tiny_llama: Path, text: Path, tmp_path: Path
) -> None:
    store = tmp_path / "s.sqlite"
    with start_run(tiny_llama, text, store, "fp32", "int8") as process:
        wait_for(process, "int8: quality")
        children = psutil.Process(process.pid).children()
        process.kill()
    _, alive = psutil.wait_procs(children, timeout=10)
    assert not [p for p in alive if p.status() != psutil.STATUS_ZOMBIE]
    with Store(store) as opened:
        assert [(r.path, r.complete) for r in opened.records()] == [("fp32", True)]
    with Store(store) as opened:
        result = execute(a_plan(tiny_llama, ["int8"], quality=False, repetitions=1), opened)
        assert result.failures == ()
        assert [r.path for r in opened.records()] == ["fp32", "int8"]


@pytest.mark.slow
@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_an_early_end_prints_and_stores_what_was_measured(
    tiny_llama: Path, text: Path, tmp_path: Path, ending: signal.Signals
) -> None:
    store = tmp_path / "s.sqlite"
    with start_run(tiny_llama, text, store, "fp32", "int8") as process:
        wait_for(process, "int8: quality")
        os.kill(process.pid, ending)
        output, errors = process.communicate()
    assert process.returncode == 130, errors
    whole = json.loads(output)
    assert {"machine", "records", "pareto"} <= set(whole)
    fp32, int8 = whole["records"]
    assert set(fp32) >= ISSUE_FIELDS
    assert fp32["complete"]
    assert fp32["perplexity"] > 1
    assert len(fp32["samples"]["decode_ns"]) == 2
    assert not int8["complete"]
    assert int8["decode_tps"] > 0
    assert int8["quality_reason"] == "the run was interrupted"
    assert "interrupted" in errors
    assert "Traceback" not in errors
    with Store(store) as opened:
        assert [(r.path, r.complete) for r in opened.records()] == [("fp32", True), ("int8", False)]


def a_plan(model: Path | str, paths: list[str] | None, **changes: Any) -> Any:
    arguments: dict[str, Any] = {
        "interpreters": {},
        "n_prompt": 8,
        "n_gen": 2,
        "repetitions": 2,
        "threads": 1,
        "arithmetic": "int8",
        "eval_tokens": 300,
        "quality": True,
        "reference": None,
        "text": "openwebtext",
        "device": "cpu",
        "seed": 0,
        "available_bytes": MANY_BYTES,
        **changes,
    }
    return make_plan(str(model), paths, **arguments)


def test_default_paths_leave_out_what_the_checkpoint_cannot_give(
    tiny_llama: Path, text: Path
) -> None:
    plan = a_plan(tiny_llama, None, text=str(text))
    assert plan.paths[0] == plan.reference == "fp32"
    assert "int4-g32" in plan.paths
    assert "gguf" not in plan.paths


@pytest.mark.parametrize(
    ("paths", "asked", "reference"),
    [
        (["int8", "bf16", "fp32"], None, "fp32"),
        (["int8", "fp16", "bf16"], None, "bf16"),
        (["int8", "fp16"], None, "fp16"),
        (["int4-g32", "int8"], None, "int4-g32"),
        (["int8", "fp32"], "int8", "int8"),
    ],
)
def test_the_reference_comes_first(
    tiny_llama: Path, paths: list[str], asked: str | None, reference: str
) -> None:
    plan = a_plan(tiny_llama, paths, reference=asked, quality=False)
    assert plan.reference == plan.waves[0][0] == reference


def test_the_prompt_is_the_texts_first_tokens(tiny_llama: Path, text: Path) -> None:
    plan = a_plan(tiny_llama, ["fp32"], text=str(text), n_prompt=5)
    assert plan.prompt_ids == tuple(int(word[1:]) for word in text.read_text().split()[:5])
    assert plan.eval_ids[:5] == plan.prompt_ids
    assert len(plan.eval_ids) == 300
    assert plan.context == 512


def test_random_weights_have_a_seeded_prompt_and_no_quality() -> None:
    plans = [a_plan("random:qwen2.5-0.5b", ["bf16"], seed=seed) for seed in (0, 0, 1)]
    assert plans[0].prompt_ids == plans[1].prompt_ids != plans[2].prompt_ids
    assert plans[0].eval_ids == ()
    assert plans[0].quality_reason is not None
    assert "random" in plans[0].quality_reason


@pytest.mark.parametrize(
    ("paths", "changes", "message"),
    [
        (["fp32", "int5"], {}, "unknown path 'int5'"),
        (["fp32", "int8", "fp32"], {}, "path 'fp32' is given twice"),
        ([], {}, "no paths to run"),
        (["gguf"], {}, "path gguf cannot run here: .*not a GGUF"),
        (["fp32"], {"reference": "int8"}, "'int8' is not among the paths fp32"),
        (["fp32"], {"n_prompt": 0}, "n_prompt must be at least 1, not 0"),
        (["fp32"], {"n_gen": -1}, "n_gen must be at least 1, not -1"),
        (["fp32"], {"repetitions": 0}, "repetitions must be at least 1, not 0"),
        (["fp32"], {"threads": 0}, "threads must be at least 1, not 0"),
        (["fp32"], {"eval_tokens": 2}, "eval_tokens must be at least 3, not 2"),
        (["fp32"], {"n_prompt": 511}, "n_prompt . n_gen is 513 .* at most 512 positions"),
        (["fp32"], {"arithmetic": "float"}, "unknown arithmetic 'float'; choose exact or int8"),
        (["fp32"], {"device": "tpu"}, "unknown device 'tpu'; choose cpu"),
        (["fp32"], {"eval_tokens": 4001}, "has 4000 tokens and 4001 are needed"),
        (["fp32"], {"text": "nonsense"}, "unknown text 'nonsense'"),
        (["fp32"], {"text": "no/such.txt"}, "cannot read the text no/such.txt: No such file"),
        (["fp32"], {"available_bytes": 10_000_000}, "too little memory for path fp32: .*0.0 GB"),
    ],
)
def test_what_a_plan_refuses(
    tiny_llama: Path, text: Path, paths: list[str], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        a_plan(tiny_llama, paths, **{"text": str(text), **changes})


def test_a_text_that_is_no_text(tiny_llama: Path, tmp_path: Path) -> None:
    file = tmp_path / "latin.txt"
    file.write_bytes(b"caf\xe9 " * 500)
    with pytest.raises(InputError, match=r"latin\.txt is not UTF-8"):
        a_plan(tiny_llama, ["fp32"], text=str(file))


def test_waves_fit_the_memory() -> None:
    needs = {"a": 40, "b": 50, "c": 10, "d": 60}
    assert split_into_waves(needs, 5, 1000) == (("a", "b", "c", "d"),)
    assert split_into_waves(needs, 5, 105) == (("a", "b", "c"), ("d",))
    assert split_into_waves(needs, 5, 65) == (("a", "c"), ("b",), ("d",))
    with pytest.raises(InputError, match="too little memory for path d"):
        split_into_waves(needs, 5, 64)


def test_two_waves_share_one_reference(tiny_llama: Path, text: Path, tmp_path: Path) -> None:
    whole = a_plan(tiny_llama, ["fp32", "int8"], text=str(text), repetitions=1)
    apart = type(whole)(**{**vars(whole), "waves": (("fp32",), ("int8",))})
    with Store(tmp_path / "s.sqlite") as store:
        result = execute(apart, store)
    assert result.failures == ()
    fp32, int8 = result.records
    assert fp32.interleaved_with == int8.interleaved_with == ()
    assert int8.kl_divergence is not None
    assert math.isfinite(int8.kl_divergence)
