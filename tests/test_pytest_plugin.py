"""The pytest plugin: pytest-benchmark stays whole, and a regression fails the session."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from sllmbench.record import BenchmarkRecord
from sllmbench.store import Store

if TYPE_CHECKING:
    from pathlib import Path

    Run = Any

SUITE = """
import time
import numpy as np

MATRIX = np.ones((64, 64), np.float32)

def product(factor=1):
    for _ in range(4 * factor):
        MATRIX @ MATRIX
    return 42

def test_product(kernel_benchmark):
    assert kernel_benchmark(product, flops=8 * 64**3, bytes=3 * 64 * 64 * 4, peak="fp32") == 42

def test_theirs(benchmark):
    assert benchmark(product) == 42
"""
QUIET = """
# A busy machine would be a reason to say that it cannot be told.
from sllmbench.measure import interference
interference.find_causes = lambda *_: ()
"""
STEADY = """
# The function's own fastest time, as steady as on a machine of its own: drift is another test's.
from sllmbench.microbench import function
measured = function.benchmark_function
def steady(*arguments, **options):
    record = measured(*arguments, **options)
    fastest, count = min(record.samples_ns), len(record.samples_ns)
    samples = tuple(fastest * (1 + i % 7 / 1e4) for i in range(count))
    return record.model_copy(update={"samples_ns": samples})
function.benchmark_function = steady
"""
COMPARE = "from pytest_benchmark.cli import main; main()"
FAST = ("--sllmbench-max-time=0.3", "--benchmark-max-time=0.1", "-p", "no:cacheprovider")


@pytest.fixture
def session(pytester: pytest.Pytester) -> Run:
    """Runs pytest on a suite in a process of its own, which finds the installed plugin."""

    pytester.makeconftest(QUIET)

    def run(*arguments: str, suite: str = SUITE) -> pytest.RunResult:
        pytester.makepyfile(test_suite=suite)
        return pytester.runpytest_subprocess(*FAST, *arguments)

    return run


def stored(path: Path) -> dict[str, Any]:
    whole: dict[str, Any] = json.loads(path.read_text())
    return {benchmark["name"]: benchmark for benchmark in whole["benchmarks"]}


def test_everything_is_in_pytest_benchmarks_file(session: Run, pytester: pytest.Pytester) -> None:
    result = session("--benchmark-json=out.json")
    result.assert_outcomes(passed=2)
    ours = stored(pytester.path / "out.json")["test_product"]
    info = ours["extra_info"]
    record = BenchmarkRecord.model_validate(info["sllmbench"])
    assert record.name == ours["fullname"] == "test_suite.py::test_product"
    assert info["gflops"] == pytest.approx(8 * 64**3 / record.median_ns)
    assert info["gbs"] == pytest.approx(3 * 64 * 64 * 4 / record.median_ns)
    assert 0 < info["roof_fraction"] < 1.5
    assert info["isa"] == record.isa
    assert (info["joules"] is None) == (record.energy.reason is not None)
    assert len(record.samples_ns) == len(record.interference) == ours["stats"]["rounds"] >= 6
    raw = [sample_ns * 1e-9 for sample_ns in record.samples_ns]
    assert ours["stats"]["data"] == pytest.approx(raw)
    assert ours["stats"]["iterations"] == record.calls_per_sample[0]


def test_pytest_benchmark_reads_its_file_back(session: Run, pytester: pytest.Pytester) -> None:
    session("--benchmark-save=first").assert_outcomes(passed=2)
    again = session("--benchmark-compare=0001", "--benchmark-columns=median,rounds")
    again.assert_outcomes(passed=2)
    for side in ("NOW", "0001_first"):
        again.stdout.fnmatch_lines([f"test_product ({side}) *"])
    command = [sys.executable, "-c", COMPARE, "compare", "0001"]
    done = subprocess.run(command, cwd=pytester.path, check=False, capture_output=True, text=True)
    assert done.returncode == 0
    assert "test_product" in done.stdout


def test_disabled_benchmarks_run_once(session: Run) -> None:
    suite = """
calls = []
def test_it(kernel_benchmark):
    assert kernel_benchmark(calls.append, 1) is None
    assert kernel_benchmark.record is None
    assert calls == [1]
"""
    session("--benchmark-disable", suite=suite).assert_outcomes(passed=1)


def test_an_exception_of_the_function_is_the_tests(session: Run) -> None:
    suite = """
def fail():
    raise RuntimeError("no such kernel")
def test_it(kernel_benchmark):
    kernel_benchmark(fail)
"""
    result = session(suite=suite)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*RuntimeError: no such kernel"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("flops=0", "flops must be more than 0, not 0"),
        ("bytes=-1", "bytes must be more than 0, not -1"),
        ("peak='fp64', flops=1", "peak must be fp32, int8 or None, not 'fp64'"),
        ("peak='fp32'", "bounds nothing without flops"),
        ("cache='warm'", "cache must be hot or cold, not 'warm'"),
    ],
)
def test_wrong_arguments(session: Run, arguments: str, message: str) -> None:
    suite = f"""
def test_it(kernel_benchmark):
    kernel_benchmark(int, {arguments})
"""
    result = session(suite=suite)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([f"*InputError: *{message}*"])


def test_two_calls_of_the_fixture_are_refused(session: Run) -> None:
    suite = """
def test_it(kernel_benchmark):
    kernel_benchmark(int)
    kernel_benchmark(int)
"""
    result = session(suite=suite)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*can only be used once*"])


def test_cold_calls_take_longer(session: Run, pytester: pytest.Pytester) -> None:
    suite = """
import numpy as np, pytest
DATA = np.ones(1 << 17)
@pytest.mark.parametrize("cache", ["hot", "cold"])
def test_it(kernel_benchmark, cache):
    kernel_benchmark(DATA.sum, bytes=DATA.nbytes, cache=cache)
"""
    session("--benchmark-json=out.json", suite=suite).assert_outcomes(passed=2)
    records = {
        name: BenchmarkRecord.model_validate(found["extra_info"]["sllmbench"])
        for name, found in stored(pytester.path / "out.json").items()
    }
    assert records["test_it[cold]"].median_ns > records["test_it[hot]"].median_ns
    assert records["test_it[cold]"].cache == "cold"


def test_records_go_to_the_store(session: Run, pytester: pytest.Pytester) -> None:
    session("--sllmbench-store=records.sqlite").assert_outcomes(passed=2)
    with Store(pytester.path / "records.sqlite", must_exist=True) as store:
        (record,) = store.records()
    assert isinstance(record, BenchmarkRecord)
    assert record.name == "test_suite.py::test_product"


@pytest.mark.parametrize("slower", [1, 10])
def test_a_regression_fails_the_session(
    session: Run, pytester: pytest.Pytester, slower: int
) -> None:
    pytester.makeconftest(QUIET + STEADY)
    session("--benchmark-json=base.json").assert_outcomes(passed=2)
    suite = SUITE.replace("factor=1", f"factor={slower}")
    result = session("--sllmbench-compare=base.json", "--sllmbench-max-slowdown=90%", suite=suite)
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(["*compared with an earlier session*"])
    result.stdout.fnmatch_lines(["1 same (of 1 benchmark)" if slower == 1 else "1 slower *"])
    assert result.ret == (pytest.ExitCode.OK if slower == 1 else pytest.ExitCode.TESTS_FAILED)


def test_what_cannot_be_told_fails_only_where_that_is_asked(
    session: Run, pytester: pytest.Pytester
) -> None:
    pytester.makeconftest(QUIET.replace("()", "('a test',)"))
    session("--benchmark-json=base.json").assert_outcomes(passed=2)
    compare = ("--sllmbench-compare=base.json",)
    assert session(*compare).ret == pytest.ExitCode.OK
    assert session(*compare, "--sllmbench-strict").ret == pytest.ExitCode.TESTS_FAILED


def test_other_hardware_blocks_the_verdict(session: Run, pytester: pytest.Pytester) -> None:
    pytester.makeconftest(QUIET + STEADY)
    session("--benchmark-json=base.json").assert_outcomes(passed=2)
    file = pytester.path / "base.json"
    whole = json.loads(file.read_text())
    for benchmark in whole["benchmarks"]:
        if "sllmbench" in benchmark["extra_info"]:
            benchmark["extra_info"]["sllmbench"]["machine"]["cpu_model"] = "Another CPU"
    file.write_text(json.dumps(whole))
    compare = ("--sllmbench-compare=base.json", "--sllmbench-max-slowdown=90%")
    blocked = session(*compare, "--sllmbench-strict")
    assert blocked.ret == pytest.ExitCode.TESTS_FAILED
    blocked.stdout.fnmatch_lines(["*Another CPU*"])
    assert session(*compare, "--sllmbench-strict", "--sllmbench-force").ret == pytest.ExitCode.OK


@pytest.mark.parametrize(
    ("base", "message"),
    [("missing.json", "missing.json"), ("broken.json", "broken.json")],
)
def test_a_base_that_cannot_be_read_ends_it_before_anything_runs(
    session: Run, pytester: pytest.Pytester, base: str, message: str
) -> None:
    (pytester.path / "broken.json").write_text('{"benchmarks": [')
    result = session(f"--sllmbench-compare={base}")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: *{message}*"])
    assert "passed" not in result.stdout.str()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--sllmbench-strict"], "--sllmbench-strict gates nothing without --sllmbench-compare"),
        (["--sllmbench-max-slowdown=x"], "--sllmbench-max-slowdown gates nothing without"),
        (["--sllmbench-precision=x"], "--sllmbench-precision takes a share"),
    ],
)
def test_options_that_cannot_be_meant(session: Run, options: list[str], message: str) -> None:
    result = session(*options)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: {message}*"])


def test_nothing_to_compare_is_an_error(session: Run, pytester: pytest.Pytester) -> None:
    session("--benchmark-json=base.json").assert_outcomes(passed=2)
    result = session("--sllmbench-compare=base.json", suite="def test_it(): pass")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["*no kernel_benchmark ran*"])


def test_it_does_nothing_where_it_is_not_used(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
import sys
def test_it():
    heavy = {"numpy", "torch", "pydantic", "sllmbench.store", "sllmbench.measure"}
    assert not heavy & set(sys.modules)
"""
    )
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider")
    result.assert_outcomes(passed=1)
    result.stdout.no_fnmatch_line("sllmbench: *")
