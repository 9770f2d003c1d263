"""``sllmbench study``: one command a study."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path  # noqa: TC003 - typer reads it
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from sllmbench.cli import display
from sllmbench.cli.arguments import (
    INTERRUPTED,
    ArithmeticOption,
    GenerateOption,
    GroupSizeOption,
    PromptOption,
    RepetitionsOption,
    ThreadsOption,
    names,
)
from sllmbench.cli.display import show, warn_of

if TYPE_CHECKING:
    from sllmbench.studies import StudyResult

app = typer.Typer(help="Do a published study again, on a model and a machine of your own.")


class StudyOutput(StrEnum):
    """What a study writes to stdout."""

    TEXT = "text"
    MD = "md"
    JSON = "json"
    CSV = "csv"


@app.callback()
def _studies() -> None:
    """Without this, typer would take a lone command for the group itself."""


@app.command()
def sllm(
    model: Annotated[
        str,
        typer.Argument(
            help="A name of `sllmbench models`, a Hugging Face id, a folder or a .gguf file."
        ),
    ],
    out: Annotated[Path, typer.Argument(help="A folder: its checkpoints and records.")],
    methods: Annotated[str, typer.Option(help="gptq, awq, or both with a comma.")] = "gptq,awq",
    bits: Annotated[int, typer.Option(help="Of a code; AWQ has 4.")] = 4,
    group_size: GroupSizeOption = 64,
    calibration: Annotated[
        str, typer.Option(help="The text, as `sllmbench quantize` takes it.")
    ] = "owt",
    samples: Annotated[int, typer.Option(help="Windows drawn from it.")] = 64,
    sequence_length: Annotated[int, typer.Option(help="Tokens a window.")] = 512,
    tasks: Annotated[
        str, typer.Option(help="Of quality, with commas, as `sllmbench eval` takes them.")
    ] = "perplexity:owt,social_iqa,mmlu,longcontext",
    limit: Annotated[
        int | None,
        typer.Option(
            help="Questions of each task, keys of each length: for a quick look.",
            show_default="all; 20 keys",
        ),
    ] = None,
    eval_tokens: Annotated[int, typer.Option(help="Tokens of each perplexity text.")] = 8192,
    n_prompt: PromptOption = 128,
    n_gen: GenerateOption = 32,
    repetitions: RepetitionsOption = 6,
    threads: ThreadsOption = None,
    arithmetic: ArithmeticOption = None,
    seed: Annotated[int, typer.Option(help="Of windows, turns, prompt and keys.")] = 0,
    output: Annotated[
        StudyOutput, typer.Option("-o", "--output", help="What to write to stdout.")
    ] = StudyOutput.TEXT,
) -> None:
    """Vanilla, GPTQ and AWQ weights: quality, tokens/s and memory in one table.

    The same command goes on after an interruption; what is finished is not measured again.
    """
    try:
        with display.progress() as progress:
            from sllmbench.studies import study_sllm

            result = study_sllm(
                model,
                out,
                methods=names(methods) or (),
                bits=bits,
                group_size=group_size,
                calibration=calibration,
                samples=samples,
                sequence_length=sequence_length,
                tasks=names(tasks) or (),
                limit=limit,
                eval_tokens=eval_tokens,
                n_prompt=n_prompt,
                n_gen=n_gen,
                repetitions=repetitions,
                threads=threads,
                arithmetic="int8" if arithmetic is None else arithmetic.value,
                seed=seed,
                progress=progress,
            )
    except KeyboardInterrupt:  # while a checkpoint was made: nothing was measured in this call
        _end_interrupted()
    _write(result, output)
    warn_of(result.disturbances)
    for failure in result.failures:
        if failure.detail:
            print(failure.detail, file=sys.stderr)
        print(f"error: {failure.message}", file=sys.stderr)
    if result.interrupted:
        _end_interrupted()
    if result.failures:
        raise typer.Exit(1)


def _end_interrupted() -> NoReturn:
    print("interrupted: what is finished is kept, and the same command goes on", file=sys.stderr)
    raise typer.Exit(INTERRUPTED)


def _write(result: StudyResult, output: StudyOutput) -> None:
    from sllmbench.report import study as report

    found = (result.study, result.speed, result.quality)
    if output is StudyOutput.TEXT:
        show(lambda width: report.table(*found, width))
    elif output is StudyOutput.MD:
        sys.stdout.write(report.markdown(*found))
    elif output is StudyOutput.JSON:
        sys.stdout.write(report.json(*found))
    else:
        sys.stdout.write(report.csv(*found))
