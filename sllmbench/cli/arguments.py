"""What several commands take and how it is read; exit codes."""

from __future__ import annotations

import math
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from sllmbench.errors import InputError

INTERRUPTED = 130

StoreOption = Annotated[
    Path | None,
    typer.Option(
        "--store", help="SQLite file for the records.", show_default="in your data folder"
    ),
]


class Output(StrEnum):
    """What a command that measures writes to stdout."""

    TABLE = "table"
    MD = "md"
    CSV = "csv"
    JSON = "json"
    JSONL = "jsonl"


class Arithmetic(StrEnum):
    """How our own kernels compute."""

    EXACT = "exact"
    INT8 = "int8"


def names(text: str | None) -> list[str] | None:
    """Split at commas."""
    return None if text is None else [name.strip() for name in text.split(",")]


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
