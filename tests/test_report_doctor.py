"""What the doctor found, as text, markdown and JSON."""

from __future__ import annotations

import json

import pytest

from sllmbench.doctor.finding import Effect, Examination, Finding
from sllmbench.record import MachineFacts
from sllmbench.report import doctor

COMMAND = "echo performance | sudo tee /sys/devices/system/cpu/cpu*/cpufreq/" + "x" * 40
MACHINE = MachineFacts(
    cpu_model="a", cores=2, memory_bytes=1, isas=("generic",), os="Linux", libraries={}
)


def examination(*findings: Finding) -> Examination:
    return Examination(
        sllmbench_version="1", machine=MACHINE, measured=True, findings=tuple(findings)
    )


PROBLEM = Finding(
    severity="problem",
    title="governor",
    found="powersave on 8 of 8 processors; " * 4,
    effect=Effect(text="a range of 12%", value=12, unit="%"),
    remedy=COMMAND,
    advice="take * care",
    source="/sys/x",
)
NOTICE = Finding(
    severity="notice", title="turbo", found="on", effect=Effect(text="not measured: why")
)
FINE = Finding(severity="ok", title="swap", found="none in use")


def test_text_fits_and_a_command_stands_alone() -> None:
    lines = doctor.text(examination(PROBLEM, NOTICE, FINE), 80).splitlines()
    assert COMMAND in lines
    assert all(len(line) <= 80 for line in lines if line != COMMAND)
    assert lines[-1] == "1 problem, 1 notice"
    starts = [line.split()[0] for line in lines if line and not line.startswith(" ")]
    assert starts == ["problem", "effect", "read", "advice", "echo", "notice", "effect", "ok", "1"]


@pytest.mark.parametrize(
    ("findings", "last"),
    [
        ((), "all well"),
        ((FINE,), "all well"),
        ((NOTICE, NOTICE), "0 problems, 2 notices"),
        ((PROBLEM, PROBLEM), "2 problems, 0 notices"),
    ],
)
def test_the_last_line_is_the_verdict(findings: tuple[Finding, ...], last: str) -> None:
    assert doctor.text(examination(*findings), 80).splitlines()[-1] == last
    assert doctor.markdown(examination(*findings)).splitlines()[-1] == f"**{last}**"


def test_markdown_has_the_command_as_code() -> None:
    lines = doctor.markdown(examination(PROBLEM, FINE)).splitlines()
    at = lines.index("  ```sh")
    assert lines[at + 1] == f"  {COMMAND}"
    assert "  - advice: take \\* care" in lines
    assert "- ok: swap: none in use" in lines


def test_json_holds_everything() -> None:
    whole = json.loads(doctor.json(examination(PROBLEM, NOTICE, FINE)))
    assert (whole.pop("problems"), whole.pop("notices")) == (1, 1)
    assert Examination.model_validate(whole) == examination(PROBLEM, NOTICE, FINE)
