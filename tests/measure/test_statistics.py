"""The median's interval against its theory; drift and narrowness against brute force."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from sllmbench.measure.statistics import drifts, half_width, median_interval


@pytest.mark.parametrize(
    ("n", "low", "high"),
    # Ranks of the sign test's interval at 95%, as tables of it print them (from 1).
    [(5, None, None), (6, 1, 6), (8, 1, 8), (9, 2, 8), (12, 3, 10), (20, 6, 15), (50, 18, 33)],
)
def test_the_ranks_are_those_of_the_tables(n: int, low: int | None, high: int | None) -> None:
    samples = np.random.default_rng(n).permutation(np.arange(1.0, n + 1)).tolist()
    interval = median_interval(samples)
    assert interval.median == (n + 1) / 2
    assert (interval.low, interval.high) == (low, high)


@given(n=st.integers(1, 400), coverage=st.floats(0.01, 0.9999))
def test_the_interval_covers_and_no_narrower_pair_does(n: int, coverage: float) -> None:
    interval = median_interval(range(n), coverage)
    binomial = stats.binom(n, 0.5)

    def covered(rank: int) -> float:
        return 1 - 2 * float(binomial.cdf(rank))

    slack = 1e-9  # scipy's own rounding
    if interval.low is None:
        assert interval.high is None
        assert n == 1 or covered(0) < coverage + slack
    else:
        rank = int(interval.low)
        assert interval.high == n - 1 - rank
        assert covered(rank) >= coverage - slack
        if rank + 1 < n - 1 - (rank + 1):
            assert covered(rank + 1) < coverage + slack


@pytest.mark.parametrize("n", [6, 15, 40])
def test_the_interval_covers_the_median_as_often_as_it_says(n: int) -> None:
    rounds = 3000
    draws = np.random.default_rng(n).exponential(size=(rounds, n))
    intervals = [median_interval(row) for row in draws.tolist()]
    covered = np.mean([i.low <= math.log(2) <= i.high for i in intervals])
    rank = draws[0].tolist().index(intervals[0].low)
    rank = int((draws[0] < draws[0][rank]).sum())
    exact = 1 - 2 * stats.binom.cdf(rank, n, 0.5)
    assert exact >= 0.95
    assert abs(covered - exact) < 4 * math.sqrt(exact * (1 - exact) / rounds)


@pytest.mark.parametrize("samples", [[], [1.0, 2.0, 3.0, math.nan], [math.inf]])
def test_an_interval_of_nothing_or_of_no_numbers_is_refused(samples: list[float]) -> None:
    with pytest.raises(ValueError, match="must be finite"):
        median_interval(samples)


@pytest.mark.parametrize("coverage", [0.0, 1.0, math.nan])
def test_an_impossible_coverage_is_refused(coverage: float) -> None:
    with pytest.raises(ValueError, match="coverage"):
        median_interval([1.0] * 9, coverage)


def test_half_the_width_is_a_fraction_of_the_median() -> None:
    assert half_width(median_interval([90.0, 95.0, 99.0, 101.0, 105.0, 120.0])) == 0.15
    assert half_width(median_interval([1.0] * 5)) is None
    assert half_width(median_interval([0.0] * 6)) is None


@pytest.mark.parametrize("n", [8, 9, 10, 12, 13, 40])
def test_drift_is_what_an_exact_rank_test_finds(n: int) -> None:
    rng = np.random.default_rng(n)
    window = min(6, n // 2)
    verdicts = set()
    for shift in np.linspace(-3, 3, 61):
        samples = rng.normal(size=n)
        samples[:window] += shift
        early, late = samples[:window], samples[-window:]
        lower, upper = np.percentile(samples[1:], [25, 75])
        is_outlier = samples[0] > upper + 1.5 * (upper - lower)
        p = stats.mannwhitneyu(early, late, method="exact").pvalue
        assert drifts(samples.tolist()) == (bool(is_outlier) or p <= 0.05)
        verdicts.add(drifts(samples.tolist()))
    assert verdicts == {True, False}


def test_a_cold_first_sample_alone_is_drift_and_a_disturbed_later_one_is_not() -> None:
    steady = [100.0, 101.0, 99.5, 100.5, 99.0, 100.2, 100.1, 99.9, 101.1, 100.7, 99.4, 100.3]
    assert drifts(steady) is False
    assert drifts([180.0, *steady[1:]]) is True
    assert drifts([*steady[:7], 9000.0, *steady[8:]]) is False


@pytest.mark.parametrize("n", range(8))
def test_too_few_samples_tell_no_drift(n: int) -> None:
    assert drifts([float(i) for i in range(n)]) is None
