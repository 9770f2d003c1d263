"""Faster, slower, same or cannot tell: the decision for each benchmark of a comparison.

*Slower* (*faster*) asks for both: the ratio lies beyond the benchmark's threshold, and chance alone
would show so clear a difference with a probability below ``alpha``, after Holm's correction for the
number of benchmarks. *Same*: the whole 95% interval lies within the threshold on either side.
Whatever is neither cannot be told, and the reason is said.

The threshold is a fraction t: slower is a ratio above 1 + t, faster one below 1 / (1 + t), so that
exchanging the sides exchanges the verdicts.
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from typing import TYPE_CHECKING, Literal

from sllmbench.compare.effects import CannotTellError, Effect, holm, independent, paired

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from sllmbench.compare.series import Series

Word = Literal["faster", "slower", "same", "cannot tell"]

ALPHA = 0.001
"""Probability of any false alarm in a comparison; 200 of them then have at most 2 almost surely."""
THRESHOLD = 0.03
SINGLE_RUN_THRESHOLD = 0.10
"""Where a side has one run only: another run of the same code may differ by several percent, and
nothing in the samples of one run says by how much."""
SINGLE_RUN_NOTE = "a side has one run only: the interval covers noise within it, not between runs"


@dataclass(frozen=True)
class Thresholds:
    """The smallest slowdown that counts, as fractions.

    Attributes:
        overall: of every benchmark that no pattern matches; None: 3%, or 10% where a side has one
            run and rounds were not interleaved.
        patterns: by shell pattern of the name; the last that matches counts.
    """

    overall: float | None = None
    patterns: tuple[tuple[str, float], ...] = ()

    def of(self, name: str, *, single_run: bool) -> float:
        """The threshold of one benchmark."""
        for pattern, fraction in reversed(self.patterns):
            # Equal first: to a pattern, the brackets of a test's parameters are a set of letters.
            if name == pattern or fnmatchcase(name, pattern):
                return fraction
        if self.overall is not None:
            return self.overall
        return SINGLE_RUN_THRESHOLD if single_run else THRESHOLD


@dataclass(frozen=True)
class Verdict:
    """What can be said of one benchmark.

    Attributes:
        name: the benchmark's.
        word: the decision.
        reason: why it cannot be told; None otherwise.
        threshold: as a fraction.
        effect: None where nothing could be computed.
        p_adjusted: of the effect, corrected for the number of benchmarks.
        notes: what the reader must know besides.
    """

    name: str
    word: Word
    reason: str | None
    threshold: float
    effect: Effect | None
    p_adjusted: float | None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Case:
    """One benchmark before the decision: an effect, or the reason why there is none."""

    name: str
    threshold: float
    effect: Effect | None
    reason: str | None
    notes: tuple[str, ...]


def judge_series(
    pairs: Sequence[tuple[Series, Series]],
    *,
    thresholds: Thresholds | None = None,
    alpha: float = ALPHA,
    blocked: Mapping[str, str] | None = None,
) -> list[Verdict]:
    """Decide on benchmarks whose two sides were measured apart.

    Args:
        pairs: base and new of each benchmark; the names are the bases'.
        thresholds: the default ones if None.
        alpha: probability of any false alarm.
        blocked: by name, why a benchmark's sides may not be compared at all.
    """
    wanted, blocked = thresholds or Thresholds(), blocked or {}
    level = alpha / max(1, len(pairs))
    cases = []
    for base, new in pairs:
        single = min(len(base.runs), len(new.runs)) == 1
        notes = (SINGLE_RUN_NOTE,) if single else ()
        reason = blocked.get(base.name) or _disturbed(base, new)
        cases.append(
            _case(
                base.name,
                wanted.of(base.name, single_run=single),
                reason,
                notes,
                partial(independent, _usable(base), _usable(new), level=level),
            )
        )
    return _decide(cases, alpha)


def judge_rounds(
    rounds: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    *,
    thresholds: Thresholds | None = None,
    alpha: float = ALPHA,
) -> list[Verdict]:
    """Decide on benchmarks whose two sides took turns, in random order within every round.

    Args:
        rounds: base and new times of each benchmark, in ns, one of each a round.
        thresholds: the default ones if None.
        alpha: probability of any false alarm.
    """
    wanted = thresholds or Thresholds()
    return _decide(
        [
            _case(
                name,
                wanted.of(name, single_run=False),
                None,
                (),
                partial(paired, base, new),
            )
            for name, (base, new) in rounds.items()
        ],
        alpha,
    )


def _case(
    name: str,
    threshold: float,
    reason: str | None,
    notes: tuple[str, ...],
    measure: Callable[[], Effect],
) -> _Case:
    if reason is not None:
        return _Case(name, threshold, None, reason, notes)
    try:
        return _Case(name, threshold, measure(), None, notes)
    except CannotTellError as error:
        return _Case(name, threshold, None, str(error), notes)


def _decide(cases: Sequence[_Case], alpha: float) -> list[Verdict]:
    known = [case.effect.p for case in cases if case.effect is not None]
    adjusted = iter(holm(known))
    verdicts = []
    for case in cases:
        p = None if case.effect is None else next(adjusted)
        word, reason = _word(case, p, alpha)
        verdicts.append(
            Verdict(case.name, word, reason, case.threshold, case.effect, p, case.notes)
        )
    return verdicts


def _word(case: _Case, p: float | None, alpha: float) -> tuple[Word, str | None]:
    effect = case.effect
    if effect is None or p is None:
        return "cannot tell", case.reason
    above, below = 1 + case.threshold, 1 / (1 + case.threshold)
    if p < alpha and effect.ratio > above:
        return "slower", None
    if p < alpha and effect.ratio < below:
        return "faster", None
    if below <= effect.low and effect.high <= above:
        return "same", None
    return "cannot tell", _why(effect, p, alpha, case.threshold)


def _why(effect: Effect, p: float, alpha: float, threshold: float) -> str:
    """Why neither a difference nor equality is established."""
    units = "samples" if effect.unit == "block" else f"{effect.unit}s"
    beyond = not 1 / (1 + threshold) <= effect.ratio <= 1 + threshold
    if p < alpha:
        return f"differs, but perhaps by less than the threshold: more {units} would tell"
    if beyond:
        return f"may be chance (p = {p:.2g}, {alpha:g} asked): more {units} would tell"
    return f"the interval is wider than the threshold: more {units} would narrow it"


def _usable(series: Series) -> list[tuple[float, ...]]:
    return [run.usable_ns() for run in series.runs]


def _disturbed(base: Series, new: Series) -> str | None:
    """Why a side's samples do not show its own speed; None where they do."""
    for side, series in (("base", base), ("new", new)):
        bad = [run for run in series.runs if run.mostly_disturbed()]
        if 2 * len(bad) > len(series.runs):
            count = sum(sum(run.disturbed) for run in bad)
            total = sum(len(run.disturbed) for run in bad)
            return f"{side} was disturbed in {count} of {total} samples"
    return None
