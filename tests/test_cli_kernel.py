"""``sllmbench kernel``: bad input is one line and exit code 2, results are on stdout alone."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from sllmbench import cli, microbench
from sllmbench.cli.arguments import INTERRUPTED, Output
from sllmbench.cli.commands import kernel as kernel_command
from sllmbench.matmuls import torch_ops
from sllmbench.microbench import KernelResult
from sllmbench.record import KernelRecord, MachineFacts
from sllmbench.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Callable

    Command = Callable[..., tuple[int, str, str]]

SMALL = ("--shape", "64x96,32x33", "-m", "1,2", "-t", "1", "-r", "1")
PATHS = ("int8", "torch:fp32", "torch:int4pack-g32")


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs ``sllmbench kernel ...`` in this process: exit code, stdout, stderr."""

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["sllmbench", "kernel", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        captured = capsys.readouterr()
        return int(ended.value.code or 0), captured.out, captured.err

    return call


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--shape", "64"), "a shape is NxK, as 8192x2048 (out × in), not '64'"),
        (("--shape", "64x0"), "the sides of shape 64x0"),
        (("-m", "one"), "-m"),
        (("-m", "1,"), "-m"),
        (("-t", "0"), "threads must be at least 1, not 0"),
        (("--paths", "int3"), "unknown path 'int3'"),
        (("--paths", "int8", "--baseline", "bf16"), "the baseline 'bf16' is not among the paths"),
        (("--isa", "avx9"), "--isa avx9"),
        (("--model", "no-such-model"), "unknown model 'no-such-model'"),
        (("-r", "0"), "rounds must be at least 1, not 0"),
        (("--precision", "1"), "--precision takes a share between 0 and 100%"),
        (("--max-time", "0"), "the time must be more than 0 seconds, not 0"),
    ],
)
def test_bad_input(kernel: Command, arguments: tuple[str, ...], message: str) -> None:
    code, out, err = kernel(*arguments)
    assert (code, out) == (2, "")
    (line,) = err.splitlines()
    assert line.startswith("error: ")
    assert message in line


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("SLLMBENCH_THREADS", "two", "SLLMBENCH_THREADS must be a number"),
        ("SLLMBENCH_ISA", "sse9", "SLLMBENCH_ISA: unknown instruction set 'sse9'"),
    ],
)
def test_bad_settings_of_the_environment(name: str, value: str, message: str) -> None:
    # A process of its own: the extension reads them once.
    ended = subprocess.run(
        [sys.executable, "-P", "-m", "sllmbench", "kernel", *SMALL, "--paths", "int8"],
        env=os.environ | {name: value},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ended.returncode, ended.stdout) == (2, "")
    (line,) = ended.stderr.splitlines()
    assert line.startswith("error: ")
    assert message in line


def test_nothing_measured_is_no_success(kernel: Command) -> None:
    code, _, err = kernel("--shape", "8x77", "-m", "1", "--paths", "q4_k", "-r", "1")
    assert code == 1
    assert "error: nothing could be measured" in err


def test_a_missing_library_is_named_with_its_remedy(
    kernel: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    remedy = "torch is missing: pip install torch"
    monkeypatch.setattr(torch_ops.TorchFloat, "unavailable", lambda _: remedy)
    code, out, err = kernel("--paths", "int8,torch:fp32")
    assert (code, out) == (2, "")
    assert err == f"error: path torch:fp32 cannot run here: {remedy}\n"


def test_json_has_a_row_for_every_path_shape_rows_and_threads(kernel: Command) -> None:
    code, out, err = kernel(*SMALL, "--paths", ",".join(PATHS), "-o", "json")
    assert code == 0, err
    whole = json.loads(out)
    found = [(r["path"], r["n"], r["m"]) for r in whole["records"]]
    # torch's int4 kernel cannot multiply 32x33.
    assert sorted(found) == sorted(
        (path, n, m)
        for path in PATHS
        for n in (64, 32)
        for m in (1, 2)
        if (path, n) != (PATHS[2], 32)
    )
    assert whole["missing"] == [
        "torch:int4pack-g32, 32x33: needs k in whole groups of 32 and n in sixteens"
    ]
    assert {r["baseline"] for r in whole["records"]} == {"torch:fp32"}
    assert "[" in err  # progress


@pytest.mark.parametrize("output", list(Output))
def test_every_output_has_every_path(capsys: pytest.CaptureFixture[str], output: Output) -> None:
    stored = json.loads((Path(__file__).parent / "data" / "kernel.json").read_text())
    records = [KernelRecord.model_validate(record) for record in stored["records"]]
    machine = MachineFacts.model_validate(stored["machine"])
    result = KernelResult(machine, stored["baseline"], records, stored["missing"])
    kernel_command._write_kernels(result, output)
    out, err = capsys.readouterr()
    names = {record.path for record in records}
    readers: dict[Output, Callable[[], list[str]]] = {
        Output.JSON: lambda: [r["path"] for r in json.loads(out)["records"]],
        Output.JSONL: lambda: [json.loads(line)["path"] for line in out.splitlines()],
        Output.CSV: lambda: [row["path"] for row in csv.DictReader(io.StringIO(out))],
    }
    tables = out.rpartition("\n\n")[0]  # the notes come last, and name paths too
    first_words = (line.strip(" |~").split(" ")[0] for line in tables.splitlines())
    found = readers.get(output, lambda: [word for word in first_words if word in names])()
    assert sorted(found) == sorted(record.path for record in records)
    assert (stored["missing"][0] in err) == (output in (Output.CSV, Output.JSONL))


def test_a_path_that_dies_ends_in_exit_code_1_with_the_rest(
    kernel: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Dying(Worker):
        def ask(self, do: str, *arguments: Any, **named: Any) -> dict[str, Any]:
            if (self.path, do) == ("torch:fp32", "turn"):
                os.kill(self.pid, signal.SIGKILL)
            return super().ask(do, *arguments, **named)

    monkeypatch.setattr(microbench, "Worker", Dying)
    code, out, err = kernel(
        "--shape", "32x64", "-m", "1", "-t", "1", "--paths", "int8,torch:fp32", "-o", "jsonl"
    )
    assert code == 1
    assert [json.loads(line)["path"] for line in out.splitlines()] == ["int8"]
    assert "error: path torch:fp32 failed: its process was killed by SIGKILL" in err


def test_a_bug_in_a_path_shows_its_traceback(
    kernel: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken(Worker):
        def ask(self, do: str, *arguments: Any, **named: Any) -> dict[str, Any]:
            if (self.path, do) == ("torch:fp32", "bind"):
                named["threads"] = "two"
            return super().ask(do, *arguments, **named)

    monkeypatch.setattr(microbench, "Worker", Broken)
    code, _, err = kernel(*SMALL, "--paths", "int8,torch:fp32", "-r", "1")
    assert code == 1
    assert "Traceback (most recent call last)" in err
    assert "error: path torch:fp32 failed: RuntimeError: set_num_threads" in err


def test_a_forced_instruction_set_is_in_the_record(kernel: Command) -> None:
    arguments = ("--shape", "32x64", "-m", "1", "-t", "1", "--paths", "int8", "-o", "jsonl")
    code, out, _ = kernel(*arguments, "--isa", "generic", "--arithmetic", "exact")
    assert code == 0
    record = json.loads(out)
    assert (record["isa"], record["arithmetic"]) == ("generic", "exact")
    assert record["max_rel_error"] < 1e-5


def test_an_interrupt_shows_what_was_measured(
    kernel: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Interrupting(Worker):
        def ask(self, do: str, *arguments: Any, **named: Any) -> dict[str, Any]:
            if named.get("n") == 32:
                raise KeyboardInterrupt
            return super().ask(do, *arguments, **named)

    monkeypatch.setattr(microbench, "Worker", Interrupting)
    code, out, err = kernel(
        "--shape", "64x96,32x64", "-m", "1", "-t", "1", "--paths", "int8", "-o", "jsonl"
    )
    assert code == INTERRUPTED
    assert [json.loads(line)["n"] for line in out.splitlines()] == [64]
    assert "interrupted" in err
