"""``sllmbench ab``."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from sllmbench.cli import display
from sllmbench.cli.arguments import (
    INTERRUPTED,
    Alpha,
    Listing,
    Threshold,
    alpha_of,
    fraction,
    thresholds_of,
)
from sllmbench.cli.commands.compare import write
from sllmbench.errors import InputError

if TYPE_CHECKING:
    from sllmbench.ab.rounds import Limits, TurnsResult
    from sllmbench.checkpoints.base import Progress


def ab(
    commands: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="'COMMAND A' 'COMMAND B' | -- PYTEST ARGUMENTS",
            help="Two shell commands; with --rev, which tests pytest runs.",
        ),
    ] = None,
    rev: Annotated[
        list[str] | None,
        typer.Option(help="Twice: the base's commit and the new one, each built and tested."),
    ] = None,
    tests_from: Annotated[
        str | None,
        typer.Option(help="Commit or folder that the tests are of.", show_default="the second rev"),
    ] = None,
    build_command: Annotated[
        str | None,
        typer.Option(
            help="Run in each checkout to install it into $SLLMBENCH_TARGET.",
            show_default="pip install --no-deps --target $SLLMBENCH_TARGET .",
        ),
    ] = None,
    precision: Annotated[
        str, typer.Option(help="Stop when every ratio's 95% interval is ± this.")
    ] = "1%",
    max_time: Annotated[
        float | None,
        typer.Option(help="Begin no round after so many seconds.", show_default="120; --rev 600"),
    ] = None,
    threshold: Threshold = None,
    alpha: Alpha = "0.001",
    seed: Annotated[
        int | None, typer.Option(help="Of the order of turns.", show_default="random")
    ] = None,
    output: Annotated[
        Listing, typer.Option("-o", "--output", help="What to write to stdout.")
    ] = Listing.TABLE,
) -> None:
    """Let two commands, or two commits' benchmarks, take turns; exit codes as `compare`."""
    from sllmbench.ab.rounds import Limits
    from sllmbench.compare import exit_code

    seconds = (600.0 if rev else 120.0) if max_time is None else max_time
    if not seconds > 0:
        raise InputError(f"--max-time must be above 0, not {max_time:g}")
    limits = Limits(
        precision=fraction("--precision", precision),
        max_time_s=seconds,
        thresholds=thresholds_of(threshold),
        alpha=alpha_of(alpha),
        seed=seed,
    )
    try:
        with display.progress() as progress:
            found = _measure(commands or [], rev or [], tests_from, build_command, limits, progress)
    except KeyboardInterrupt:  # before the first round was complete
        print("interrupted", file=sys.stderr)
        raise typer.Exit(INTERRUPTED) from None
    if output is Listing.JSON:
        _write_json(found)
    else:
        write(found.comparison, output)
    if found.stopped_by == "interrupt":
        raise typer.Exit(INTERRUPTED)
    raise typer.Exit(exit_code(found.comparison.verdicts))


def _measure(
    commands: list[str],
    revisions: list[str],
    tests_from: str | None,
    build_command: str | None,
    limits: Limits,
    progress: Progress,
) -> TurnsResult:
    from sllmbench.ab.commands import ab_commands
    from sllmbench.ab.revisions import Revisions, ab_revisions

    if revisions:
        if len(revisions) != 2:
            raise InputError("--rev must be given twice: the base's commit and the new one")
        base, new = revisions
        wanted = Revisions(base, new, commands, tests_from, build_command)
        return ab_revisions(wanted, limits, progress)
    if tests_from is not None or build_command is not None:
        raise InputError("--tests-from and --build-command belong to --rev")
    if len(commands) != 2:
        raise InputError(
            f"{len(commands)} commands; ab compares two, each in quotes, or two commits with --rev"
        )
    first, second = commands
    return ab_commands(first, second, limits, progress)


def _write_json(found: TurnsResult) -> None:
    from sllmbench.report import verdicts

    whole = json.loads(verdicts.json(found.comparison))
    rounds = {name: value for name, value in asdict(found).items() if name != "comparison"}
    sys.stdout.write(json.dumps(whole | rounds, indent=2, ensure_ascii=False) + "\n")
