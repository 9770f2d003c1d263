"""What every command shows: results on stdout, progress on stderr."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from rich.console import Console, RenderableType

    from sllmbench.checkpoints.base import Progress


def show(make: Callable[[int], RenderableType]) -> None:
    """Print what is made for the terminal's width, without the spaces that pad its lines."""
    for line in lines(make):
        print(line)


def lines(make: Callable[[int], RenderableType]) -> list[str]:
    """The lines that :func:`show` prints."""
    screen = console()
    with screen.capture() as captured:
        screen.print(make(screen.width))
    return [line.rstrip() for line in captured.get().splitlines()]


def console(*, stderr: bool = False) -> Console:
    """A console for stdout or stderr, coloured where that is wanted."""
    from rich.console import Console

    return Console(
        stderr=stderr,
        color_system=None if "NO_COLOR" in os.environ else "auto",
        highlight=False,
        soft_wrap=False,
    )


@contextmanager
def progress() -> Iterator[Progress]:
    """Show a bar on a terminal, a line for each step elsewhere; on stderr."""
    screen = console(stderr=True)
    if not screen.is_terminal:
        previous = ""

        def say(what: str, fraction: float | None) -> None:
            nonlocal previous
            if what != previous:
                previous = what
                percent = "" if fraction is None else f"[{fraction:4.0%}] "
                print(f"{percent}{what}", file=sys.stderr, flush=True)

        yield say
        return
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
    )
    # No thread that repaints: it would take its share of the cores that are being timed.
    with Progress(*columns, console=screen, transient=True, auto_refresh=False) as bars:
        task = bars.add_task("starting", total=None)

        def tell(what: str, fraction: float | None) -> None:
            total = None if fraction is None else 1.0
            bars.update(task, description=what, completed=fraction or 0.0, total=total)
            bars.refresh()

        yield tell


def warn_of(disturbances: Sequence[str]) -> None:
    """Say on stderr what was busy as the measurement began."""
    if disturbances:
        busy = "; ".join(disturbances)
        print(f"warning: the machine was busy as the run began: {busy}", file=sys.stderr)
