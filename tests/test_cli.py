"""The command line: bad input is one line and exit code 2, results are on stdout alone."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from sllmbench import cli
from sllmbench.bench import RunResult
from sllmbench.checkpoints import open_checkpoint
from sllmbench.cli.arguments import Output
from sllmbench.cli.commands import run as run_command
from sllmbench.paths import default_paths
from sllmbench.record import Record

if TYPE_CHECKING:
    from collections.abc import Callable

    Command = Callable[..., tuple[int, str, str]]

STORED = Path(__file__).parent / "data" / "run.json"


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs ``sllmbench ...`` in this process: exit code, stdout, stderr."""

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["sllmbench", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        captured = capsys.readouterr()
        return int(ended.value.code or 0), captured.out, captured.err

    return call


@pytest.fixture
def run(command: Command, tmp_path: Path) -> Command:
    """Runs ``sllmbench run ...`` with a store of its own and small sizes, which may be changed."""

    def call(*arguments: object) -> tuple[int, str, str]:
        small = ("-p", 8, "-n", 2, "-r", 1, "-t", 1, "--store", tmp_path / "s.sqlite")
        return command("run", *small, *arguments)

    return call


def process(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", "-m", "sllmbench", *arguments],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )


def assert_bad_input(result: tuple[int, str, str], message: str) -> None:
    code, out, err = result
    lines = [line for line in err.splitlines() if not line.startswith(("[", "tokenising"))]
    assert code == 2, err
    assert out == ""
    assert len(lines) == 1, err
    assert lines[0].startswith("error: ")
    assert message in lines[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("no-such-model",), "unknown model 'no-such-model'"),
        (("/no/such/folder",), "/no/such/folder does not exist"),
        (("random:gpt-5",), "unknown model 'random:gpt-5'"),
        (("--paths", "fp31"), "unknown path 'fp31' (did you mean 'fp32'?)"),
        (("--paths", "fp32,"), "unknown path ''"),
        (("--paths", "int8,int8"), "path 'int8' is given twice"),
        (("TINY", "--paths", "gguf"), "path gguf cannot run here"),
        (("TINY", "--reference", "fp64"), "the reference 'fp64' is not among the paths"),
        (("-t", 0), "threads must be at least 1, not 0"),
        (("-p", 0), "n_prompt must be at least 1, not 0"),
        (("-n", 0), "n_gen must be at least 1, not 0"),
        (("-r", -3), "repetitions must be at least 1, not -3"),
        (("--eval-tokens", 0), "eval_tokens must be at least 3, not 0"),
        (("TINY", "-p", 600), "takes at most 512 positions"),
        (("--device", "gpu"), "unknown device 'gpu'; choose cpu, cuda or cuda:N"),
        (("TINY", "--text", "nonsense"), "unknown text 'nonsense'"),
        (("TINY", "--text", "./none.txt"), "cannot read the text ./none.txt"),
        (("TINY", "--store", "/proc/none/s.sqlite"), "cannot make the store's folder"),
        (("TINY", "--store", "TINY"), "cannot be opened or made"),
        (("TINY", "--store", __file__), "is not a SQLite database"),
    ],
)
def test_bad_input(
    run: Command, tiny_llama: Path, arguments: tuple[object, ...], message: str
) -> None:
    asked = [tiny_llama if argument == "TINY" else argument for argument in arguments]
    assert_bad_input(run(*asked), message)


def test_truncated_safetensors(run: Command, tiny_llama: Path, tmp_path: Path) -> None:
    broken = Path(shutil.copytree(tiny_llama, tmp_path / "broken"))
    weights = broken / "model.safetensors"
    os.truncate(weights, weights.stat().st_size - 1000)
    assert_bad_input(run(broken, "--paths", "fp32", "--no-quality"), "model.safetensors")


def test_not_finite_weights(run: Command, tiny_llama: Path, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    broken = Path(shutil.copytree(tiny_llama, tmp_path / "broken"))
    tensors = load_file(broken / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"][3, 5] = torch.nan
    save_file(tensors, broken / "model.safetensors", {"format": "pt"})
    result = run(broken, "--paths", "int8", "--no-quality")
    assert_bad_input(result, "model.layers.1.mlp.up_proj.weight")


@pytest.mark.parametrize("variable", ["SLLMBENCH_THREADS", "SLLMBENCH_ISA"])
def test_bad_environment(tiny_llama: Path, tmp_path: Path, variable: str) -> None:
    arguments = ("run", str(tiny_llama), "--store", str(tmp_path / "s"), "--no-quality")
    done = process(*arguments, **{variable: "nonsense"})
    assert_bad_input((done.returncode, done.stdout, done.stderr), f"{variable}")
    assert "'nonsense'" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("run", "-n", "many"), "--n-gen"),
        (("run", "-o", "xml"), "xml"),
        (("run", "--arithmetic", "float"), "float"),
        (("walk",), "walk"),
    ],
)
def test_usage_errors_exit_2(command: Command, arguments: tuple[str, ...], named: str) -> None:
    code, out, err = command(*arguments)
    assert (code, out) == (2, "")
    assert named in err


def test_a_path_that_fails_leaves_the_table_of_the_rest(
    run: Command, make_llama: Callable[..., Path], tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    model = make_llama(tied=False)
    tensors = load_file(model / "model.safetensors")
    tensors["model.norm.weight"] *= 1e5  # within float32, beyond float16
    tensors["lm_head.weight"] /= 1e5
    save_file(tensors, model / "model.safetensors", {"format": "pt"})
    text = tmp_path / "words.txt"
    text.write_text(" ".join(f"w{number}" for number in range(1, 101)))
    code, out, err = run(
        model, "--paths", "fp32,fp16", "--text", text, "--eval-tokens", 100, "-o", "table"
    )
    assert code == 1, err
    assert err.splitlines()[-1].startswith("error: path fp16 failed: ")
    assert "not finite" in err.splitlines()[-1]
    assert re.search(r"^~?\* +fp32 ", out, re.MULTILINE)
    assert re.search(r"^†~? +fp16 ", out, re.MULTILINE)
    # Progress, a line a step where there is no terminal, is on stderr alone.
    steps = [line.split("] ")[1] for line in err.splitlines() if line.startswith("[")]
    assert steps[:3] == ["reading the weights", "fp32: loading", "fp16: loading"]
    assert "fp32: loading" not in out
    assert max(len(line) for line in out.splitlines()) <= 80


def stored_result() -> RunResult:
    records = tuple(Record.model_validate(r) for r in json.loads(STORED.read_text()))
    return RunResult(machine=records[0].machine, records=records, reference="fp32")


@pytest.mark.parametrize("output", list(Output))
def test_every_output_is_written_to_stdout(
    capsys: pytest.CaptureFixture[str], output: Output
) -> None:
    result = stored_result()
    run_command._write(result, output)
    out = capsys.readouterr().out
    paths = [record.path for record in result.records]
    readers: dict[Output, Callable[[], list[str]]] = {
        Output.JSON: lambda: [r["path"] for r in json.loads(out)["records"]],
        Output.JSONL: lambda: [json.loads(line)["path"] for line in out.splitlines()],
        Output.CSV: lambda: [r["path"] for r in csv.DictReader(io.StringIO(out))],
        Output.MD: lambda: [c[1].strip("\\* ") for c in split(out)[2 : 2 + len(paths)]],
        Output.TABLE: lambda: [c.lstrip("* ").split()[0] for c in rows_of(out, len(paths))],
    }
    assert readers[output]() == paths


def split(markdown: str) -> list[list[str]]:
    return [line.split("|") for line in markdown.splitlines()]


def rows_of(table: str, count: int) -> list[str]:
    return table.splitlines()[1 : 1 + count]


def test_a_table_that_is_no_terminal_is_plain_text(capsys: pytest.CaptureFixture[str]) -> None:
    run_command._write(stored_result(), Output.TABLE)
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert not any(line.endswith(" ") for line in out.splitlines())
    assert max(len(line) for line in out.splitlines()) <= 80


def test_help_is_quick_and_loads_nothing_heavy() -> None:
    times = []
    for _ in range(3):
        start = time.perf_counter()
        done = process("--help")
        times.append(time.perf_counter() - start)
        assert done.returncode == 0
    assert "run" in done.stdout
    assert min(times) < 0.5
    script = (
        "import sys; sys.argv = ['sllmbench', '--help']\n"
        "from sllmbench.cli import main\n"
        "try: main()\n"
        "except SystemExit: print(*sorted({'torch', 'transformers', 'scipy', 'numpy'}"
        " & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", script], check=True, capture_output=True, text=True
    )
    assert done.stderr.split() == []


def test_help_names_the_default_paths(command: Command, tiny_llama: Path) -> None:
    code, out, _ = command("run", "--help")
    assert code == 0
    assert run_command.DEFAULT_PATHS in "".join(out.split())  # it may be broken over lines
    # A folder of floats has no stored tensors for these.
    stored = {"gguf", "gptq", "awq"}
    floats = tuple(name for name in run_command.DEFAULT_PATHS.split(",") if name not in stored)
    assert default_paths(open_checkpoint(str(tiny_llama))) == floats


def test_version(command: Command) -> None:
    code, out, _ = command("--version")
    assert code == 0
    assert out.startswith("sllmbench 0.")


def test_models_are_listed(command: Command) -> None:
    code, out, _ = command("models")
    assert code == 0
    assert "smollm2-135m" in out
    assert "random:llama-3.2-1b" in out
    assert "Apache-2.0" in out


def test_paths_are_listed(command: Command) -> None:
    code, out, _ = command("paths")
    assert code == 0
    for name in ("fp32", "int8", "int4-g32", "gguf", "unfused-int4", "torch:int4pack"):
        assert name in out


def test_machine_is_described(command: Command) -> None:
    code, out, _ = command("machine", "--no-measure")
    assert code == 0
    for label in ("CPU", "caches", "memory", "kernels", "GPU", "load", "Energy sensors"):
        assert label in out
    assert max(len(line) for line in out.splitlines()) <= 80


def test_machine_as_json(command: Command) -> None:
    code, out, _ = command("machine", "--no-measure", "-o", "json")
    machine: dict[str, Any] = json.loads(out)
    assert code == 0
    assert sum(isa["active"] for isa in machine["isas"]) == 1
    for sensor in machine["energy_sensors"]:
        assert sensor["available"] or sensor["reason"]
