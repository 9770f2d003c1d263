"""A study: the rows of its table and how their weights were made; its figures are other records."""

from __future__ import annotations

from typing import Any

from sllmbench.record.base import Frozen

STUDY_SCHEMA_VERSION = 1
"""History:
1  first version
"""


class Conversion(Frozen):
    """A quantised copy of a model, as the one who made it told."""

    folder: str
    kind: str
    settings: dict[str, Any]
    """Of the method: its name, bits, group size and what else it reads."""
    calibration: dict[str, Any] | None
    stored_bytes: int
    """Of every file in the folder."""
    error_of: str
    """What the relative errors are of: ``outputs`` over the calibration text, or ``weights``."""
    median_error: float
    worst_error: float
    worst_linear: str


class StudyRow(Frozen):
    """A row of a study's table: which weights, and which way they are multiplied."""

    weights: str
    """``vanilla`` or the method that quantised them, as ``GPTQ``."""
    way: str
    """The float type of vanilla weights, else ``fused`` or ``unfused``."""
    path: str
    model: str
    """As a path's process opens it."""

    @property
    def label(self) -> str:
        """What the table calls it."""
        return f"{self.weights} {self.way}"


class Study(Frozen):
    """What a study compares."""

    schema_version: int = STUDY_SCHEMA_VERSION
    model: str
    rows: tuple[StudyRow, ...]
    """The first is what ratios and differences are against."""
    tasks: tuple[str, ...]
    limit: int | None
    """Questions of each task, keys of each length; None: all of them."""
    conversions: dict[str, Conversion]
    """By the rows' ``weights``; one whose maker was killed before it could tell is missing."""
