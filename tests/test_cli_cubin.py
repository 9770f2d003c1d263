"""``sllmbench cubin``: outputs, exit codes, and one line for what cannot be read."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from sllmbench.cubin import Question, tools
from sllmbench.cubin.devices import device_of
from sllmbench.cubin.examine import read
from sllmbench.errors import InputError
from sllmbench.record import CubinRecord
from sllmbench.report import cubin as report

STORED = Path(__file__).parent / "data" / "cubin"
SOURCE = Path(__file__).parent / "cubin" / "kernels.cu"


def run(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", "-m", "sllmbench", "cubin", *arguments],
        env={**os.environ, "COLUMNS": "80", **environ},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def record() -> CubinRecord:
    texts = [(STORED / f"kernels.{k}").read_text() for k in ("sass", "resources", "elf")]
    dump = tools.Dump("sm_75", *texts)
    return CubinRecord(
        sllmbench_version="0",
        file="kernels.cubin",
        arch="sm_75",
        device="t4",
        compiler="13.0",
        kernels=read(dump, device_of("t4"), Question()),
    )


@pytest.fixture(scope="module")
def cubin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """kernels.cu, compiled."""
    try:
        for tool in ("nvcc", "cuobjdump", "nvdisasm"):
            tools.find(tool)
    except InputError as missing:
        pytest.skip(str(missing))
    made = tmp_path_factory.mktemp("cli") / "kernels.cubin"
    tools.compile_source(SOURCE, made, "sm_75", [SOURCE.parents[2] / "csrc"])
    return made


def text_of(record: CubinRecord, width: int) -> list[str]:
    from rich.console import Console

    screen = Console(width=width, file=io.StringIO(), color_system=None)
    with screen.capture() as captured:
        screen.print(report.text(record, width))
    return [line.rstrip() for line in captured.get().splitlines()]


def test_eighty_columns_hold_it(record: CubinRecord) -> None:
    lines = text_of(record, 80)
    assert max(map(len, lines)) <= 80
    assert lines[0] == "kernels.cubin: sm_75 by nvcc 13.0, occupancy on t4"
    rows = {line.split()[0]: line.split() for line in reversed(lines) if line}
    assert rows["stream"][1:6] == ["30", "0", "0", "128", "100%"]
    loops = lines[lines.index(next(line for line in lines if "loads" in line)) + 1 :]
    assert loops[1].split() == ["stream", "37", "–", "4×128", "64.0", "64.0"]
    assert not any(line.startswith(("plain", "spilling")) for line in loops)  # without a loop


def test_long_names_are_cut_in_the_middle(record: CubinRecord) -> None:
    long = "decode<TensorCores<4,false,false,true,1>,128,and,more>"
    kernels = (record.kernels[0].model_copy(update={"name": long}), *record.kernels[1:])
    renamed = record.model_copy(update={"kernels": kernels})
    lines = text_of(renamed, 80)
    assert max(map(len, lines)) <= 80
    assert any(line.startswith("decode<TensorCores<") and "…" in line for line in lines)
    assert long in report.markdown(renamed)


def test_csv_has_a_row_a_kernel(record: CubinRecord) -> None:
    rows = list(csv.DictReader(io.StringIO(report.csv(record))))
    assert [row["name"] for row in rows] == [k.name for k in record.kernels]
    assert {row["arch"] for row in rows} == {"sm_75"}
    assert json.loads(rows[0]["main_loop"])["global_loads"] == {"32": 1}


def test_every_output(cubin: Path) -> None:
    for output, start in [
        ("text", "kernels.cubin: sm_75"),
        ("md", "kernels.cubin: sm_75"),
        ("json", "{\n"),
        ("csv", "file,arch,device,name"),
    ]:
        ended = run(str(cubin), "-o", output)
        assert (ended.returncode, ended.stderr) == (0, "")
        assert ended.stdout.startswith(start)
    record = CubinRecord.model_validate_json(run(str(cubin), "-o", "json").stdout)
    assert record.device == "t4"
    assert [k.name for k in record.kernels] == ["nested", "plain", "spilling", "stream", "tensor"]


def test_the_baseline_decides_the_exit_code(cubin: Path, tmp_path: Path) -> None:
    path = tmp_path / "baseline.json"
    before = json.loads(run(str(cubin), "-o", "json", "--weights-per-trip", "128").stdout)
    path.write_text(json.dumps(before))
    same = run(str(cubin), "--weights-per-trip", "128", "--baseline", str(path))
    assert (same.returncode, same.stderr) == (0, "")
    worse = run(str(cubin), "--weights-per-trip", "64", "--baseline", str(path))
    assert worse.returncode == 1
    assert "worse: stream: 0.5781 instructions a weight, not 0.2891\n" in worse.stderr
    before["kernels"] = before["kernels"][:1]
    path.write_text(json.dumps(before))
    more = run(str(cubin), "--weights-per-trip", "128", "--baseline", str(path))
    assert more.returncode == 0
    assert "note: stream is not in the baseline\n" in more.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("missing.cubin",), "missing.cubin: no such file"),
        (("README.md", "--device", "t5"), "--device t5: there is t4, gtx1650"),
        (("README.md", "-o", "xml"), "xml"),
        (("README.md", "--threads", "2000"), "1024"),
    ],
)
def test_bad_input(arguments: tuple[str, ...], said: str) -> None:
    ended = run(*arguments)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert said in ended.stderr
    if ended.stderr.startswith("error"):
        assert len(ended.stderr.splitlines()) == 1


def test_bad_files(tmp_path: Path, cubin: Path) -> None:
    whole = cubin.read_bytes()
    for name, content in [("text", b"words"), ("empty", b""), ("cut", whole[:2000])]:
        path = tmp_path / f"{name}.cubin"
        path.write_bytes(content)
        ended = run(str(path))
        assert (ended.returncode, ended.stdout) == (2, ""), name
        assert len(ended.stderr.splitlines()) == 1, name
    later = run(str(cubin), "--device", "a100")
    assert later.returncode == 2
    assert "does not run on A100 (sm_80)" in later.stderr


def test_without_tools(tmp_path: Path) -> None:
    if list(Path(sysconfig.get_path("purelib")).glob("nvidia/*/bin/nvcc")):
        pytest.skip("nvcc is a package of this environment")
    ended = run(str(SOURCE), PATH=str(tmp_path))
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.splitlines() == [
        "error: nvcc is not here: install the CUDA toolkit, or put its bin folder into PATH"
    ]
