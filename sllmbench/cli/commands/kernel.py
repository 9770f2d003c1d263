"""``sllmbench kernel``."""

from __future__ import annotations

import sys
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from sllmbench.cli import display
from sllmbench.cli.arguments import (
    INTERRUPTED,
    ArithmeticOption,
    DeviceOption,
    Output,
    OutputOption,
    StoreOption,
    fraction,
    names,
    numbers,
)
from sllmbench.cli.display import show, warn_of

if TYPE_CHECKING:
    from sllmbench.microbench import KernelResult


class Cache(StrEnum):
    """Where the weight is when a product begins."""

    HOT = "hot"
    COLD = "cold"


def kernel(
    shape: Annotated[
        str | None,
        typer.Option(
            help="Weights NxK (out × in), with commas.",
            show_default="2048x2048,8192x2048,2048x8192",
        ),
    ] = None,
    m: Annotated[
        str, typer.Option("-m", "--rows", help="Rows of activations, with commas.")
    ] = "1,4,16,128",
    paths: Annotated[
        str | None,
        typer.Option(
            help="Names of `sllmbench paths`, with commas.", show_default="the usual ones that run"
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Take the shapes of a model's layers, e.g. llama-3.2-1b.")
    ] = None,
    threads: Annotated[
        str | None,
        typer.Option(
            "-t", "--threads", help="One or several.", show_default="SLLMBENCH_THREADS, else all"
        ),
    ] = None,
    device: DeviceOption = "cpu",
    isa: Annotated[
        str | None, typer.Option(help="Of our kernels, e.g. avx2.", show_default="the best")
    ] = None,
    arithmetic: ArithmeticOption = None,
    cache: Annotated[
        Cache, typer.Option(help="The same weight over and over, or copies that exceed the cache.")
    ] = Cache.HOT,
    baseline: Annotated[
        str | None,
        typer.Option(help="The path that ratios are against.", show_default="torch:bf16 or first"),
    ] = None,
    rounds: Annotated[
        int, typer.Option("-r", "--rounds", help="Turns of each path; 6 give a 95% interval.")
    ] = 9,
    precision: Annotated[
        str | None,
        typer.Option(
            help="Take more turns until the 95% interval of each median is narrower than ± this.",
            metavar="1%",
            show_default="-r turns, no more",
        ),
    ] = None,
    max_time: Annotated[
        float | None,
        typer.Option(
            help="Seconds after which a comparison begins no further round.",
            show_default="30 with --precision",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the operands and the turns.")] = 0,
    store: StoreOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Time one matrix product on our kernels and on other libraries', taking turns."""
    try:
        with display.progress() as progress:
            from sllmbench.microbench import compare_kernels

            result = compare_kernels(
                names(shape),
                numbers("-m", m),
                names(paths),
                model=model,
                threads=None if threads is None else numbers("-t", threads),
                isa=isa,
                device=device,
                arithmetic=None if arithmetic is None else arithmetic.value,
                cache=cache.value,
                baseline=baseline,
                rounds=rounds,
                precision=None if precision is None else fraction("--precision", precision),
                max_seconds=max_time,
                seed=seed,
                store=store,
                progress=progress,
            )
    except KeyboardInterrupt:  # while it was prepared: nothing was measured
        print("interrupted", file=sys.stderr)
        raise typer.Exit(INTERRUPTED) from None
    _write_kernels(result, output)
    warn_of(result.disturbances)
    for failure in result.failures:
        if failure.detail:
            print(failure.detail, file=sys.stderr)
        print(f"error: {failure.message}", file=sys.stderr)
    if result.interrupted:
        print("interrupted: the table holds what was measured", file=sys.stderr)
        raise typer.Exit(INTERRUPTED)
    if not result.records:
        print("error: nothing could be measured; the notes say why", file=sys.stderr)
    if result.failures or not result.records:
        raise typer.Exit(1)


def _write_kernels(result: KernelResult, output: Output) -> None:
    from sllmbench.report import kernels

    records, baseline = result.records, result.baseline
    told = (result.machine, records, baseline, result.notes)
    if output is Output.JSON:
        sys.stdout.write(kernels.json(*told))
    elif output is Output.TABLE:
        show(lambda width: kernels.table(*told, width))
    elif output is Output.MD:
        sys.stdout.write(kernels.markdown(*told))
    else:
        write = kernels.csv if output is Output.CSV else kernels.jsonl
        sys.stdout.write(write(records, baseline))
        for note in result.notes:  # the others hold them
            print(f"note: {note}", file=sys.stderr)
