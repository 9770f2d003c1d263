"""``sllmbench history``."""

from __future__ import annotations

import sys
from pathlib import Path  # noqa: TC003  (typer reads it at run time)
from typing import Annotated

import typer

from sllmbench.cli.arguments import Listing, StoreOption
from sllmbench.cli.display import show
from sllmbench.errors import InputError


def history(
    pattern: Annotated[
        str, typer.Argument(metavar="[NAME-GLOB]", help="Of the benchmarks' names.")
    ] = "*",
    store: StoreOption = None,
    plot: Annotated[
        Path | None, typer.Option(help="Draw the lines into this file, as .png or .svg.")
    ] = None,
    output: Annotated[
        Listing, typer.Option("-o", "--output", help="What to write to stdout.")
    ] = Listing.TABLE,
) -> None:
    """Show benchmarks' medians over the commits in the store, change points marked."""
    from sllmbench.compare.history import history as joined
    from sllmbench.report import history as report
    from sllmbench.store import Store

    with Store(store, must_exist=True) as opened:
        path = opened.path
        lines, unknown = joined(opened.records(), pattern)
    if not lines:
        outside = f"; {unknown} runs were made outside a repository" if unknown else ""
        raise InputError(f"no benchmark of {path} matches {pattern!r}{outside}")
    if plot is not None:
        report.plot(lines, plot)
    if output is Listing.JSON:
        sys.stdout.write(report.json(lines, unknown))
    elif output is Listing.MD:
        sys.stdout.write(report.markdown(lines, unknown))
    else:
        show(lambda width: report.table(lines, unknown, width))
