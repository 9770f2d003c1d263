"""Turns in one session: the order, the stop, failures, and revisions of a repository of its own."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sllmbench import cli
from sllmbench.ab.commands import Command
from sllmbench.ab.revisions import Revisions, ab_revisions
from sllmbench.ab.rounds import Limits, take_turns
from sllmbench.compare import Thresholds
from sllmbench.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

    Sllmbench = Callable[..., tuple[int, str, str]]

PYPROJECT = """
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
[project]
name = "tiny"
version = "0"
"""
BACKEND = """
import zipfile
def build_wheel(folder, config_settings=None, metadata_directory=None):
    name = "tiny-0-py3-none-any.whl"
    with zipfile.ZipFile(f"{folder}/{name}", "w") as wheel:
        wheel.write("tiny/__init__.py")
        facts = "Metadata-Version: 2.1\\nName: tiny\\nVersion: 0\\n"
        wheel.writestr("tiny-0.dist-info/METADATA", facts)
        wheel.writestr("tiny-0.dist-info/WHEEL", "Wheel-Version: 1.0\\nTag: py3-none-any\\n")
        wheel.writestr("tiny-0.dist-info/RECORD", "")
    return name
"""
TESTS = """
import tiny
def test_work(benchmark):
    benchmark(tiny.work)
def test_other(benchmark):
    benchmark(tiny.other)
"""
WORK = "def work():\n    return sum(range({n}))\ndef other():\n    return sorted(range(3000))\n"


@pytest.fixture
def sllmbench(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Sllmbench:
    """Runs ``sllmbench ...`` in this process: exit code, stdout, stderr."""

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["sllmbench", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        captured = capsys.readouterr()
        return int(ended.value.code or 0), captured.out, captured.err

    return call


class Noisy:
    """Candidates whose times a drift common to both multiplies; nothing of it is slept."""

    def __init__(self, ratio: float, seed: int) -> None:
        self._noise = random.Random(seed)
        self._drift, self._ratio = 1.0, ratio
        self.turns = 0

    def _time(self, factor: float) -> dict[str, float]:
        self.turns += 1
        self._drift *= self._noise.lognormvariate(0, 0.01)
        return {"b": factor * self._drift * self._noise.lognormvariate(0, 0.01)}

    def base(self) -> dict[str, float]:
        return self._time(1e6)

    def new(self) -> dict[str, float]:
        return self._time(1e6 * self._ratio)


def test_equal_candidates_raise_no_alarm_and_slow_ones_do() -> None:
    words: dict[float, list[str]] = {1.0: [], 1.05: [], 1.02: []}
    for ratio, found in words.items():
        for seed in range(200 if ratio == 1 else 60):
            pair = Noisy(ratio, seed)
            limits = Limits(precision=0.005, thresholds=Thresholds(0.01), seed=seed)
            result = take_turns(pair.base, pair.new, limits, labels=("a", "b"))
            found.append(result.comparison.verdicts[0].word)
            assert result.stopped_by == "precision"
            assert pair.turns == 2 + 2 * len(result.base_first)
    assert sum(word in ("slower", "faster") for word in words[1.0]) <= 1
    assert words[1.05].count("slower") >= 59
    assert words[1.02].count("slower") >= 54


def test_the_order_is_tossed_and_the_first_turn_does_not_count() -> None:
    orders = [
        take_turns(pair.base, pair.new, Limits(seed=seed), labels=("a", "b")).base_first
        for seed, pair in ((1, Noisy(1.0, 1)), (1, Noisy(1.0, 1)), (2, Noisy(1.0, 1)))
    ]
    assert orders[0] == orders[1] != orders[2]
    assert {True, False} == set(orders[0])


def test_time_over_and_interrupts_are_said() -> None:
    pair = Noisy(1.0, 1)

    def slow() -> dict[str, float]:
        time.sleep(0.05)
        return pair.base()

    result = take_turns(slow, pair.new, Limits(1e-9, 0.2), labels=("a", "b"))
    assert result.stopped_by == "time"
    assert "was not reached in 0.2 s" in result.comparison.notes[0]
    assert result.comparison.verdicts[0].word == "cannot tell"
    calls = iter(range(10))

    def stopped() -> dict[str, float]:
        if next(calls) == 5:
            raise KeyboardInterrupt
        return pair.base()

    result = take_turns(stopped, pair.new, Limits(), labels=("a", "b"))
    assert (result.stopped_by, len(result.base_first)) == ("interrupt", 4)


def test_a_benchmark_that_is_gone_in_a_round_stops() -> None:
    pair, calls = Noisy(1.0, 1), iter(range(10))
    with pytest.raises(InputError, match="b did not run in every round"):
        take_turns(
            pair.base, lambda: pair.new() if next(calls) < 3 else {}, Limits(), labels=("a", "b")
        )
    with pytest.raises(InputError, match="no benchmark is both in a and in b"):
        take_turns(pair.base, lambda: {"c": 1.0}, Limits(), labels=("a", "b"))


def test_commands(sllmbench: Sllmbench) -> None:
    code, out, _ = sllmbench("ab", "sleep 0.01", "sleep 0.05", "-o", "json", "--precision", "20%")
    whole = json.loads(out)
    assert code == whole["exit_code"] == 1
    (verdict,) = whole["verdicts"]
    assert verdict["effect"]["ratio"] > 2
    rounds = len(whole["base_first"])
    assert len(whole["base_ns"]["command"]) == len(whole["extra"]["new"]["cpu_ns"]) == rounds
    assert all(ns > 10e6 for ns in whole["base_ns"]["command"])
    assert sllmbench("ab", "sleep 0.05", "sleep 0.01", "--precision", "20%")[0] == 0
    assert sllmbench("ab", "true", "true", "--max-time", "0.001")[0] in (2, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("true", "echo broken pipe >&2; exit 7"), "ended with 7: broken pipe"),
        (("true", "exit 1"), "ended with 1: it wrote nothing to stderr"),
        (("kill -9 $$", "true"), "was killed by signal 9"),
        (("true",), "1 commands; ab compares two"),
        ((), "0 commands"),
        (("--rev", "HEAD"), "--rev must be given twice"),
        (("true", "true", "--tests-from", "x"), "belong to --rev"),
        (("true", "true", "--max-time", "0"), "--max-time must be above 0"),
        (("true", "true", "--precision", "0"), "--precision takes a share"),
    ],
)
def test_bad_input_is_one_line(
    sllmbench: Sllmbench, arguments: tuple[str, ...], message: str
) -> None:
    code, out, err = sllmbench("ab", *arguments)
    assert (code, out) == (2, "")
    assert err.splitlines()[-1].startswith("error: ")
    assert message in err.splitlines()[-1]


def test_an_interrupted_command_leaves_no_process(tmp_path: Path) -> None:
    mark = tmp_path / "pid"
    slow = f"echo $$ > {mark}; sleep 60; true"
    script = f"import sys; from sllmbench import cli; sys.argv = ['x', 'ab', {slow!r}, 'true']"
    child = subprocess.Popen([sys.executable, "-c", f"{script}; cli.main()"])
    while not (mark.exists() and mark.read_text().strip()):
        time.sleep(0.05)
    child.send_signal(signal.SIGINT)
    assert child.wait(20) == 130
    with pytest.raises(ProcessLookupError):
        os.kill(int(mark.read_text()), 0)


def test_what_a_command_cost_is_kept() -> None:
    command = Command(f"{sys.executable} -c 'sum(range(3_000_000))'")
    assert command.turn()["command"] > 0
    assert command.cpu_ns[0] > 10e6


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A package and its benchmarks; the second commit makes ``work`` half as fast again."""
    folder = tmp_path / "repository"
    (folder / "tiny").mkdir(parents=True)
    (folder / "tests").mkdir()
    (folder / "pyproject.toml").write_text(PYPROJECT)
    (folder / "backend.py").write_text(BACKEND)
    (folder / "tests" / "test_tiny.py").write_text(TESTS)
    git(folder, "init", "-q")
    for n in (20_000, 60_000):
        (folder / "tiny" / "__init__.py").write_text(WORK.format(n=n))
        git(folder, "add", "-A")
        git(folder, "commit", "-q", "-m", str(n))
    return folder


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=a", "-c", "user.email=a@b")
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


COPY = 'cp -r tiny "$SLLMBENCH_TARGET"'
FAST = ("tests", "--benchmark-max-time=0.01", "--benchmark-warmup=off", "-p", "no:randomly")


@pytest.mark.slow
def test_revisions(repository: Path, sllmbench: Sllmbench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(repository)
    (repository / "tiny" / "__init__.py").write_text("broken(")  # the working tree plays no part
    before = git(repository, "status", "--porcelain")
    code, out, err = sllmbench(
        *("ab", "--rev", "HEAD~1", "--rev", "HEAD", "--build-command", COPY, "-o", "json"),
        *("--precision", "20%", "--threshold", "15%", "--max-time", "180", "--", *FAST),
    )
    assert code == 1, err
    whole = json.loads(out)
    verdicts = {v["name"].partition("::")[2]: v for v in whole["verdicts"]}
    assert verdicts["test_work"]["word"] == "slower"
    assert 2 < verdicts["test_work"]["effect"]["ratio"] < 4
    assert verdicts["test_other"]["word"] != "slower"
    assert "both sides run the tests of HEAD" in whole["notes"]
    assert git(repository, "status", "--porcelain") == before
    assert len(git(repository, "worktree", "list").splitlines()) == 1


def test_pip_builds_as_the_project_says(repository: Path) -> None:
    wanted = Revisions("HEAD~1", "HEAD", FAST)
    found = ab_revisions(wanted, Limits(max_time_s=0.1), folder=repository)
    assert found.stopped_by == "time"
    assert len(found.base_first) == 1
    assert found.comparison.verdicts[0].word == "cannot tell"


def test_what_goes_wrong_with_revisions_is_said(repository: Path, tmp_path: Path) -> None:
    def told(**changes: object) -> str:
        wanted = {"base": "HEAD~1", "new": "HEAD", "pytest_arguments": FAST, "build_command": COPY}
        with pytest.raises(InputError) as error:
            ab_revisions(Revisions(**(wanted | changes)), Limits(), folder=repository)  # type: ignore[arg-type]
        assert len(git(repository, "worktree", "list").splitlines()) == 1
        return str(error.value)

    assert "'nowhere' is no commit" in told(base="nowhere")
    assert "the build of base ended with 4: no compiler" in told(
        build_command="echo no compiler; exit 4"
    )
    assert "installed no module" in told(build_command="true")
    assert "pytest ended with 4" in told(pytest_arguments=("absent.py",))
    with pytest.raises(InputError, match="git rev-parse failed"):
        ab_revisions(Revisions("a", "b"), Limits(), folder=tmp_path)
    tests = tmp_path / "tests"
    tests.mkdir()
    (tests / "test_a.py").write_text("def test_a(benchmark):\n    benchmark(int)\n")
    assert "imported none of tiny" in told(tests_from=str(tests), pytest_arguments=("test_a.py",))
    other = tmp_path / "other"
    (other / "tiny").mkdir(parents=True)
    (other / "tiny" / "__init__.py").write_text(WORK.format(n=1))
    (tests / "conftest.py").write_text(f"import sys\nsys.path.insert(0, {str(other)!r})\n")
    (tests / "test_a.py").write_text(TESTS)
    assert f"imported tiny from {other}" in told(
        tests_from=str(tests), pytest_arguments=("test_a.py",)
    )
    (tests / "conftest.py").unlink()
    (tests / "test_a.py").write_text(TESTS + "def test_fails():\n    assert 0\n")
    assert "pytest ended with 1" in told(tests_from=str(tests), pytest_arguments=("test_a.py",))


def test_an_interrupt_removes_the_worktrees(repository: Path) -> None:
    script = (
        "import sys; from sllmbench import cli; sys.argv = ['sllmbench', 'ab', '--rev', 'HEAD~1',"
        " '--rev', 'HEAD', '--build-command', 'touch started; sleep 60']; cli.main()"
    )
    child = subprocess.Popen([sys.executable, "-c", script], cwd=repository)
    while len(lines := git(repository, "worktree", "list").splitlines()) < 2:
        time.sleep(0.05)
    checkout = Path(lines[1].split()[0])
    while not (checkout / "started").exists():
        time.sleep(0.05)
    child.send_signal(signal.SIGINT)
    assert child.wait(20) == 130
    assert len(git(repository, "worktree", "list").splitlines()) == 1
    assert not checkout.parent.exists()
