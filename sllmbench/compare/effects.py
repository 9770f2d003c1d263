"""How much slower one set of times is than another, and how often chance alone would do that.

Everything is computed on logarithms of times: noise and slowdowns multiply. Three situations:

Rounds (:func:`paired`): both sides were timed in each of several rounds, in an order that was
tossed for each. If both are equal, the sign of every round's log ratio is then a fair coin,
whatever drifts or bursts lie over the rounds: Wilcoxon's signed-rank test is exact. Ratio and
interval are Hodges and Lehmann's, of the same test.

Several runs a side (:func:`independent`): a run's median is one unit, because what changes from
run to run (where memory lies, the clock, neighbours) is common to a run's samples. Chance is what
Brunner and Munzel's rank test says, which does not ask for equal variances, but never less than
Mann and Whitney's exact test, because the former is too sure of itself with few units. Where there
are too few units for any rank test to reach the level asked for, Welch's t test takes its place.

One run on a side: blocks of consecutive samples are the units, as long as four times the
autocorrelation time of the samples, so that a slow drift does not count as many observations.
Nothing here knows how much another run would have differed; :mod:`sllmbench.compare.verdict`
therefore asks for a larger effect.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

COVERAGE = 0.95
MIN_BLOCKS = 6
"""Fewer independent stretches of a run than this say nothing."""
MAX_BLOCKS = 30
_TIMES_AUTOCORRELATION = 4
_STEPS = 20
"""Halvings in the search for an interval's end."""
MAX_ROUNDS = 200
"""More rounds than this are taken together, a stretch's median as one: exact, as the coins are."""

Unit = Literal["round", "run", "block"]


class CannotTellError(Exception):
    """The samples do not allow a comparison; the message says why, without a full stop."""


@dataclass(frozen=True)
class Effect:
    """New time divided by base time.

    Attributes:
        ratio: above 1: the new one is slower.
        low: lower end of the 95% interval; 0 where there are too few units for one.
        high: upper end; infinite where there are too few.
        p: probability of a difference as clear as this, or clearer, between equals.
        test: what ``p`` comes from.
        unit: what was counted as one independent observation.
        base_units: how many of them.
        new_units: the same of the other side.
        base_ns: the base's median.
        new_ns: the new one's.
    """

    ratio: float
    low: float
    high: float
    p: float
    test: str
    unit: Unit
    base_units: int
    new_units: int
    base_ns: float
    new_ns: float


def paired(base_ns: Sequence[float], new_ns: Sequence[float]) -> Effect:
    """Compare two sides that were timed once in each round, in random order within the round.

    Raises:
        ValueError: sides of different length, or times that are not positive and finite.
        CannotTellError: no round at all.
    """
    import numpy as np

    base, new = _logs(base_ns), _logs(new_ns)
    if len(base) != len(new):
        raise ValueError(f"{len(base)} rounds of one side and {len(new)} of the other")
    if not len(base):
        raise CannotTellError("no round was completed")
    ratios = new - base
    if len(ratios) > MAX_ROUNDS:
        ratios = np.array([np.median(part) for part in np.array_split(ratios, MAX_ROUNDS)])
    means = _walsh_averages(ratios)
    rank = _signed_rank_bound(len(ratios))
    low, high = (-math.inf, math.inf) if rank is None else (means[rank], means[-1 - rank])
    return Effect(
        ratio=math.exp(float(np.median(means))),
        low=math.exp(low),
        high=math.exp(high),
        p=_signed_rank_p(ratios),
        test="Wilcoxon's signed ranks of the rounds",
        unit="round",
        base_units=len(ratios),
        new_units=len(ratios),
        base_ns=math.exp(float(np.median(base))),
        new_ns=math.exp(float(np.median(new))),
    )


def independent(
    base_ns: Sequence[Sequence[float]], new_ns: Sequence[Sequence[float]], *, level: float
) -> Effect:
    """Compare two sides of one or more runs each, which were not interleaved.

    Args:
        base_ns: the samples of each run, in the order they were taken.
        new_ns: the same of the other side.
        level: the probability below which a difference will be believed; it decides whether a
            rank test has enough units.

    Raises:
        ValueError: times that are not positive and finite, or a side without a run.
        CannotTellError: too few samples, or samples that hang together too much.
    """
    import numpy as np

    unit: Unit = "run" if min(len(base_ns), len(new_ns)) > 1 else "block"
    base, new = (_units([_logs(run) for run in side], unit) for side in (base_ns, new_ns))
    if len(base) == 0 or len(new) == 0:
        raise ValueError("a side without a run")
    differences = np.subtract.outer(new, base).ravel()
    rank_test_can_tell = 2 / math.comb(len(base) + len(new), len(base)) < min(level, 1 - COVERAGE)
    if rank_test_can_tell:
        test = "ranks (Brunner-Munzel, Mann-Whitney)"
        middle = float(np.median(differences))
        low, high = _rank_interval(base, new, middle, differences)
        p = _rank_p(base, new)
    else:
        test = "Welch's t of log times"
        middle, low, high, p = _welch(base, new)
    return Effect(
        ratio=math.exp(middle),
        low=math.exp(low),
        high=math.exp(high),
        p=p,
        test=test,
        unit=unit,
        base_units=len(base),
        new_units=len(new),
        base_ns=math.exp(float(np.median(base))),
        new_ns=math.exp(float(np.median(new))),
    )


def holm(ps: Sequence[float]) -> list[float]:
    """Adjust p values so that the chance of any false alarm among them stays below the level."""
    adjusted, worst = [0.0] * len(ps), 0.0
    for place, index in enumerate(sorted(range(len(ps)), key=lambda i: ps[i])):
        worst = max(worst, min(1.0, (len(ps) - place) * ps[index]))
        adjusted[index] = worst
    return adjusted


def autocorrelation_time(values: Floats) -> float:
    """How many consecutive values are worth one independent one; 1 where they are independent.

    Geyer's initial monotone sequence, of the values' ranks, which an outlier cannot hide.
    """
    import numpy as np
    from scipy import stats

    n = len(values)
    ranks = stats.rankdata(values) - (n + 1) / 2
    spectrum = np.fft.rfft(ranks, 2 * n)
    covariance = np.fft.irfft(spectrum * spectrum.conj())[:n]
    if covariance[0] <= 0:  # all values are equal
        return 1.0
    correlation = covariance / covariance[0]
    pairs = correlation[0 : n - n % 2 : 2] + correlation[1::2]
    negative = np.flatnonzero(pairs <= 0)
    kept = pairs[: negative[0]] if len(negative) else pairs
    return max(1.0, float(2 * np.minimum.accumulate(kept).sum() - 1))


def _logs(samples_ns: Sequence[float]) -> Floats:
    import numpy as np

    values = np.asarray(samples_ns, dtype=np.float64)
    if not np.all(np.isfinite(values)) or np.any(values <= 0):
        raise ValueError("times must be positive and finite")
    return np.log(values)


def _units(runs: Sequence[Floats], unit: Unit) -> Floats:
    import numpy as np

    for run in runs:
        if not len(run):
            raise CannotTellError("a run has no samples")
    if unit == "run":
        return np.array([np.median(run) for run in runs])
    return np.concatenate([_blocks(run, MAX_BLOCKS) for run in runs])


def _blocks(run: Floats, at_most: int) -> Floats:
    """Medians of consecutive stretches that are long enough to be nearly independent."""
    import numpy as np

    if len(run) < MIN_BLOCKS:
        raise CannotTellError(
            f"only {len(run)} samples; {MIN_BLOCKS} are the fewest that can be judged"
        )
    together = autocorrelation_time(run)
    # The estimate from a few independent samples strays from 1; only a clear excess counts.
    clear = together > 1 + 4 / math.sqrt(len(run))
    least = _TIMES_AUTOCORRELATION * together if clear else 1
    length = max(math.ceil(len(run) / at_most), math.ceil(least))
    count = len(run) // length
    if count < MIN_BLOCKS:
        raise CannotTellError(
            f"the times drift: about {together:.0f} of {len(run)} consecutive samples hang"
            " together, so they are too few; sample for longer, or interleave with `sllmbench ab`"
        )
    return np.array([np.median(part) for part in np.array_split(run, count)])


def _rank_p(base: Floats, new: Floats) -> float:
    from scipy import stats

    ties = len({*base.tolist(), *new.tolist()}) < len(base) + len(new)
    exact = not ties and len(base) * len(new) <= MAX_BLOCKS**2
    mann_whitney = stats.mannwhitneyu(base, new, method="exact" if exact else "asymptotic").pvalue
    return max(float(mann_whitney), _brunner_munzel_p(base, new))


def _brunner_munzel_p(base: Floats, new: Floats) -> float:
    import numpy as np
    from scipy import stats

    if base.max() < new.min() or new.max() < base.min():
        return 0.0  # nothing overlaps: there is no variance to divide by
    if np.ptp(base) == 0 and np.ptp(new) == 0:  # all are one value
        return 1.0
    return float(stats.brunnermunzel(base, new).pvalue)


def _rank_interval(
    base: Floats, new: Floats, middle: float, differences: Floats
) -> tuple[float, float]:
    """The shifts of ``new`` that Brunner and Munzel's test does not reject."""

    def kept(shift: float) -> bool:
        return _brunner_munzel_p(base, new - shift) >= 1 - COVERAGE

    return (
        _edge(kept, middle, float(differences.min())),
        _edge(kept, middle, float(differences.max())),
    )


def _edge(kept: Callable[[float], bool], inside: float, outside: float) -> float:
    if kept(outside):
        return outside
    for _ in range(_STEPS):
        between = (inside + outside) / 2
        inside, outside = (between, outside) if kept(between) else (inside, between)
    return outside


def _welch(base: Floats, new: Floats) -> tuple[float, float, float, float]:
    import numpy as np
    from scipy import stats

    middle = float(new.mean() - base.mean())
    if np.ptp(base) == 0 and np.ptp(new) == 0:
        # Equal to the last digit: the clock is too coarse for a variance.
        raise CannotTellError("the times do not vary at all, so their noise is unknown")
    result: Any = stats.ttest_ind(new, base, equal_var=False)
    interval = result.confidence_interval(COVERAGE)
    return middle, float(interval.low), float(interval.high), float(result.pvalue)


def _walsh_averages(values: Floats) -> Floats:
    import numpy as np

    first, second = np.triu_indices(len(values))
    return np.sort((values[first] + values[second]) / 2)


def _signed_rank_p(values: Floats) -> float:
    """Two-sided and exact, ties and zeros included."""
    import numpy as np
    from scipy import stats

    values = values[values != 0]  # equal times say nothing about which is slower
    if not len(values):
        return 1.0
    # Twice the rank is whole even where ranks are shared.
    doubled = np.rint(2 * stats.rankdata(np.abs(values))).astype(int)
    chances = _sum_chances(doubled.tolist())
    positive = int(doubled[values > 0].sum())
    tail = min(chances[: positive + 1].sum(), chances[positive:].sum())
    return min(1.0, 2 * float(tail))


def _signed_rank_bound(n: int) -> int | None:
    """The index of the Walsh average that ends the interval; None where n is too small."""
    import numpy as np

    fits = np.flatnonzero(np.cumsum(_sum_chances(range(1, n + 1))) <= (1 - COVERAGE) / 2)
    return int(fits[-1]) if len(fits) else None


def _sum_chances(ranks: Iterable[int]) -> Floats:
    """The probability of each sum of the ranks whose coin fell heads."""
    import numpy as np

    chances = np.ones(1)
    for rank in ranks:
        longer = np.zeros(len(chances) + rank)
        longer[: len(chances)] += chances / 2
        longer[rank:] += chances / 2
        chances = longer
    return chances
