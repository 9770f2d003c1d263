"""History: change points where a level changed and nowhere else; what the command writes."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from sllmbench import cli
from sllmbench.compare.history import change_points, history
from sllmbench.record import Interference, KernelRecord
from sllmbench.report.history import sparkline
from sllmbench.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable

STORED = Path(__file__).parents[1] / "data" / "kernel.json"
RECORD = KernelRecord.model_validate(json.loads(STORED.read_text())["records"][0])
NAME = f"{RECORD.path} {RECORD.n}x{RECORD.k} m={RECORD.m}"
QUIET = Interference.model_validate(RECORD.interference[0].model_dump() | {"causes": ()})
DISTURBED = QUIET.model_copy(update={"causes": ("a test",)})


def measured(commit: str | None, number: int, ns: float, **changes: object) -> KernelRecord:
    return KernelRecord.model_validate(
        RECORD.model_dump()
        | {
            "run_id": f"run{number}",
            "created_utc": f"2026-01-01T00:{number:02}:00.000+00:00",
            "commit": commit,
            "samples_ns": tuple(ns + i for i in range(6)),
            "batches_per_sample": (1,) * 6,
            "interference": (QUIET,) * 6,
        }
        | changes
    )


def test_a_level_that_changed_is_found_where_it_did() -> None:
    rng = np.random.default_rng(1)
    levels = np.repeat([100.0, 110.0, 95.0], [12, 10, 11])
    changes = change_points(levels * rng.normal(1, 0.01, len(levels)))
    assert [change.index for change in changes] == [12, 22]
    assert [change.ratio for change in changes] == pytest.approx([1.10, 95 / 110], rel=0.02)


def test_one_commit_that_was_slow_is_no_change() -> None:
    values = np.random.default_rng(2).normal(100, 1, 30)
    values[14] = 300
    assert change_points(values) == []


@pytest.mark.parametrize("length", [0, 1, 5, 9])
def test_too_few_commits_have_no_change(length: int) -> None:
    assert change_points([100.0 + 50 * (i >= length / 2) for i in range(length)]) == []


def test_ten_commits_are_enough_for_a_clear_change() -> None:
    (change,) = change_points([100.0, 101, 102, 101.5, 100.5, 120, 121, 122, 121.5, 120.5])
    assert (change.index, change.ratio) == (5, pytest.approx(1.2, rel=0.01))


def test_noise_is_marked_no_more_often_than_promised() -> None:
    rng = np.random.default_rng(3)
    alarms = sum(bool(change_points(np.exp(rng.standard_t(2, 20) / 50))) for _ in range(200))
    assert alarms <= 7  # 2 expected; 8 or more once in a thousand


def test_a_slowdown_that_was_mended_is_found_twice() -> None:
    """Its halves have nearly equal levels: splitting in two found it in 11 of 100."""
    found = []
    for seed in range(20):
        noise = np.random.default_rng(seed).normal(1, 0.02, 28)
        levels = np.array([100.0] * 10 + [110.0] * 8 + [100.0] * 10)
        found.append([change.index for change in change_points(levels * noise)])
    assert sum(len(places) == 2 for places in found) >= 18
    near = [abs(a - 10) <= 1 and abs(b - 18) <= 1 for a, b in (p for p in found if len(p) == 2)]
    assert sum(near) >= 14


def test_equal_medians_have_no_change() -> None:
    assert change_points([100.0] * 30) == []


def test_runs_of_a_commit_are_one_point_and_other_machines_another_line() -> None:
    other = RECORD.machine.model_copy(update={"cpu_model": "Another"})
    lines, unknown = history(
        [
            measured("bbb", 3, 300),
            measured("aaa", 1, 100),
            measured("aaa", 2, 200),
            measured(None, 4, 400),
            measured("aaa", 5, 500, machine=other),
        ]
    )
    assert unknown == 1
    assert [[p.commit for p in line.points] for line in lines] == [["aaa", "bbb"], ["aaa"]]
    assert [p.median_ns for p in lines[0].points] == [152.5, 302.5]
    assert lines[0].points[0].runs == 2


def test_a_disturbed_commit_is_marked() -> None:
    (line,), _ = history([measured("aaa", 1, 100, interference=(DISTURBED,) * 6)])
    assert line.points[0].disturbed


def test_sparkline() -> None:
    assert sparkline([1, 2, 3, 8]) == "▁▂▃█"
    assert sparkline([100, 100.5, 100.2]) == "▁▁▁"
    assert len(sparkline([1.0] * 100)) == 20


@pytest.fixture
def store(tmp_path: Path) -> Path:
    file = tmp_path / "records.sqlite"
    with Store(file) as opened:
        for number in range(20):
            commit = f"{number:02}".ljust(40, "a")
            opened.append(measured(commit, number, 1000 + 100 * (number >= 12) + number % 3))
    return file


@pytest.fixture
def command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["sllmbench", "history", *map(str, arguments)])
        monkeypatch.setenv("COLUMNS", "80")
        with pytest.raises(SystemExit) as ended:
            cli.main()
        captured = capsys.readouterr()
        return int(ended.value.code or 0), captured.out, captured.err

    return call


def test_table(store: Path, command: Callable[..., tuple[int, str, str]]) -> None:
    code, out, _ = command("--store", store)
    assert code == 0
    assert max(map(len, out.splitlines())) <= 80
    assert "▁▁▁▁▁▁▁▁▁▁▁▁" in out
    assert "slower from 12aaaaaa (2026-01-01) on" in " ".join(out.split())


def test_json_and_markdown(store: Path, command: Callable[..., tuple[int, str, str]]) -> None:
    whole = json.loads(command("--store", store, "-o", "json")[1])
    (line,) = whole["lines"]
    assert [change["index"] for change in line["changes"]] == [12]
    assert len(line["points"]) == 20
    assert f"| `{NAME}` |" in command("--store", store, "-o", "md")[1]


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_plot(
    store: Path, command: Callable[..., tuple[int, str, str]], tmp_path: Path, ending: str
) -> None:
    file = tmp_path / f"history.{ending}"
    assert command("--store", store, "--plot", file)[0] == 0
    begins = {"png": b"\x89PNG", "svg": b"<?xml"}
    assert file.read_bytes().startswith(begins[ending])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("no-such*",), "no benchmark of"),
        (("--plot", "history.docx"), "--plot history.docx"),
        (("--plot", "missing/history.png"), "--plot missing/history.png"),
    ],
)
def test_bad_input(
    store: Path,
    command: Callable[..., tuple[int, str, str]],
    arguments: tuple[str, ...],
    message: str,
) -> None:
    code, out, err = command("--store", store, *arguments)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert len(err.splitlines()) == 1
    assert message in err


def test_no_store(tmp_path: Path, command: Callable[..., tuple[int, str, str]]) -> None:
    code, _, err = command("--store", tmp_path / "none.sqlite")
    assert code == 2
    assert "there is no store" in err
