"""Figures with their 95% intervals, and whether two paths differ on the same items.

Everything is paired by item: what makes a question hard makes it hard for every path, so that the
difference of two paths is known far better than either figure.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from scipy import stats

from sllmbench.measure.quality.perplexity import standard_error
from sllmbench.record import Difference, Metric

if TYPE_CHECKING:
    from numpy.typing import NDArray

Z = 1.959963984540054
"""The normal distribution's 97.5% point."""
WILSON, NORMAL, ORDER = "Wilson", "normal, items independent", "order statistics"


def wilson(hits: int, n: int) -> tuple[float, float]:
    """The 95% interval of a proportion, ``hits`` of ``n`` (Wilson 1927)."""
    share, z2 = hits / n, Z * Z
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = Z / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def proportion(
    name: str,
    hits: NDArray[np.bool_],
    reference: NDArray[np.bool_] | None = None,
    *,
    counted: str,
    chance: float | None = None,
) -> Metric:
    """The share of items [n] that hit; the standard error is the sample's (n - 1)."""
    n, share = len(hits), float(hits.mean())
    low, high = wilson(int(hits.sum()), n)
    return Metric(
        name=name,
        value=share,
        stderr=math.sqrt(share * (1 - share) / (n - 1)) if n > 1 else None,
        low=low,
        high=high,
        method=WILSON,
        n=n,
        counted=counted,
        higher_is_better=True,
        chance=chance,
        difference=None if reference is None else paired_proportions(hits, reference),
    )


def paired_proportions(hits: NDArray[np.bool_], reference: NDArray[np.bool_]) -> Difference:
    """The difference of two shares of the same items [n].

    The probability is McNemar's exact one, from the items that only one of both hit; the interval
    is Wald's with half an item added to each cell (Agresti and Min 2005), which keeps its coverage
    where few items differ.
    """
    n = len(hits)
    gained = int((hits & ~reference).sum())
    lost = int((~hits & reference).sum())
    p_value = 1.0
    if gained + lost:
        p_value = float(stats.binomtest(gained, gained + lost, 0.5).pvalue)
    b, c, total = gained + 0.5, lost + 0.5, n + 2
    centre = (b - c) / total
    half = Z * math.sqrt(b + c - (b - c) ** 2 / total) / total
    return Difference(
        value=(gained - lost) / n,
        low=max(-1.0, centre - half),
        high=min(1.0, centre + half),
        p_value=p_value,
        method="McNemar's exact test; Agresti and Min's interval",
        n_gained=gained,
        n_lost=lost,
    )


def mean(
    name: str,
    value: float,
    influence: NDArray[np.float64],
    reference: tuple[float, NDArray[np.float64]] | None = None,
    *,
    counted: str,
    higher_is_better: bool | None,
) -> Metric:
    """A figure that is a smooth function of a mean, by the delta method.

    Args:
        value: the figure.
        influence: what each item adds to it, [n]: the item's value times the function's derivative
            at the mean.
        reference: both of the reference path.
    """
    return with_error(
        name,
        value,
        _standard_error(influence),
        n=len(influence),
        counted=counted,
        higher_is_better=higher_is_better,
        difference=None
        if reference is None
        else paired_means(value - reference[0], influence - reference[1]),
    )


def with_error(
    name: str,
    value: float,
    error: float | None,
    *,
    n: int,
    counted: str,
    higher_is_better: bool | None,
    difference: Difference | None,
) -> Metric:
    """A figure with the normal interval of its standard error, which may be unknown."""
    return Metric(
        name=name,
        value=value,
        stderr=error,
        low=None if error is None else value - Z * error,
        high=None if error is None else value + Z * error,
        method=NORMAL,
        n=n,
        counted=counted,
        higher_is_better=higher_is_better,
        difference=difference,
    )


def paired_means(difference: float, influence: NDArray[np.float64]) -> Difference:
    """A difference of two figures from what each item adds to it, [n]."""
    error = _standard_error(influence)
    p_value = None
    if error is not None:
        # Items that all differ by the same leave no doubt; those that are all alike no difference.
        distance = abs(difference) / error if error else math.inf if difference else 0.0
        p_value = float(2 * stats.norm.sf(distance))
    return Difference(
        value=difference,
        low=None if error is None else difference - Z * error,
        high=None if error is None else difference + Z * error,
        p_value=p_value,
        method=f"paired by item, {NORMAL}",
    )


def quantile(name: str, values: NDArray[np.float64], q: float, *, counted: str) -> Metric:
    """A quantile of items [n] between two order statistics that cover it with at least 95%.

    How many items lie below it is binomial whatever the distribution; where there are too few for
    a bound, that bound is None.
    """
    ordered, n = np.sort(values), len(values)
    low, high = (int(stats.binom.ppf(p, n, q)) for p in (0.025, 0.975))
    return Metric(
        name=name,
        value=float(np.quantile(ordered, q)),
        stderr=None,
        low=float(ordered[low - 1]) if low >= 1 else None,
        high=float(ordered[high]) if high < n else None,
        method=ORDER,
        n=n,
        counted=counted,
        higher_is_better=False,
    )


def _standard_error(values: NDArray[np.float64]) -> float | None:
    return standard_error(values) if len(values) > 1 else None
