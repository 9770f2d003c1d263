"""What a side may be named by; whatever is wrong with a file is one clear line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from sllmbench.compare import compare, identity
from sllmbench.compare.inputs import read_side
from sllmbench.compare.series import Run, Series
from sllmbench.errors import InputError
from sllmbench.record import KernelRecord, Record
from sllmbench.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable

DATA = Path(__file__).parents[1] / "data"
KERNELS = [
    KernelRecord.model_validate(r)
    for r in json.loads((DATA / "kernel.json").read_text())["records"]
]
RUNS = [Record.model_validate(r) for r in json.loads((DATA / "run.json").read_text())]

BENCHMARKS = """
import pytest
@pytest.mark.parametrize("n", [10, 100])
def test_sum(benchmark, n):
    benchmark(lambda: sum(range(n)))
"""


def saved(samples: list[Any], name: str = "test_a.py::test_a", **facts: Any) -> dict[str, Any]:
    machine = {
        "cpu": {"brand_raw": "A CPU", "count": 2},
        "system": "Linux",
        "release": "6",
        **facts,
    }
    return {
        "machine_info": machine,
        "benchmarks": [{"fullname": name, "extra_info": {}, "stats": {"data": samples}}],
        "datetime": "2026-01-01T00:00:00",
        "version": "5",
    }


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., str]:
    def call(content: Any, name: str = "file.json") -> str:
        text = content if isinstance(content, str) else json.dumps(content)
        (tmp_path / name).write_text(text)
        return str(tmp_path / name)

    return call


def test_a_real_pytest_benchmark_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "test_it.py").write_text(BENCHMARKS)
    command = [sys.executable, "-m", "pytest", "-q", "test_it.py", "--benchmark-max-time=0.01"]
    command += ["--benchmark-json=out.json", "--benchmark-save=x", "--benchmark-save-data"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    monkeypatch.chdir(tmp_path)
    whole = json.loads(Path("out.json").read_text())
    for name in ("out.json", "0001"):
        side = read_side([name])
        assert [s.name for s in side] == ["test_it.py::test_sum[10]", "test_it.py::test_sum[100]"]
        (run,) = side[0].runs
        data = whole["benchmarks"][0]["stats"]["data"]
        assert run.samples_ns == pytest.approx([s * 1e9 for s in data])
        assert {"cpu", "os", "python"} <= set(run.identity)
    (twice,) = (s for s in read_side(["out.json", "0001"]) if s.name.endswith("[10]"))
    assert len(twice.runs) == 2
    with pytest.raises(InputError, match=r"no file \.benchmarks/\*/0002_"):
        read_side(["0002"])


def test_our_json_lines_and_single_records(write: Callable[..., str]) -> None:
    whole = json.loads((DATA / "kernel.json").read_text())
    names = [s.name for s in read_side([str(DATA / "kernel.json")])]
    assert names[0] == "int4-g128 2048x2048 m=1"
    assert len(names) == len(KERNELS)
    lines = "\n".join(json.dumps(r) for r in whole["records"])
    assert [s.name for s in read_side([write(lines)])] == names
    (one,) = read_side([write(whole["records"][0])])
    assert one.runs[0].samples_ns == tuple(KERNELS[0].samples_ns)
    assert one.runs[0].disturbed == tuple(bool(i.causes) for i in KERNELS[0].interference)
    assert one.runs[0].identity["threads"] == str(KERNELS[0].threads)


def test_runs_as_reports_write_them(write: Callable[..., str]) -> None:
    from sllmbench import report

    written = report.json(RUNS[0].machine, RUNS, RUNS[0].path)
    side = {s.name: s for s in read_side([write(written)])}
    first = RUNS[0]
    metrics = (f"pp{first.n_prompt}", f"tg{first.n_gen}", "ttft", "tpot")
    assert [n for n in side if f" {first.path} " in n] == [
        f"{first.model} {first.path} {metric}" for metric in metrics
    ]
    prefill = side[f"{first.model} {first.path} {metrics[0]}"].runs[0]
    assert prefill.samples_ns == tuple(ns / first.n_prompt for ns in first.samples.prefill_ns)
    itl = first.samples.itl_ns[0]
    tpot = side[f"{first.model} {first.path} tpot"].runs[0]
    assert tpot.samples_ns[0] == sum(itl) / (first.n_gen - 1)
    assert read_side([write(report.jsonl(RUNS))]) is not None


def test_threads_stand_in_names_only_where_one_run_has_several(write: Callable[..., str]) -> None:
    record = KERNELS[0].model_dump(mode="json")
    both = [record, {**record, "threads": record["threads"] + 1}]
    names = [s.name for s in read_side([write(both)])]
    assert names == [f"int4-g128 2048x2048 m=1 t={r['threads']}" for r in both]
    with pytest.raises(InputError, match="more than once"):
        read_side([write([record, record])])


def test_runs_and_commits_of_the_store(tmp_path: Path) -> None:
    file = tmp_path / "s.sqlite"
    with Store(file) as store:
        for run, commit in (
            ("20260101-aaaa", "c0ffee11"),
            ("20260102-bbbb", "c0ffee11"),
            ("20260103-cccc", "c0ffee11+"),
            ("20260104-dddd", "beef0000"),
        ):
            store.append(KERNELS[0].model_copy(update={"run_id": run, "commit": commit}))
    assert [
        len(read_side([n], file)[0].runs) for n in ("20260101-aaaa", "c0ffee", "c0ffee11+")
    ] == [1, 2, 1]
    assert read_side(["store:beef"], file)[0].runs[0].commit == "beef0000"
    for name, message in (
        ("20260", "several runs of the store"),
        ("nothing", "neither a file nor a run or commit"),
        ("bee", "4 letters at least"),
        ("", "an empty name"),
    ):
        with pytest.raises(InputError, match=message):
            read_side([name], file)
    with pytest.raises(InputError, match=r"no file beef, and no store .*none\.sqlite"):
        read_side(["beef"], tmp_path / "none.sqlite")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty"),
        (json.dumps(saved([1.0]))[:-20], "is not JSON"),
        ('{"a": 1}\n{"b": ', "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("3", "neither pytest-benchmark's JSON nor records"),
        ([1], "record 1 is no object"),
        ({"records": []}, "no benchmark with samples"),
        ({"kind": "kernel"}, "record 1 is not one of this sllmbench's"),
        ({"benchmarks": []}, "holds no benchmark"),
        ({"benchmarks": {}}, "no list of objects"),
        ({"benchmarks": [{}]}, "without a `fullname`"),
        ({"benchmarks": [{"fullname": "a", "stats": {"median": 1}}]}, "has no raw samples"),
        (saved([1.0, "x"]), "a sample of x s is no time"),
        (saved([1.0, None]), "a sample of None s"),
        (saved([1.0, 0.0]), "a sample of 0.0 s"),
        (saved([1.0, True]), "a sample of True s"),
        (saved([float("nan")]), "a sample of nan s"),
        (saved([float("inf")]), "a sample of inf s"),
        (saved([10**400]), "a sample of 10000000000000000000… s"),
        ({**saved([1.0]), "benchmarks": saved([1.0])["benchmarks"] * 2}, "more than once"),
        (
            {"benchmarks": [{"fullname": "a", "extra_info": {"sllmbench": {}}}]},
            "the record of a is not one",
        ),
    ],
)
def test_a_bad_file_is_one_line(write: Callable[..., str], content: Any, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        read_side([write(content)])
    assert len(str(error.value)) < 300


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "latin").write_bytes(b"\xff\xfe\x00")
    for path, message in ((tmp_path, "directory"), (tmp_path / "latin", "no UTF-8")):
        with pytest.raises(InputError, match=message):
            read_side([str(path)])


def test_benchmarks_on_one_side_are_named(write: Callable[..., str]) -> None:
    base = saved([1.0] * 9)
    base["benchmarks"] += saved([1.0] * 9, "old")["benchmarks"]
    new = saved([1.0] * 9)
    new["benchmarks"] += saved([1.0] * 9, "young")["benchmarks"]
    found = compare([write(base, "a")], [write(new, "b")])
    assert (found.only_base, found.only_new) == (("old",), ("young",))
    with pytest.raises(InputError, match="no benchmark is both in"):
        compare([write(saved([1.0], "x"), "a")], [write(new, "b")])


def test_unlike_machines_block_the_verdict_unless_forced(write: Callable[..., str]) -> None:
    sides = (
        [write(saved([1.0, 1.01] * 30), "a")],
        [
            write(
                saved([2.0, 2.01] * 30, release="7", cpu={"brand_raw": "B", "count": 2}),
                "b",
            )
        ],
    )
    found = compare(*sides)
    assert found.verdicts[0].word == "cannot tell"
    assert list(found.differences) == ["cpu: A CPU, then B", "os: Linux 6, then Linux 7"]
    forced = compare(*sides, force=True)
    assert forced.forced
    assert forced.verdicts[0].effect is not None


def test_every_fact_is_looked_at() -> None:
    def side(**facts: str) -> Series:
        return Series("b", (Run((1.0,), (False,), {"memory": "8 GiB", "threads": "2", **facts}),))

    assert identity.differences(side(), side()) == []
    assert identity.differences(side(), side(threads="4", isa="avx2")) == [
        "threads: 2, then 4",
        "isa: not recorded, then avx2",
    ]
    mixed = Series("b", side().runs + side(threads="4").runs)
    assert identity.differences(mixed, mixed) == ["threads: 2 and 4 within each side"]
    pytests = Series("b", (Run((1.0,), (False,), {"python": "3.11"}),))
    assert identity.differences(pytests, side()) == []
