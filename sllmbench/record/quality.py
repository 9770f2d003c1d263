"""How good a path's predictions are: in a run's record, and as records of their own."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from sllmbench.record.base import Frozen, Origin

QUALITY_SCHEMA_VERSION = 1
"""History:
1  first version
"""


class Quality(Frozen):
    """How far the path's predictions are from the text and from the reference path."""

    perplexity: float
    perplexity_stderr: float
    definition: str
    text: str
    context: int
    stride: int
    n_tokens: int
    """Tokens that were predicted and scored."""
    reference_path: str | None
    kl_divergence: float | None
    """Mean KL(reference ‖ this path) a token, in nats."""
    kl_divergence_stderr: float | None
    top1_agreement: float | None
    top1_agreement_stderr: float | None
    kl_n_tokens: int | None
    kl_reason: str | None = None
    """Why there is no divergence."""


class Difference(Frozen):
    """What the path's figure is above the reference path's, over the same items, paired."""

    value: float
    low: float | None
    high: float | None
    """Of the 95% interval."""
    p_value: float | None
    """How probable so large a difference is by chance where there is none."""
    method: str
    n_gained: int | None = None
    n_lost: int | None = None
    """Items that only this path, and only the reference, got right."""


class Metric(Frozen):
    """One figure of one task.

    ``name`` is lm-evaluation-harness's where that library measured it (``acc,none``).
    """

    name: str
    value: float
    stderr: float | None
    low: float | None
    high: float | None
    """Of the 95% interval."""
    method: str
    """How the interval was made."""
    n: int
    """Items counted, of ``counted``."""
    counted: str
    higher_is_better: bool | None
    chance: float | None = None
    """What guessing gives."""
    difference: Difference | None = None
    """None for the reference, and where nothing is paired."""


class QualityRecord(Origin):
    """One path on one task of a ``sllmbench eval``."""

    kind: Literal["quality"] = "quality"
    schema_version: int = QUALITY_SCHEMA_VERSION
    model: str
    provenance: str
    path: str
    format: str
    kernel: str
    isa: str
    arithmetic: str
    threads: int
    lm_head: str
    weights_bytes: int
    task: str
    """As it was asked for."""
    data: str
    """What was read and how much of it."""
    definition: str
    """The prompt's format, or the cut of the text."""
    notes: tuple[str, ...]
    """What was left out and why."""
    reference: str
    """The path that differences are against."""
    seed: int | None
    seconds: float = Field(ge=0)
    """What the task took this path; others may have used the machine meanwhile."""
    metrics: tuple[Metric, ...]
    samples: dict[str, tuple[float, ...]]
    """Of each item, to seven digits, in the order of the items."""
