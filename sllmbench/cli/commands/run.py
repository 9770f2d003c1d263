"""``sllmbench run``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from sllmbench.cli import display
from sllmbench.cli.arguments import (
    INTERRUPTED,
    ArithmeticOption,
    DeviceOption,
    GenerateOption,
    InterpretersOption,
    Output,
    OutputOption,
    PromptOption,
    ReferenceOption,
    RepetitionsOption,
    StoreOption,
    ThreadsOption,
    fraction,
    names,
    pairs,
)
from sllmbench.cli.display import show, warn_of

if TYPE_CHECKING:
    from sllmbench.bench import RunResult

DEFAULT_PATHS = "fp32,bf16,int8,int4-g32,gguf,gptq,awq,unfused-int4"
"""What the help says; the paths themselves would have to import torch to say it."""


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
    interpreters: InterpretersOption = None,
    n_prompt: PromptOption = 128,
    n_gen: GenerateOption = 32,
    repetitions: RepetitionsOption = 6,
    precision: Annotated[
        str | None,
        typer.Option(
            help="Repeat until the 95% intervals of prefill and decode are narrower than ± this.",
            metavar="1%",
            show_default="-r repetitions, no more",
        ),
    ] = None,
    max_time: Annotated[
        float | None,
        typer.Option(
            help="Seconds after which no further repetition begins.",
            show_default="300 with --precision",
        ),
    ] = None,
    threads: ThreadsOption = None,
    arithmetic: ArithmeticOption = None,
    reference: ReferenceOption = None,
    eval_tokens: Annotated[int, typer.Option(help="Tokens that quality is measured on.")] = 4096,
    text: Annotated[
        str, typer.Option(help="openwebtext, wikipedia or a UTF-8 file: prompt and quality.")
    ] = "openwebtext",
    quality: Annotated[
        bool, typer.Option("--quality/--no-quality", help="Measure perplexity and divergence.")
    ] = True,
    device: DeviceOption = "cpu",
    seed: Annotated[int, typer.Option(help="Of the turns, and of prompts without a text.")] = 0,
    store: StoreOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Measure what each path costs: speed, memory, energy and quality."""
    try:
        with display.progress() as progress:
            from sllmbench.bench import run as run_bench

            result = run_bench(
                model,
                names(paths),
                interpreters=pairs("--in", interpreters),
                n_prompt=n_prompt,
                n_gen=n_gen,
                repetitions=repetitions,
                precision=None if precision is None else fraction("--precision", precision),
                max_seconds=max_time,
                threads=threads,
                arithmetic=None if arithmetic is None else arithmetic.value,
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
    warn_of(result.disturbances)
    for failure in result.failures:
        if failure.detail:
            print(failure.detail, file=sys.stderr)
        print(f"error: {failure.message}", file=sys.stderr)
    if result.interrupted:
        print("interrupted: what was measured is stored", file=sys.stderr)
        raise typer.Exit(INTERRUPTED)
    if result.failures:
        raise typer.Exit(1)


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
