"""``sllmbench compare``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sllmbench.cli.arguments import Alpha, Listing, StoreOption, Threshold, alpha_of, thresholds_of
from sllmbench.cli.display import show

if TYPE_CHECKING:
    from sllmbench.compare import Comparison


def compare(
    base: Annotated[
        str,
        typer.Argument(
            help="A JSON file of ours or pytest-benchmark's, 0001 of .benchmarks, a run or a commit"
            " of the store; several with commas are several runs."
        ),
    ],
    new: Annotated[str, typer.Argument(help="The same of the other side.")],
    threshold: Threshold = None,
    alpha: Alpha = "0.001",
    force: Annotated[
        bool, typer.Option("--force", help="Compare although hardware, threads or such differ.")
    ] = False,
    store: StoreOption = None,
    output: Annotated[
        Listing, typer.Option("-o", "--output", help="What to write to stdout.")
    ] = Listing.TABLE,
) -> None:
    """Say of each benchmark whether it became slower; exit 1 if one did, 3 if it cannot be told."""
    from sllmbench import compare as comparing

    found = comparing.compare(
        _parts(base),
        _parts(new),
        thresholds=thresholds_of(threshold),
        alpha=alpha_of(alpha),
        force=force,
        store=store,
    )
    write(found, output)
    raise typer.Exit(comparing.exit_code(found.verdicts))


def write(found: Comparison, output: Listing) -> None:
    """Write the comparison to stdout."""
    from sllmbench.report import verdicts

    if output is Listing.JSON:
        sys.stdout.write(verdicts.json(found))
    elif output is Listing.MD:
        sys.stdout.write(verdicts.markdown(found))
    else:
        show(lambda width: verdicts.table(found, width))


def _parts(text: str) -> list[str]:
    if Path(text).exists():  # a file's name may hold a comma
        return [text]
    return [part.strip() for part in text.split(",")]
