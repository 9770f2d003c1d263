"""``sllmbench doctor``."""

from __future__ import annotations

import sys
from enum import StrEnum
from typing import Annotated

import typer

from sllmbench.cli.arguments import INTERRUPTED


class DoctorOutput(StrEnum):
    """What ``doctor`` writes to stdout."""

    TABLE = "table"
    MD = "md"
    JSON = "json"


def doctor(
    output: Annotated[
        DoctorOutput, typer.Option("-o", "--output", help="What to write to stdout.")
    ] = DoctorOutput.TABLE,
    measure: Annotated[
        bool, typer.Option("--measure/--no-measure", help="Measure what each finding costs.")
    ] = True,
) -> None:
    """Find what makes numbers on this machine worse than they could be, and what mends it.

    Exit code 0: no problem, notices aside; 1: problems.
    """
    from sllmbench.cli.display import console
    from sllmbench.doctor import examine
    from sllmbench.report import doctor as report

    try:
        found = examine(measure)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        raise typer.Exit(INTERRUPTED) from None
    write = {
        DoctorOutput.TABLE: lambda: report.text(found, console().width),
        DoctorOutput.MD: lambda: report.markdown(found),
        DoctorOutput.JSON: lambda: report.json(found),
    }
    sys.stdout.write(write[output]())
    raise typer.Exit(1 if found.count("problem") else 0)
