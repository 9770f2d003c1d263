"""Of samples of one time: the median's interval, and whether they still drift."""

from __future__ import annotations

import math
import statistics
from fractions import Fraction
from functools import lru_cache
from typing import TYPE_CHECKING

from sllmbench.record import Interval

if TYPE_CHECKING:
    from collections.abc import Sequence

LARGEST_DRIFT_WINDOW = 6
_CRITICAL_U = {4: 0, 5: 2, 6: 5}
"""Mann and Whitney's U of two samples of that size is this or less by chance in at most 5%, both
sides taken together (their table)."""


def median_interval(samples: Sequence[float], coverage: float = 0.95) -> Interval:
    """Return the median and the narrowest symmetric pair of order statistics that covers it.

    The number of samples below the true median is binomial whatever the distribution, so the
    pair covers it with at least the probability ``coverage``; with too few samples for any pair
    (five or fewer at 0.95) the bounds are None.

    Raises:
        ValueError: no samples, one that is not finite, or a coverage outside (0, 1).
    """
    if not samples or not all(math.isfinite(sample) for sample in samples):
        raise ValueError("the samples must be finite numbers, at least one of them")
    if not 0 < coverage < 1:
        raise ValueError(f"coverage {coverage} is not between 0 and 1")
    ordered = sorted(samples)
    rank = _lowest_bound_rank(len(ordered), coverage)
    return Interval(
        median=statistics.median(ordered),
        low=None if rank is None else ordered[rank],
        high=None if rank is None else ordered[-1 - rank],
        coverage=coverage,
    )


def half_width(interval: Interval) -> float | None:
    """Half the interval's width as a fraction of the median; None where there is no interval."""
    if interval.low is None or interval.high is None or interval.median <= 0:
        return None
    return (interval.high - interval.low) / 2 / interval.median


def drifts(samples: Sequence[float]) -> bool | None:
    """Whether the beginning of the samples differs from their end; None where too few can tell.

    Two tests, either of which is enough: the first sample lies above Q3 + 1.5 IQR of the others,
    as the first run of what is cold does (pyperf's rule); or the first and the last six (four at
    least, of fewer samples) differ in rank beyond chance at 5%. Ranks, because a disturbed sample
    far off must not decide.
    """
    window = min(LARGEST_DRIFT_WINDOW, len(samples) // 2)
    if window not in _CRITICAL_U:
        return None
    lower, _, upper = statistics.quantiles(samples[1:], n=4, method="inclusive")
    if samples[0] > upper + 1.5 * (upper - lower):
        return True
    u = sum(
        (early < late) + (early == late) / 2
        for early in samples[:window]
        for late in samples[-window:]
    )
    return min(u, window**2 - u) <= _CRITICAL_U[window]


@lru_cache(maxsize=4096)
def _lowest_bound_rank(n: int, coverage: float) -> int | None:
    """The largest rank r, from 0, with P(Binomial(n, 1/2) <= r) <= (1 - coverage) / 2."""
    allowed = (1 - Fraction(coverage)) / 2 * 2**n
    outside, ways, rank = 0, 1, None
    for candidate in range(n // 2):
        outside += ways
        if outside > allowed:
            break
        rank = candidate
        ways = ways * (n - candidate) // (candidate + 1)
    return rank
