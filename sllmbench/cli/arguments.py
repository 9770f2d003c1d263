"""What several commands take and how it is read; exit codes."""

from __future__ import annotations

import math
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sllmbench.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sllmbench.compare import Thresholds

INTERRUPTED = 130

StoreOption = Annotated[
    Path | None,
    typer.Option(
        "--store", help="SQLite file for the records.", show_default="in your data folder"
    ),
]
InterpretersOption = Annotated[
    list[str] | None,
    typer.Option(
        "--in",
        help="The Python that a path runs in, of an environment with sllmbench in it."
        " May be given several times.",
        metavar="PATH=PYTHON",
        show_default="this one",
    ),
]


class Arithmetic(StrEnum):
    """How our own kernels compute."""

    EXACT = "exact"
    INT8 = "int8"


class Output(StrEnum):
    """What a command that measures writes to stdout."""

    TABLE = "table"
    MD = "md"
    CSV = "csv"
    JSON = "json"
    JSONL = "jsonl"


ThreadsOption = Annotated[
    int | None,
    typer.Option(
        "-t", "--threads", help="Of every kernel.", show_default="SLLMBENCH_THREADS, else all"
    ),
]
ArithmeticOption = Annotated[
    Arithmetic | None,
    typer.Option(
        help="Our kernels' activations: int8, or exact: float32, on a GPU float16.",
        show_default="int8, on a GPU exact",
    ),
]
PromptOption = Annotated[int, typer.Option("-p", "--n-prompt", help="Tokens of the prompt.")]
GenerateOption = Annotated[int, typer.Option("-n", "--n-gen", help="Tokens to generate.")]
RepetitionsOption = Annotated[
    int, typer.Option("-r", "--repetitions", help="Of every timing; 6 give a 95% interval.")
]
GroupSizeOption = Annotated[int, typer.Option(help="Inputs that share a scale; -1: a whole row.")]
DeviceOption = Annotated[str, typer.Option(help="cpu, cuda or cuda:N.", metavar="DEVICE")]
ReferenceOption = Annotated[
    str | None,
    typer.Option(help="The path that others are compared with.", show_default="fp32 or first"),
]
OutputOption = Annotated[Output, typer.Option("-o", "--output", help="What to write to stdout.")]


class Listing(StrEnum):
    """What a command that compares writes to stdout."""

    TABLE = "table"
    MD = "md"
    JSON = "json"


Threshold = Annotated[
    list[str] | None,
    typer.Option(
        help="The slowdown that counts, as 2.5% or 0.025; 'NAME-GLOB=2.5%' for some benchmarks."
        " May be given several times.",
        show_default="3%, or 10% with one run a side",
    ),
]
Alpha = Annotated[
    str, typer.Option(help="Probability of any false alarm among all the benchmarks.")
]


def names(text: str | None) -> list[str] | None:
    """Split at commas."""
    return None if text is None else [name.strip() for name in text.split(",")]


def pairs(option: str, texts: Sequence[str] | None) -> dict[str, str]:
    """Read every ``option``, each a name, ``=`` and what belongs to it.

    Raises:
        InputError: one has no name or nothing behind it, or a name is there twice.
    """
    found: dict[str, str] = {}
    for text in texts or ():
        name, _, value = text.partition("=")
        if not name or not value:
            raise InputError(f"{option} takes NAME=VALUE, not {text!r}")
        if name in found:
            raise InputError(f"{option} names {name} twice")
        found[name] = value
    return found


def numbers(option: str, text: str) -> list[int]:
    """Split at commas into whole numbers.

    Raises:
        InputError: ``option`` holds something else.
    """
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise InputError(
            f"{option} takes whole numbers with commas, as 1,16,128, not {text!r}"
        ) from None


def fraction(option: str, text: str) -> float:
    """Read a share: ``1%``, ``0.5%``, or ``0.01`` for the first of them.

    Raises:
        InputError: ``option`` holds something else, or nothing between 0 and 100%.
    """
    number, percent, rest = text.strip().partition("%")
    try:
        value = float(number) / (100 if percent else 1)
    except ValueError:
        value = math.nan
    if rest or not 0 < value < 1:
        raise InputError(f"{option} takes a share between 0 and 100%, as 1% or 0.01, not {text!r}")
    return value


def alpha_of(text: str) -> float:
    """Read ``--alpha``.

    Raises:
        InputError: it is no share.
    """
    return fraction("--alpha", text)


def thresholds_of(texts: Sequence[str] | None, option: str = "--threshold") -> Thresholds:
    """Read every ``option``: a share, or one behind a pattern and ``=``.

    Raises:
        InputError: one is no share, or the overall one is there twice.
    """
    from sllmbench.compare import Thresholds

    overall, patterns = None, []
    for text in texts or ():
        pattern, equals, share = text.rpartition("=")
        value = fraction(option, share)
        if pattern:
            patterns.append((pattern, value))
        elif equals or overall is not None:
            raise InputError(
                f"{option} {text}: one for all and 'NAME-GLOB=2.5%' for some benchmarks"
            )
        else:
            overall = value
    return Thresholds(overall, tuple(patterns))
