"""Intervals against SciPy where it has them, and against how often they hold where it has not."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from sllmbench.measure.quality.intervals import (
    mean,
    paired_proportions,
    proportion,
    quantile,
    wilson,
)


@pytest.mark.parametrize(("hits", "n"), [(0, 10), (10, 10), (3, 7), (834, 2224), (1, 1000)])
def test_the_interval_of_a_share_is_wilsons(hits: int, n: int) -> None:
    expected = stats.binomtest(hits, n).proportion_ci(method="wilson")
    assert wilson(hits, n) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_a_shares_standard_error_is_the_samples() -> None:
    hits = np.array([True, False, True, True, False, True])
    metric = proportion("acc", hits, counted="questions", chance=0.25)
    assert metric.value == hits.mean()
    assert metric.stderr == pytest.approx(hits.std(ddof=1) / np.sqrt(6))
    assert (metric.n, metric.chance, metric.difference) == (6, 0.25, None)


def paired(gained: int, lost: int, same: int) -> tuple[np.ndarray, np.ndarray]:
    own = np.array([True] * gained + [False] * lost + [True] * same)
    base = np.array([False] * gained + [True] * lost + [True] * same)
    return own, base


def test_mcnemars_test_counts_what_only_one_got_right() -> None:
    difference = paired_proportions(*paired(4, 14, 50))
    assert (difference.n_gained, difference.n_lost) == (4, 14)
    assert difference.value == pytest.approx(-10 / 68)
    # Twice the binomial tail of at most 4 heads in 18 throws.
    assert difference.p_value == pytest.approx(2 * stats.binom.cdf(4, 18, 0.5))
    assert difference.low is not None
    assert difference.high is not None
    assert difference.low < difference.value < difference.high < 0


def test_paths_that_answer_alike_do_not_differ() -> None:
    difference = paired_proportions(*paired(0, 0, 30))
    assert (difference.value, difference.p_value) == (0, 1)
    assert difference.low is not None
    assert difference.low < 0 < (difference.high or 0)


@pytest.mark.parametrize(("gain", "loss"), [(0.05, 0.05), (0.02, 0.1), (0.01, 0.01)])
def test_the_interval_of_a_paired_difference_covers_it(gain: float, loss: float) -> None:
    draw, held, n = np.random.default_rng(1), 0, 100
    for _ in range(1000):
        kind = draw.choice(3, size=n, p=[gain, loss, 1 - gain - loss])
        found = paired_proportions(kind != 1, kind != 0)
        held += (found.low or 0) <= gain - loss <= (found.high or 0)
    assert held / 1000 > 0.93  # 95%, less three standard errors of 1,000 draws


@pytest.mark.parametrize("q", [0.5, 0.99])
def test_the_interval_of_a_quantile_covers_it(q: float) -> None:
    draw, held = np.random.default_rng(2), 0
    for _ in range(1000):
        metric = quantile("kl", draw.exponential(size=700), q, counted="positions")
        assert metric.low is not None
        assert metric.high is not None
        held += metric.low <= stats.expon.ppf(q) <= metric.high
    assert 0.93 < held / 1000 < 0.99


def test_a_quantile_of_few_has_no_upper_bound() -> None:
    metric = quantile("kl", np.arange(50.0), 0.99, counted="positions")
    assert metric.high is None
    assert metric.low is not None


def test_a_paired_difference_of_means_is_the_t_tests_for_many_items() -> None:
    draw = np.random.default_rng(3)
    base = draw.normal(3, 1, 4000)
    own = base + draw.normal(0.01, 0.2, 4000)
    metric = mean(
        "nll",
        float(own.mean()),
        own,
        (float(base.mean()), base),
        counted="tokens",
        higher_is_better=False,
    )
    expected = stats.ttest_rel(own, base)
    assert metric.difference is not None
    assert metric.difference.p_value == pytest.approx(expected.pvalue, rel=1e-2)
    interval = expected.confidence_interval()
    found = (metric.difference.low, metric.difference.high)
    assert found == pytest.approx((interval.low, interval.high), abs=1e-5)
    # Unpaired, the same difference would drown in what the tokens have in common.
    assert stats.ttest_ind(own, base).pvalue > 0.1
    assert metric.difference.p_value < 0.01


@pytest.mark.parametrize(("shift", "p_value"), [(0.0, 1), (1.0, 0)])
def test_items_that_all_differ_alike_leave_no_doubt(shift: float, p_value: int) -> None:
    values = np.array([1.0, 2.0, 3.0])
    own = values + shift
    metric = mean("x", 2.0 + shift, own, (2.0, values), counted="tokens", higher_is_better=False)
    assert metric.difference is not None
    assert (metric.difference.value, metric.difference.p_value) == (shift, p_value)
