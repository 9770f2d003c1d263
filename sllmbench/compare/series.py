"""A benchmark's times: runs of samples, with what identifies where they were taken."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sllmbench.record import undisturbed

if TYPE_CHECKING:
    from collections.abc import Mapping


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
        """Those that the record's own median is of: see :func:`sllmbench.record.undisturbed`."""
        chosen = undisturbed(self.disturbed)
        return self.samples_ns if chosen is None else tuple(self.samples_ns[i] for i in chosen)

    def mostly_disturbed(self) -> bool:
        """Whether more samples were disturbed than not."""
        return 2 * sum(self.disturbed) > len(self.disturbed)


@dataclass(frozen=True)
class Series:
    """One side of a comparison: a named benchmark and its runs, at least one."""

    name: str
    runs: tuple[Run, ...]
