"""The command line: results on stdout, progress and errors on stderr.

Exit codes: 0 done, 1 some path failed or something became slower, 2 bad input, 3 it cannot be told
whether something became slower, 130 interrupted. One file a command; heavy modules are imported
inside the commands, so that ``--help`` answers at once.
"""

from __future__ import annotations

import signal
import sys
from typing import Annotated

import typer

from sllmbench.cli.commands import (
    ab,
    compare,
    cubin,
    doctor,
    evaluate,
    history,
    kernel,
    machine,
    quantize,
    run,
    study,
)
from sllmbench.errors import InputError

app = typer.Typer(
    help="Run the same language-model weights over several paths and see what each costs.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> None:
    """Run the command line and exit."""
    for stream in (sys.stdout, sys.stderr):
        # A terminal that cannot show a sign must not lose a measurement.
        stream.reconfigure(errors="replace")  # type: ignore[union-attr]
    for ending in (signal.SIGTERM, signal.SIGHUP):
        # A scheduler's time limit or a dropped connection must not lose a measurement either;
        # what nohup ignores stays ignored.
        if signal.getsignal(ending) == signal.SIG_DFL:
            signal.signal(ending, signal.default_int_handler)
    try:
        app()
    except InputError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib import metadata

        print(f"sllmbench {metadata.version('sllmbench')}")
        raise typer.Exit


@app.callback()
def _options(
    _show_version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


app.command()(run.run)
app.command("eval")(evaluate.evaluate)
app.command()(kernel.kernel)
app.command()(quantize.quantize)
app.add_typer(study.app, name="study")
app.command()(compare.compare)
app.command()(ab.ab)
app.command()(history.history)
app.command()(cubin.cubin)
app.command()(machine.machine)
app.command()(doctor.doctor)
app.command()(machine.models)
app.command("paths")(machine.list_paths)
