"""``sllmbench doctor``: exit codes, outputs, and how long it takes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

import pytest

from sllmbench import cli, doctor
from sllmbench.doctor.finding import Finding, Subject, bad, ok, unmeasured


def run(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", "-m", "sllmbench", "doctor", *arguments],
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_real_run_measures_and_ends_in_time() -> None:
    start = time.perf_counter()
    ended = run("-o", "json")
    seconds = time.perf_counter() - start
    assert ended.stderr == ""
    whole = json.loads(ended.stdout)
    severities = [finding["severity"] for finding in whole["findings"]]
    assert severities == sorted(severities, key=["problem", "notice", "ok"].index)
    assert ended.returncode == (1 if "problem" in severities else 0)
    assert whole["problems"] == severities.count("problem")
    assert whole["measured"]
    for finding in whole["findings"]:
        effect = finding["effect"]
        assert (effect is None) == (finding["severity"] == "ok")
        if effect is not None and effect["value"] is None:
            assert effect["text"].startswith("not measured: ")
    assert seconds < 60  # 4 on a quiet machine


@pytest.mark.parametrize("output", ["table", "md"])
def test_what_is_forced_is_a_problem(output: str) -> None:
    ended = run("--no-measure", "-o", output, SLLMBENCH_ISA="generic", COLUMNS="80")
    assert ended.returncode == 1
    assert "SLLMBENCH_ISA" in ended.stdout
    assert "unset SLLMBENCH_ISA" in [line.strip() for line in ended.stdout.splitlines()]
    assert "problem" in ended.stdout.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "environ"),
    [
        (("-o", "xml"), {}),
        ((), {"SLLMBENCH_ISA": "sse9"}),
        ((), {"SLLMBENCH_THREADS": "two"}),
    ],
)
def test_bad_input(arguments: tuple[str, ...], environ: dict[str, str]) -> None:
    ended = run(*arguments, **environ)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "xml" in ended.stderr or next(iter(environ)) in ended.stderr


def fine(_: Subject) -> list[Finding]:
    return [ok("swap", "none")]


def worth_knowing(_: Subject) -> list[Finding]:
    return [bad("notice", "turbo", "on", unmeasured("a test"))]


def wrong(_: Subject) -> list[Finding]:
    return [bad("problem", "governor", "powersave", unmeasured("a test"), remedy="mend it")]


@pytest.mark.parametrize(
    ("checks", "code", "last"),
    [
        ((fine,), 0, "all well"),
        ((worth_knowing, fine), 0, "0 problems, 1 notice"),
        ((fine, worth_knowing, wrong), 1, "1 problem, 1 notice"),
    ],
)
def test_exit_codes(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    checks: tuple[object, ...],
    code: int,
    last: str,
) -> None:
    monkeypatch.setattr(doctor, "CHECKS", checks)
    monkeypatch.setattr(sys, "argv", ["sllmbench", "doctor", "--no-measure"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    out = capsys.readouterr().out
    assert int(ended.value.code or 0) == code
    assert out.splitlines()[-1] == last
    if len(checks) == 3:
        assert out.startswith("problem")
