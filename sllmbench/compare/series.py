"""A benchmark's times: runs of samples, with what identifies where they were taken."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

ENOUGH_UNDISTURBED = 6
"""The fewest samples whose median has a distribution-free 95% interval."""


@dataclass(frozen=True)
class Run:
    """One session's samples of one benchmark.

    Attributes:
        samples_ns: in the order they were taken, the disturbed ones too.
        disturbed: which of them were, one entry a sample.
        identity: what must be equal in a fair comparison, by name, e.g. ``{"threads": "2"}``.
        source: where it was read, for messages.
        commit: of the repository measured; None where unknown.
        created_utc: when, in ISO 8601; empty where unknown.
    """

    samples_ns: tuple[float, ...]
    disturbed: tuple[bool, ...]
    identity: Mapping[str, str] = field(default_factory=dict)
    source: str = ""
    commit: str | None = None
    created_utc: str = ""

    def usable_ns(self) -> tuple[float, ...]:
        """The undisturbed samples where six of them, and half of all, are; else all of them.

        The rule of :func:`sllmbench.measure.interference.keep`, so that a record's median is this
        one's.
        """
        quiet = tuple(
            ns for ns, bad in zip(self.samples_ns, self.disturbed, strict=True) if not bad
        )
        enough = len(quiet) >= ENOUGH_UNDISTURBED and not self.mostly_disturbed()
        return quiet if enough else self.samples_ns

    def mostly_disturbed(self) -> bool:
        """Whether more samples were disturbed than not."""
        return 2 * sum(self.disturbed) > len(self.disturbed)


@dataclass(frozen=True)
class Series:
    """One side of a comparison: a named benchmark and its runs, at least one."""

    name: str
    runs: tuple[Run, ...]


def quiet(samples_ns: Sequence[float], **facts: object) -> Run:
    """Make a run of samples beside which nothing was watched."""
    return Run(tuple(samples_ns), (False,) * len(samples_ns), **facts)  # type: ignore[arg-type]
