"""Change points: found where levels change, not in noise, drift of a single session or outliers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from sllmbench import cli
from sllmbench.compare.changes import find_changes
from sllmbench.compare.history import History, of_store
from sllmbench.errors import InputError
from sllmbench.record import KernelRecord
from sllmbench.report import history as report
from sllmbench.store import Store

if TYPE_CHECKING:
    from collections.abc import Sequence

DATA = Path(__file__).parents[1] / "data"
RECORD = KernelRecord.model_validate(json.loads((DATA / "kernel.json").read_text())["records"][0])


def noisy(rng: np.random.Generator, levels: Sequence[float], spread: float = 0.02) -> list[float]:
    return [float(level * np.exp(spread * rng.normal())) for level in levels]


def test_noise_and_outliers_are_no_changes() -> None:
    rng = np.random.default_rng(1)
    marked = 0
    for n in (5, 12, 40, 40, 100):
        for _ in range(40):
            values = noisy(rng, [100.0] * n)
            values[n // 2] *= 3
            marked += bool(find_changes(values))
    assert marked <= 7  # 2 expected of 200 at 1%


def test_a_change_is_found_at_its_commit() -> None:
    rng = np.random.default_rng(2)
    exact = 0
    for _ in range(30):
        changes = find_changes(noisy(rng, [100.0] * 15 + [106.0] * 15))
        assert len(changes) == 1
        assert 1.03 < changes[0].ratio < 1.09
        exact += abs(changes[0].index - 15) <= 1
    assert exact >= 27


def test_several_changes_and_one_that_is_taken_back() -> None:
    rng = np.random.default_rng(3)
    values = noisy(rng, [100.0] * 15 + [130.0] * 12 + [100.0] * 15 + [80.0] * 15, spread=0.01)
    assert [c.index for c in find_changes(values)] == [15, 27, 42]
    assert find_changes(values) == find_changes(values)


def test_certain_but_tiny_changes_are_left_out() -> None:
    rng = np.random.default_rng(4)
    assert not find_changes(noisy(rng, [100.0] * 30 + [100.5] * 30, spread=1e-4))


def test_equal_and_few_values() -> None:
    assert find_changes([5.0] * 30) == []
    assert find_changes([1.0, 2.0]) == []
    assert find_changes([]) == []
    assert find_changes([1.0] * 4 + [2.0] * 4) == []  # 8 values cannot tell at 1%


def records(
    levels: Sequence[float], path: str = "int4-g128", **facts: object
) -> list[KernelRecord]:
    rng = np.random.default_rng(5)
    return [
        RECORD.model_copy(
            update={
                "path": path,
                "run_id": f"run-{path}-{facts}-{i:03}",
                "created_utc": f"2026-01-{i + 1:02}T00:00:00Z",
                "commit": f"{i:040x}",
                "samples_ns": tuple(noisy(rng, [level] * len(RECORD.samples_ns), 0.005)),
                **facts,
            }
        )
        for i, level in enumerate(levels)
    ]


STEP = [1e5] * 12 + [1.2e5] * 12


def test_only_what_is_alike_is_joined() -> None:
    found = of_store([*records(STEP), *records(STEP[:12], threads=7), *records(STEP, path="q4_0")])
    assert [(line.name.split()[0], len(line.points)) for line in found.lines] == [
        ("int4-g128", 24),
        ("int4-g128", 12),
        ("q4_0", 24),
    ]
    changed = [[p.commit for p in line.points if p.change] for line in found.lines]
    assert changed == [[f"{12:040x}"], [], [f"{12:040x}"]]
    assert of_store(records(STEP), "q4*").lines == ()


def test_runs_of_one_commit_are_one_point() -> None:
    twice = [r.model_copy(update={"run_id": r.run_id + "b"}) for r in records(STEP)]
    (line,) = of_store([*records(STEP), *twice]).lines
    assert [len(p.run_medians_ns) for p in line.points] == [2] * 24
    assert of_store([RECORD.model_copy(update={"commit": None})]).without_commit == 1


def test_sparkline() -> None:
    assert report.sparkline([1, 2, 3, 8]) == "▁▂▃█"
    assert report.sparkline([5, 5]) == "▁▁"
    assert len(report.sparkline(range(100))) == 24


@pytest.fixture
def store(tmp_path: Path) -> Path:
    with Store(tmp_path / "s.sqlite") as opened:
        for record in [*records(STEP), *records(STEP, path="q4_0"), *records(STEP[:9], threads=7)]:
            opened.append(record)
    return tmp_path / "s.sqlite"


def test_the_command(
    store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*arguments: object) -> tuple[int, str, str]:
        command = ["sllmbench", "history", *map(str, arguments)]
        monkeypatch.setattr("sys.argv", command)
        with pytest.raises(SystemExit) as ended:
            cli.main()
        captured = capsys.readouterr()
        return int(ended.value.code or 0), captured.out, captured.err

    monkeypatch.setenv("COLUMNS", "80")
    code, out, _ = run("--store", store)
    assert code == 0
    assert max(map(len, out.splitlines())) <= 80
    assert out.splitlines()[1].split()[-3:] == ["+20.1%", "at", "0000000"]
    code, out, _ = run("q4_0*", "--store", store)
    assert sum("+" in line.split()[-1] or "%" in line for line in out.splitlines()[1:25]) == 1
    assert "| commit |" in run("q4_0*", "--store", store, "-o", "md")[1]
    whole = json.loads(run("--store", store, "-o", "json")[1])
    assert len(whole["lines"]) == 3
    for bad, message in (
        (("none*", "--store", store), "no benchmark like 'none*'"),
        (("--store", store.with_name("no")), "there is no store"),
        (("--store", store, "--plot", store.with_name("x.pdf")), "--plot writes .png or .svg"),
    ):
        code, out, err = run(*bad)
        assert (code, out) == (2, "")
        assert message in err


def test_the_picture(store: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    with Store(store) as opened:
        found = of_store(opened.records())
    for name, magic in (("a.png", b"\x89PNG"), ("a.svg", b"<?xml")):
        report.plot(found, tmp_path / name)
        assert (tmp_path / name).read_bytes().startswith(magic)
    line = found.lines[0]
    many = History(tuple(replace(line, name=str(i)) for i in range(13)), 0)
    with pytest.raises(InputError, match="give a pattern"):
        report.plot(many, tmp_path / "b.png")
    with pytest.raises(InputError, match="cannot write"):
        report.plot(found, tmp_path / "none" / "b.png")
