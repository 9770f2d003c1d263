"""The command line: results on stdout, progress and errors on stderr.

Exit codes: 0 done, 1 some path failed, 2 bad input, 130 interrupted. Heavy modules are imported
inside the commands, so that ``--help`` answers at once.
"""

from __future__ import annotations

import signal
import sys
from enum import StrEnum
from pathlib import Path  # noqa: TC003  (typer reads it at run time)
from typing import TYPE_CHECKING, Annotated

import typer

from sllmbench.cli import display
from sllmbench.cli.display import show
from sllmbench.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sllmbench.bench import RunResult
    from sllmbench.microbench import KernelResult

INTERRUPTED = 130
DEFAULT_PATHS = "fp32,bf16,int8,int4-g32,gguf,unfused-int4"
"""What the help says; the paths themselves would have to import torch to say it."""

app = typer.Typer(
    help="Run the same language-model weights over several paths and see what each costs.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class Output(StrEnum):
    """What ``run`` writes to stdout."""

    TABLE = "table"
    MD = "md"
    CSV = "csv"
    JSON = "json"
    JSONL = "jsonl"


class MachineOutput(StrEnum):
    """What ``machine`` writes to stdout."""

    TABLE = "table"
    JSON = "json"


class Arithmetic(StrEnum):
    """How our own kernels compute."""

    EXACT = "exact"
    INT8 = "int8"


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


@app.command()
def run(
    model: Annotated[
        str,
        typer.Argument(
            help="A name of `sllmbench models`, random:NAME, a Hugging Face id, a folder or a"
            " .gguf file."
        ),
    ] = "smollm2-135m",
    paths: Annotated[
        str | None,
        typer.Option(help="Names of `sllmbench paths`, with commas.", show_default=DEFAULT_PATHS),
    ] = None,
    n_prompt: Annotated[int, typer.Option("-p", "--n-prompt", help="Tokens of the prompt.")] = 128,
    n_gen: Annotated[int, typer.Option("-n", "--n-gen", help="Tokens to generate.")] = 32,
    repetitions: Annotated[
        int, typer.Option("-r", "--repetitions", help="Of every timing; 6 give a 95% interval.")
    ] = 6,
    threads: Annotated[
        int | None,
        typer.Option(
            "-t", "--threads", help="Of every kernel.", show_default="SLLMBENCH_THREADS, else all"
        ),
    ] = None,
    arithmetic: Annotated[
        Arithmetic, typer.Option(help="Our kernels' activations: int8, or exact float32.")
    ] = Arithmetic.INT8,
    reference: Annotated[
        str | None,
        typer.Option(help="The path that others are compared with.", show_default="fp32 or first"),
    ] = None,
    eval_tokens: Annotated[int, typer.Option(help="Tokens that quality is measured on.")] = 8192,
    text: Annotated[
        str, typer.Option(help="openwebtext, wikipedia or a UTF-8 file: prompt and quality.")
    ] = "openwebtext",
    quality: Annotated[
        bool, typer.Option("--quality/--no-quality", help="Measure perplexity and divergence.")
    ] = True,
    device: Annotated[str, typer.Option(help="cpu.")] = "cpu",
    seed: Annotated[int, typer.Option(help="Of the turns, and of prompts without a text.")] = 0,
    store: Annotated[
        Path | None,
        typer.Option(help="SQLite file for the records.", show_default="in your data folder"),
    ] = None,
    output: Annotated[
        Output, typer.Option("-o", "--output", help="What to write to stdout.")
    ] = Output.TABLE,
) -> None:
    """Measure what each path costs: speed, memory, energy and quality."""
    try:
        with display.progress() as progress:
            from sllmbench.bench import run as run_bench

            result = run_bench(
                model,
                _names(paths),
                n_prompt=n_prompt,
                n_gen=n_gen,
                repetitions=repetitions,
                threads=threads,
                arithmetic=arithmetic.value,
                eval_tokens=eval_tokens,
                quality=quality,
                reference=reference,
                text=text,
                device=device,
                seed=seed,
                store=store,
                progress=progress,
            )
    except KeyboardInterrupt:  # while the run was prepared: nothing was measured
        print("interrupted", file=sys.stderr)
        raise typer.Exit(INTERRUPTED) from None
    _write(result, output)
    _warn_of(result.disturbances)
    for failure in result.failures:
        if failure.detail:
            print(failure.detail, file=sys.stderr)
        print(f"error: {failure.message}", file=sys.stderr)
    if result.interrupted:
        print("interrupted: what was measured is stored", file=sys.stderr)
        raise typer.Exit(INTERRUPTED)
    if result.failures:
        raise typer.Exit(1)


class Cache(StrEnum):
    """Where the weight is when a product begins."""

    HOT = "hot"
    COLD = "cold"


@app.command()
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
    isa: Annotated[
        str | None, typer.Option(help="Of our kernels, e.g. avx2.", show_default="the best")
    ] = None,
    arithmetic: Annotated[
        Arithmetic, typer.Option(help="Our kernels' activations: int8, or exact float32.")
    ] = Arithmetic.INT8,
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
    seed: Annotated[int, typer.Option(help="Of the operands and the turns.")] = 0,
    output: Annotated[
        Output, typer.Option("-o", "--output", help="What to write to stdout.")
    ] = Output.TABLE,
) -> None:
    """Time one matrix product on our kernels and on other libraries', taking turns."""
    try:
        with display.progress() as progress:
            from sllmbench.microbench import compare_kernels

            result = compare_kernels(
                _names(shape),
                _numbers("-m", m),
                _names(paths),
                model=model,
                threads=None if threads is None else _numbers("-t", threads),
                isa=isa,
                arithmetic=arithmetic.value,
                cache=cache.value,
                baseline=baseline,
                rounds=rounds,
                seed=seed,
                progress=progress,
            )
    except KeyboardInterrupt:  # while it was prepared: nothing was measured
        print("interrupted", file=sys.stderr)
        raise typer.Exit(INTERRUPTED) from None
    _write_kernels(result, output)
    _warn_of(result.disturbances)
    for failure in result.failures:
        print(f"error: {failure}", file=sys.stderr)
    if result.interrupted:
        print("interrupted: the table holds what was measured", file=sys.stderr)
        raise typer.Exit(INTERRUPTED)
    if not result.records:
        print("error: nothing could be measured; the notes say why", file=sys.stderr)
    if result.failures or not result.records:
        raise typer.Exit(1)


@app.command()
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


@app.command()
def models() -> None:
    """List the built-in models and the random ones."""
    from sllmbench.checkpoints import builtin_models
    from sllmbench.cli.listings import models_listing

    show(lambda _: models_listing(builtin_models()))


@app.command("paths")
def list_paths() -> None:
    """List every path: what it is, and why one cannot run here."""
    from sllmbench import matmuls
    from sllmbench.cli.listings import paths_listing
    from sllmbench.paths import path_names, resolve

    found = [resolve(name) for name in path_names()]
    rows = [(p.name, p.summary, p.unsupported()) for p in found]
    bare = [matmuls.resolve(name) for name in matmuls.matmul_names() if name not in path_names()]
    only = [(p.name, f"for `kernel`: {p.summary}", p.unavailable()) for p in bare]
    show(lambda _: paths_listing([*rows, *only]))


def _write(result: RunResult, output: Output) -> None:
    from sllmbench import report

    records, reference = result.records, result.reference
    if output is Output.JSON:
        sys.stdout.write(report.json(result.machine, records, reference))
        return
    if not records:
        return
    if output is Output.TABLE:
        show(lambda width: report.table(records, reference, width))
    elif output is Output.MD:
        sys.stdout.write(report.markdown(records, reference))
    elif output is Output.CSV:
        sys.stdout.write(report.csv(records))
    else:
        sys.stdout.write(report.jsonl(records))


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


def _warn_of(disturbances: Sequence[str]) -> None:
    if disturbances:
        busy = "; ".join(disturbances)
        print(f"warning: the machine was busy as the run began: {busy}", file=sys.stderr)


def _names(text: str | None) -> list[str] | None:
    return None if text is None else [name.strip() for name in text.split(",")]


def _numbers(option: str, text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise InputError(
            f"{option} takes whole numbers with commas, as 1,16,128, not {text!r}"
        ) from None
