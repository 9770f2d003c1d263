"""``sllmbench quantize``."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path  # noqa: TC003 - typer reads it
from typing import Annotated

import typer

from sllmbench.cli import display
from sllmbench.cli.arguments import INTERRUPTED, GroupSizeOption


class Method(StrEnum):
    """How codes are chosen."""

    RTN = "rtn"
    GPTQ = "gptq"
    AWQ = "awq"


class SummaryOutput(StrEnum):
    """What ``quantize`` writes to stdout."""

    TEXT = "text"
    JSON = "json"


def quantize(
    model: Annotated[
        str,
        typer.Argument(
            help="A name of `sllmbench models`, random:NAME, a Hugging Face id, a folder or a"
            " .gguf file."
        ),
    ],
    out: Annotated[Path, typer.Argument(help="The folder to write, or the file of a GGUF type.")],
    to: Annotated[
        str | None,
        typer.Option(
            help="gptq, gptq_v2, awq, compressed-tensors, hf (dequantised floats), or a GGUF type"
            " as Q4_K_M.",
            show_default="awq for --method awq, else gptq",
        ),
    ] = None,
    method: Annotated[
        Method | None,
        typer.Option(help="A GGUF type has its own.", show_default="gptq"),
    ] = None,
    bits: Annotated[int, typer.Option(help="2, 3, 4 or 8.")] = 4,
    group_size: GroupSizeOption = 128,
    sym: Annotated[
        bool | None,
        typer.Option(
            "--sym/--asym",
            help="Codes around a fixed zero, or a zero point a group.",
            show_default="asym for awq, else sym",
        ),
    ] = None,
    desc_act: Annotated[
        bool, typer.Option("--desc-act", help="GPTQ: channels with the largest inputs first.")
    ] = False,
    static_groups: Annotated[
        bool, typer.Option("--static-groups", help="GPTQ: every scale before the first code.")
    ] = False,
    true_sequential: Annotated[
        bool,
        typer.Option(
            "--true-sequential/--layer-at-once",
            help="GPTQ: a linear sees what those before it give once quantised, or its layer's"
            " float inputs.",
        ),
    ] = True,
    damp_percent: Annotated[
        float, typer.Option(help="GPTQ: added to the Hessian, of its mean diagonal.")
    ] = 0.01,
    mse_clip: Annotated[
        bool, typer.Option("--mse-clip", help="rtn, gptq: scales of least squared error.")
    ] = False,
    calibration: Annotated[
        str | None,
        typer.Option(
            help="owt, wikipedia, wikitext2, pile, FILE.txt, FILE.jsonl or"
            " hf:DATASET[:CONFIG][:SPLIT].",
            show_default="owt for gptq and awq, else none",
        ),
    ] = None,
    samples: Annotated[int, typer.Option(help="Windows drawn from the text.")] = 64,
    sequence_length: Annotated[int, typer.Option(help="Tokens a window.")] = 512,
    seed: Annotated[int, typer.Option(help="Of the drawing.")] = 0,
    threads: Annotated[
        int | None, typer.Option("-t", "--threads", help="Of the walk.", show_default="all")
    ] = None,
    overwrite: Annotated[
        bool,
        typer.Option("--overwrite", help="Replace OUT; begin anew where other layers are kept."),
    ] = False,
    output: Annotated[
        SummaryOutput, typer.Option("-o", "--output", help="What to write to stdout.")
    ] = SummaryOutput.TEXT,
) -> None:
    """Quantise a model and write a checkpoint that other tools read.

    The same command goes on after a kill: finished layers are kept in OUT.partial.
    """
    try:
        with display.progress() as progress:
            from sllmbench.convert import quantize_model

            summary = quantize_model(
                model,
                out,
                to=to,
                method=None if method is None else method.value,
                bits=bits,
                group_size=group_size,
                sym=sym,
                desc_act=desc_act,
                static_groups=static_groups,
                true_sequential=true_sequential,
                damp_percent=damp_percent,
                mse_clip=mse_clip,
                calibration=calibration,
                samples=samples,
                sequence_length=sequence_length,
                seed=seed,
                threads=threads,
                overwrite=overwrite,
                progress=progress,
            )
    except KeyboardInterrupt:
        print(
            "interrupted: finished layers are kept, and the same command goes on", file=sys.stderr
        )
        raise typer.Exit(INTERRUPTED) from None
    from sllmbench.report import quantize as report

    write = report.json if output is SummaryOutput.JSON else report.text
    sys.stdout.write(write(summary))
