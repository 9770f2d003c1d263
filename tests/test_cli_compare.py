"""``sllmbench compare``: exit codes, tables that fit, and help that answers at once."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from sllmbench import cli
from sllmbench.cli.arguments import thresholds_of
from sllmbench.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Command = Callable[..., tuple[int, str, str]]

NAMES = [
    f"tests/bench_long_module_name.py::test_a_kernel[int4-g128-8192x2048-{n}]" for n in range(4)
]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs ``sllmbench compare ...`` in this process: exit code, stdout, stderr."""

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["sllmbench", "compare", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        captured = capsys.readouterr()
        return int(ended.value.code or 0), captured.out, captured.err

    return call


@pytest.fixture
def side(tmp_path: Path) -> Callable[..., Path]:
    """Writes a file with a benchmark for each factor that its times are multiplied with."""

    def call(
        name: str, *factors: float, spreads: tuple[float, ...] = (0.01,) * 4, **facts: Any
    ) -> Path:
        rng = np.random.default_rng(len(name))
        benchmarks = [
            {
                "fullname": full,
                "extra_info": {},
                "stats": {
                    "data": [
                        float(t) for t in factor * 1e-4 * np.exp(spread * rng.normal(size=100))
                    ]
                },
            }
            for full, factor, spread in zip(NAMES, factors, spreads, strict=False)
        ]
        path = tmp_path / name
        path.write_text(json.dumps({"machine_info": facts, "benchmarks": benchmarks}))
        return path

    return call


def test_exit_codes(command: Command, side: Callable[..., Path]) -> None:
    base = side("base.json", 1, 1, 1)
    assert command(base, side("same.json", 1, 1, 1))[0] == 0
    assert command(base, side("faster.json", 0.7, 1, 1))[0] == 0
    assert command(base, side("slower.json", 1.3, 0.7, 1))[0] == 1
    assert command(base, side("unclear.json", 1, 1, 1, spreads=(0.5, 0.01, 0.01)))[0] == 3
    assert command(base, side("both.json", 1, 1.3, 1, spreads=(0.5, 0.01, 0.01)))[0] == 1
    assert command(base, base.with_name("none.json"), "--store", base.with_name("s"))[0] == 2


def test_other_machines_exit_3_and_are_named(command: Command, side: Callable[..., Path]) -> None:
    base, new = side("a.json", 1, python_version="3.11"), side("new.json", 2, python_version="3.12")
    code, out, _ = command(base, new)
    assert code == 3
    assert "python: 3.11, then 3.12" in out
    code, out, _ = command(base, new, "--force")
    assert code == 1
    assert "compared all the same" in " ".join(out.split())


@pytest.mark.parametrize("width", [80, 120])
def test_the_table_fits(
    command: Command, side: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    new = side("new.json", 1.3, 0.7, 1, 1, spreads=(0.01, 0.01, 0.5, 0.01))
    _, out, _ = command(side("a.json", 1, 1, 1, 1), new)
    lines = out.splitlines()
    assert max(map(len, lines)) <= width
    assert lines[0] == "1 slower, 1 faster, 1 cannot tell, 1 same (of 4 benchmarks)"
    for title in ("benchmark", "verdict", "ratio", "95% interval"):
        assert title in lines[2]
    for row, (word, last) in zip(
        lines[3:7], [("slower", 0), ("faster", 1), ("cannot tell", 2), ("same", 3)], strict=True
    ):
        assert f" {word} " in row
        assert f"-{last}]" in row


def test_markdown_names_everything_in_full(command: Command, side: Callable[..., Path]) -> None:
    code, out, _ = command(side("a.json", 1, 1), side("new.json", 1.3, 1, 1), "-o", "md")
    assert code == 1
    assert out.startswith("**1 slower, 1 same (of 2 benchmarks)**\n")
    assert re.search(rf"\| `{re.escape(NAMES[0])}` \| slower \| 1\.(29|30)\d \| 1\.", out)
    assert f"- **only new** {NAMES[2]}" in out
    assert "one run only" in out


def test_json_is_strict_and_whole(command: Command, side: Callable[..., Path]) -> None:
    code, out, _ = command(side("a.json", 1, 1), side("new.json", 1.3, 1), "-o", "json")
    whole = json.loads(out, parse_constant=pytest.fail)
    assert whole["exit_code"] == code == 1
    assert [v["word"] for v in whole["verdicts"]] == ["slower", "same"]
    assert whole["verdicts"][0]["effect"]["low"] < 1.3 < whole["verdicts"][0]["effect"]["high"]


def test_thresholds(command: Command, side: Callable[..., Path]) -> None:
    base, new = side("a.json", 1, 1), side("new.json", 1.05, 1.05)
    assert command(base, new)[0] == 0
    assert command(base, new, "--threshold", "2.5%")[0] == 1
    assert command(base, new, "--threshold", "*-0]=0.025")[0] == 1
    assert command(base, new, "--threshold", f"{NAMES[1]}=2.5%")[0] == 1
    assert thresholds_of(["*a=b=1%", "0.02"]).patterns == (("*a=b", 0.01),)
    for bad in (["=1%"], ["1%", "2%"], ["x"], ["a=0"], ["150%"], ["nan"]):
        with pytest.raises(InputError, match="--threshold"):
            thresholds_of(bad)


def test_several_files_are_several_runs(command: Command, side: Callable[..., Path]) -> None:
    base = ",".join(str(side("b" * n, 1 + n / 1000)) for n in range(1, 6))
    new = ",".join(str(side("n" * n, 1.06 + n / 1000)) for n in range(1, 6))
    code, out, _ = command(base, new)
    assert code == 1
    assert "one run only" not in out


def test_bad_input_is_one_line(command: Command, side: Callable[..., Path]) -> None:
    base = side("a.json", 1)
    broken = base.with_name("broken.json")
    broken.write_text(base.read_text()[:50])
    code, out, err = command(base, broken)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert "is not JSON" in err


def test_help_does_not_load_scipy() -> None:
    script = (
        "import sys\nfrom sllmbench import cli\nsys.argv = ['sllmbench', 'compare', '--help']\n"
        "try: cli.main()\n"
        "finally: print([m for m in ('scipy', 'numpy', 'torch') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.strip().endswith("[]"), done.stdout
