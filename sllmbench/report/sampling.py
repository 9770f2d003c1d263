"""What the samples behind a median were disturbed by, and whether they were enough."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sllmbench.record import Interference, Sampling

DISTURBED_NOTE = (
    "fewer than six samples, or than half, were undisturbed: the median is of all of them, and"
    " what disturbed them may be in it"
)
_NAMED = 4
"""Rows that a note names; of more it says how many."""


class Sampled(NamedTuple):
    """A row's samples, by the name that a note calls it."""

    name: str
    interference: Sequence[Interference]
    disturbed: bool
    sampling: Sampling


def sampling_notes(rows: Sequence[Sampled]) -> list[str]:
    """Sentences; none where nothing needs to be said."""
    notes = []
    if left_out := [row for row in rows if not row.disturbed and _n_disturbed(row)]:
        notes.append(f"left out as disturbed: {_listed(map(_disturbances, left_out))}")
    if disturbed := [row for row in rows if row.disturbed]:
        notes.append(f"disturbed, yet taken: {_listed(map(_disturbances, disturbed))}")
    if missed := [reached for row in rows if (reached := _missed(row)) is not None]:
        notes.append(f"the precision was not reached: {_listed(missed)}")
    if drifting := [row.name for row in rows if row.sampling.warm is False]:
        notes.append(f"still drifting when their samples began: {_listed(drifting)}")
    return notes


def _n_disturbed(row: Sampled) -> int:
    return sum(bool(what.causes) for what in row.interference)


def _disturbances(row: Sampled) -> str:
    """The row, how many of its samples, and the causes' kinds, the most frequent first."""
    kinds = Counter(cause.partition(":")[0] for what in row.interference for cause in what.causes)
    causes = ", ".join(kind for kind, _ in kinds.most_common())
    return f"{row.name} {_n_disturbed(row)} of {len(row.interference)} ({causes})"


def _missed(row: Sampled) -> str | None:
    asked, reached = row.sampling.precision_asked, row.sampling.precision_reached
    if asked is None or (reached is not None and reached <= asked):
        return None
    return f"{row.name} " + (
        "no interval" if reached is None else f"±{reached:.2%} instead of ±{asked:.2%}"
    )


def _listed(texts: Iterable[str]) -> str:
    listed = list(texts)
    more = len(listed) - _NAMED
    return "; ".join(listed[:_NAMED]) + (f"; and {more} more" if more > 0 else "")
