"""``sllmbench history``."""

from __future__ import annotations

import sys
from pathlib import Path  # noqa: TC003  (typer reads it at run time)
from typing import Annotated

import typer

from sllmbench.cli.arguments import Listing, StoreOption
from sllmbench.cli.display import show


def history(
    pattern: Annotated[
        str, typer.Argument(metavar="[NAME-GLOB]", help="Of the benchmarks' names.")
    ] = "*",
    store: StoreOption = None,
    plot: Annotated[
        Path | None, typer.Option(help="Draw it into this .png or .svg as well.")
    ] = None,
    output: Annotated[
        Listing, typer.Option("-o", "--output", help="What to write to stdout.")
    ] = Listing.TABLE,
) -> None:
    """Show the store's medians over commits, and where their level changed."""
    from sllmbench.compare.history import history as read
    from sllmbench.report import history as report

    found = read(pattern, store)
    if plot is not None:
        report.plot(found, plot)
    if output is Listing.JSON:
        sys.stdout.write(report.json(found))
    elif output is Listing.MD:
        sys.stdout.write(report.markdown(found))
    else:
        show(lambda width: report.table(found, width))
