"""``sllmbench cubin``."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path  # noqa: TC003  (typer reads it at run time)
from typing import TYPE_CHECKING, Annotated

import typer

from sllmbench.cli.display import show

if TYPE_CHECKING:
    from sllmbench.record import CubinRecord


class CubinOutput(StrEnum):
    """What ``cubin`` writes to stdout."""

    TEXT = "text"
    MD = "md"
    CSV = "csv"
    JSON = "json"


def cubin(
    file: Annotated[
        Path | None,
        typer.Argument(
            metavar="FILE",
            help="A .cubin, .o, .so or .cu.",
            show_default="this installation's own kernels",
        ),
    ] = None,
    device: Annotated[
        str, typer.Option(help="The GPU that occupancy is for: t4, gtx1650, …, h100.")
    ] = "t4",
    kernel: Annotated[
        str, typer.Option(metavar="GLOB", help="Of names, template arguments included.")
    ] = "*",
    arch: Annotated[
        str | None, typer.Option(help="As sm_75.", show_default="what the device would run")
    ] = None,
    include: Annotated[
        list[Path] | None,
        typer.Option("-I", "--include", help="Headers of a .cu. May be given several times."),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(min=1, max=1024, help="Of a block.", show_default="__launch_bounds__"),
    ] = None,
    weights_per_trip: Annotated[
        float | None,
        typer.Option(
            min=0.001,
            help="Weights that a lane multiplies in a trip through the main loop.",
            show_default="known of our own kernels",
        ),
    ] = None,
    baseline: Annotated[
        Path | None,
        typer.Option(help="An earlier -o json; exit code 1 where a kernel got worse."),
    ] = None,
    output: Annotated[
        CubinOutput, typer.Option("-o", "--output", help="What to write to stdout.")
    ] = CubinOutput.TEXT,
) -> None:
    """Count what GPU kernels' machine code takes: registers, occupancy, instructions a weight.

    Nothing is run and no GPU is needed; nothing here is a time.
    """
    from sllmbench.cubin import Question, examine

    question = Question(
        device=device,
        kernel=kernel,
        arch=arch,
        includes=tuple(include or ()),
        threads=threads,
        weights_per_trip=weights_per_trip,
    )
    record = examine(file, question)
    _write(record, output)
    if baseline is not None:
        raise typer.Exit(_compare(record, baseline))


def _write(record: CubinRecord, output: CubinOutput) -> None:
    from sllmbench.report import cubin as report

    if output is CubinOutput.TEXT:
        show(lambda width: report.text(record, width))
    else:
        write = {
            CubinOutput.MD: report.markdown,
            CubinOutput.CSV: report.csv,
            CubinOutput.JSON: report.json,
        }
        sys.stdout.write(write[output](record))


def _compare(record: CubinRecord, path: Path) -> int:
    """Say on stderr what got worse; the exit code."""
    from sllmbench.cubin.baseline import added, read, worse

    before = read(path)
    lines = worse(record, before)
    for line in lines:
        print(f"worse: {line}", file=sys.stderr)
    for name in added(record, before):
        print(f"note: {name} is not in the baseline", file=sys.stderr)
    return 1 if lines else 0
