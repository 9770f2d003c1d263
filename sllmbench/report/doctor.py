"""What the doctor found, as text for a terminal, as GitHub's markdown and as JSON."""

from __future__ import annotations

import json as json_text
import textwrap
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sllmbench.doctor.finding import Examination, Finding

_LABEL = 9


def text(examination: Examination, width: int) -> str:
    """Findings within ``width`` columns, the most severe first.

    A command stands alone on its line, from the first column and never broken, to be copied.
    """
    lines = []
    for finding in examination.findings:
        if finding.severity == "ok":
            continue
        lines += _wrapped(finding.severity, f"{finding.title}: {finding.found}", width)
        for label, said in _said(finding):
            lines += _wrapped(label, said, width)
        if finding.remedy:
            lines.append(finding.remedy)
        lines.append("")
    fine = ", ".join(f.title for f in examination.findings if f.severity == "ok")
    if fine:
        lines += [*_wrapped("ok", fine, width), ""]
    return "\n".join([*lines, summary(examination)]) + "\n"


def markdown(examination: Examination) -> str:
    """Render each finding as a list entry, its command as a block of code; what is fine below."""
    lines = []
    for finding in examination.findings:
        if finding.severity == "ok":
            continue
        lines.append(f"- **{finding.severity}: {finding.title}**: {_escaped(finding.found)}")
        lines += [f"  - {label}: {_escaped(said)}" for label, said in _said(finding)]
        if finding.remedy:
            lines += ["", "  ```sh", f"  {finding.remedy}", "  ```"]
        lines.append("")
    fine = [f for f in examination.findings if f.severity == "ok"]
    lines += [f"- ok: {f.title}: {_escaped(f.found)}" for f in fine]
    return "\n".join([*lines, "", f"**{summary(examination)}**"]) + "\n"


def json(examination: Examination) -> str:
    """One object: the findings, how many of each severity, the machine."""
    whole = {
        "problems": examination.count("problem"),
        "notices": examination.count("notice"),
        **examination.model_dump(mode="json"),
    }
    return json_text.dumps(whole, indent=2, ensure_ascii=False) + "\n"


def summary(examination: Examination) -> str:
    """The verdict in one line."""
    problems, notices = examination.count("problem"), examination.count("notice")
    if not problems and not notices:
        return "all well"
    return f"{_counted(problems, 'problem')}, {_counted(notices, 'notice')}"


def _said(finding: Finding) -> list[tuple[str, str]]:
    parts = [
        ("effect", None if finding.effect is None else finding.effect.text),
        ("read", finding.source),
        ("advice", finding.advice),
    ]
    return [(label, said) for label, said in parts if said]


def _wrapped(label: str, said: str, width: int) -> list[str]:
    return textwrap.wrap(
        said,
        width,
        initial_indent=f"{label:<{_LABEL}}",
        subsequent_indent=" " * _LABEL,
        break_on_hyphens=False,
    )


def _counted(number: int, what: str) -> str:
    return f"{number} {what}" + ("s" if number != 1 else "")


def _escaped(said: str) -> str:
    return said.replace("*", "\\*")
