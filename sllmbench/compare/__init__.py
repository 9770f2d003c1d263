"""Which of two measurements is faster, as far as their samples can tell; what changed over commits.

``inputs`` reads series of runs, ``effects`` turns samples into a ratio with its interval and its
probability by chance, ``identity`` names what makes a comparison unfair, ``verdict`` decides.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sllmbench.compare.identity import differences
from sllmbench.compare.verdict import ALPHA, Thresholds, Verdict, judge_series
from sllmbench.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from sllmbench.compare.series import Series

__all__ = ["ALPHA", "Comparison", "Thresholds", "Verdict", "compare", "compare_series", "exit_code"]

SLOWER, CANNOT_TELL = 1, 3


@dataclass(frozen=True)
class Comparison:
    """The verdicts on every benchmark that both sides have.

    Attributes:
        base: what the base is, for the reader.
        new: the same of the new side.
        verdicts: in the base's order.
        differences: what should be equal and is not, each with the benchmarks it concerns.
        forced: whether the verdicts were given in spite of them.
        only_base: benchmarks that the new side lacks.
        only_new: benchmarks that the base lacks.
        alpha: probability of any false alarm.
        notes: what else the reader must know.
    """

    base: str
    new: str
    verdicts: tuple[Verdict, ...]
    differences: dict[str, tuple[str, ...]]
    forced: bool
    only_base: tuple[str, ...]
    only_new: tuple[str, ...]
    alpha: float
    notes: tuple[str, ...] = ()


def compare(
    base: Sequence[str],
    new: Sequence[str],
    *,
    thresholds: Thresholds | None = None,
    alpha: float = ALPHA,
    force: bool = False,
    store: Path | None = None,
) -> Comparison:
    """Compare what two lists of names stand for; see :func:`inputs.read_side` for the names.

    Args:
        base: files, runs or commits; several are several runs of the same.
        new: the same of the other side.
        thresholds: the smallest slowdowns that count; the default ones if None.
        alpha: probability of any false alarm.
        force: give verdicts although hardware, threads, ISA or libraries differ.
        store: the store's file; None: the default one.

    Raises:
        InputError: a name that stands for nothing, a file that cannot be understood, or no
            benchmark on both sides.
    """
    from sllmbench.compare.inputs import read_side

    sides = read_side(base, store), read_side(new, store)
    return compare_series(
        *sides,
        labels=(", ".join(base), ", ".join(new)),
        thresholds=thresholds,
        alpha=alpha,
        force=force,
    )


def compare_series(
    base: Sequence[Series],
    new: Sequence[Series],
    *,
    labels: tuple[str, str],
    thresholds: Thresholds | None = None,
    alpha: float = ALPHA,
    force: bool = False,
) -> Comparison:
    """Compare series that were read already; ``labels`` name the sides for the reader.

    Raises:
        InputError: no benchmark is on both sides.
    """
    others = {series.name: series for series in new}
    pairs = [(series, others[series.name]) for series in base if series.name in others]
    if not pairs:
        raise InputError(
            f"no benchmark is both in {labels[0]} (e.g. {base[0].name}) and in {labels[1]}"
            f" (e.g. {new[0].name})"
        )
    unlike: dict[str, list[str]] = {}
    blocked: dict[str, str] = {}
    for one, other in pairs:
        for difference in differences(one, other):
            unlike.setdefault(difference, []).append(one.name)
            if not force:
                blocked[one.name] = "the sides are not alike; --force compares them"
    known = {series.name for series in base}
    return Comparison(
        base=labels[0],
        new=labels[1],
        verdicts=tuple(judge_series(pairs, thresholds=thresholds, alpha=alpha, blocked=blocked)),
        differences={text: tuple(names) for text, names in unlike.items()},
        forced=force and bool(unlike),
        only_base=tuple(s.name for s in base if s.name not in others),
        only_new=tuple(s.name for s in new if s.name not in known),
        alpha=alpha,
    )


def exit_code(verdicts: Sequence[Verdict]) -> int:
    """0: none is slower; 1: one is; 3: of none it is known, and of one it cannot be told."""
    words = {verdict.word for verdict in verdicts}
    if "slower" in words:
        return SLOWER
    return CANNOT_TELL if "cannot tell" in words else 0
