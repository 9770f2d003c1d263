"""``sllmbench eval``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from sllmbench.cli import display
from sllmbench.cli.arguments import (
    INTERRUPTED,
    ArithmeticOption,
    InterpretersOption,
    Output,
    OutputOption,
    ReferenceOption,
    StoreOption,
    ThreadsOption,
    names,
    pairs,
)
from sllmbench.cli.display import show

if TYPE_CHECKING:
    from sllmbench.evaluation import EvaluationResult


def evaluate(
    model: Annotated[
        str,
        typer.Argument(
            help="A name of `sllmbench models`, a Hugging Face id, a folder or a .gguf file."
        ),
    ] = "smollm2-135m",
    tasks: Annotated[
        str,
        typer.Option(
            help="With commas: perplexity:TEXT (owt, wikipedia or a UTF-8 file), social_iqa, mmlu,"
            " longcontext, harness:TASK (of lm-evaluation-harness, or a YAML file)."
        ),
    ] = "perplexity:owt,social_iqa",
    paths: Annotated[
        str, typer.Option(help="Names of `sllmbench paths`, with commas.")
    ] = "fp32,int4-g64",
    interpreters: InterpretersOption = None,
    reference: ReferenceOption = None,
    limit: Annotated[
        int | None,
        typer.Option(
            help="Questions or documents of each task, keys of each length.",
            show_default="all; 20 keys",
        ),
    ] = None,
    eval_tokens: Annotated[int, typer.Option(help="Tokens of each text.")] = 8192,
    context: Annotated[
        int | None, typer.Option(help="Tokens of a window.", show_default="1024 or the model's")
    ] = None,
    stride: Annotated[
        int | None,
        typer.Option(
            help="Tokens from one window to the next; below the context, only new tokens count.",
            show_default="the context",
        ),
    ] = None,
    threads: ThreadsOption = None,
    arithmetic: ArithmeticOption = None,
    seed: Annotated[int, typer.Option(help="Of longcontext's keys and texts.")] = 0,
    store: StoreOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Measure quality, and whether the paths' differences are more than chance."""
    try:
        with display.progress() as progress:
            from sllmbench.evaluation import evaluate as run_evaluation

            result = run_evaluation(
                model,
                names(tasks) or (),
                names(paths),
                interpreters=pairs("--in", interpreters),
                reference=reference,
                limit=limit,
                eval_tokens=eval_tokens,
                context=context,
                stride=stride,
                threads=threads,
                arithmetic=None if arithmetic is None else arithmetic.value,
                seed=seed,
                store=store,
                progress=progress,
            )
    except KeyboardInterrupt:  # while it was prepared: nothing was measured
        print("interrupted", file=sys.stderr)
        raise typer.Exit(INTERRUPTED) from None
    _write(result, output)
    for failure in result.failures:
        if failure.detail:
            print(failure.detail, file=sys.stderr)
        print(f"error: {failure.message}", file=sys.stderr)
    if result.interrupted:
        print("interrupted: what was measured is stored", file=sys.stderr)
        raise typer.Exit(INTERRUPTED)
    if result.failures:
        raise typer.Exit(1)


def _write(result: EvaluationResult, output: Output) -> None:
    from sllmbench.report import quality

    if output is Output.JSON:
        sys.stdout.write(quality.json(result.machine, result.records, result.reference))
    elif not result.records:
        return
    elif output is Output.TABLE:
        show(lambda width: quality.table(result.records, width))
    elif output is Output.MD:
        sys.stdout.write(quality.markdown(result.records))
    elif output is Output.CSV:
        sys.stdout.write(quality.csv(result.records))
    else:
        sys.stdout.write(quality.jsonl(result.records))
