"""``sllmbench machine``, ``models`` and ``paths``: what is here."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from sllmbench.cli.display import show


class MachineOutput(StrEnum):
    """What ``machine`` writes to stdout."""

    TABLE = "table"
    JSON = "json"


def machine(
    output: Annotated[
        MachineOutput, typer.Option("-o", "--output", help="What to write to stdout.")
    ] = MachineOutput.TABLE,
    measure: Annotated[
        bool, typer.Option("--measure/--no-measure", help="Measure bandwidths and peak rates.")
    ] = True,
) -> None:
    """Describe this computer: kernels, rates, sensors, load."""
    from sllmbench import hardware

    found = hardware.machine(measure)
    if output is MachineOutput.JSON:
        print(found.model_dump_json(indent=2))
        return
    from sllmbench.cli.listings import machine_listing

    show(lambda _: machine_listing(found))


def models() -> None:
    """List the built-in models and the random ones."""
    from sllmbench.checkpoints import builtin_models
    from sllmbench.cli.listings import models_listing

    show(lambda _: models_listing(builtin_models()))


def list_paths() -> None:
    """List every path: what it is, and why one cannot run here."""
    from sllmbench import matmuls
    from sllmbench.cli.listings import paths_listing
    from sllmbench.runners import path_names, resolve

    found = [resolve(name) for name in path_names()]
    rows = [(p.name, p.summary, p.unsupported()) for p in found]
    bare = [matmuls.resolve(name) for name in matmuls.matmul_names() if name not in path_names()]
    only = [(p.name, f"for `kernel`: {p.summary}", p.unavailable()) for p in bare]
    show(lambda _: paths_listing([*rows, *only]))
