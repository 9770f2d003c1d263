"""The statistics: against SciPy's, against exact counts, and on simulated noise of many kinds."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from scipy import stats

from sllmbench.compare import effects
from sllmbench.compare.effects import (
    CannotTellError,
    autocorrelation_time,
    holm,
    independent,
    paired,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    Floats = np.ndarray[Any, np.dtype[np.float64]]

LEVEL = 0.001


def correlated(rng: np.random.Generator, n: int, share: float) -> Floats:
    """A first-order autoregression, stationary from the start."""
    noise = rng.normal(size=n)
    values = np.empty(n)
    values[0] = noise[0] / math.sqrt(1 - share**2)
    for i in range(1, n):
        values[i] = share * values[i - 1] + noise[i]
    return values


def bursts(rng: np.random.Generator, n: int) -> Floats:
    """A neighbour that comes for twenty samples at a time, a fifth of the time."""
    values, on = rng.normal(size=n), bool(rng.random() < 0.2)
    for i in range(n):
        values[i] += 5 * on
        on = rng.random() > 1 / 20 if on else rng.random() < 1 / 80
    return values


def alarms(
    rng: np.random.Generator, noise: Callable[[np.random.Generator], Floats], tries: int, p: float
) -> int:
    found = 0
    for _ in range(tries):
        base, new = (np.exp(0.02 * noise(rng)).tolist() for _ in range(2))
        try:
            found += independent([base], [new], level=LEVEL).p < p
        except CannotTellError:
            continue
    return found


def test_rounds_agree_with_scipy_and_with_all_signs() -> None:
    rng = np.random.default_rng(1)
    base, shift = np.exp(rng.normal(size=12) / 50), np.exp(0.01 + rng.normal(size=12) / 50)
    ratios = np.log(shift)
    effect = paired((100 * base).tolist(), (100 * base * shift).tolist())
    assert effect.p == pytest.approx(stats.wilcoxon(ratios, method="exact").pvalue)
    sums = [
        abs(np.dot(signs, stats.rankdata(np.abs(ratios))))
        for signs in itertools.product((-1, 1), repeat=12)
    ]
    observed = abs(np.dot(np.sign(ratios), stats.rankdata(np.abs(ratios))))
    assert effect.p == pytest.approx(np.mean(np.array(sums) >= observed - 1e-9))
    walsh = [(a + b) / 2 for a, b in itertools.combinations_with_replacement(ratios, 2)]
    assert effect.ratio == pytest.approx(math.exp(np.median(walsh)))
    assert effect.low < effect.ratio < effect.high


def test_ties_and_equal_rounds_are_counted_exactly() -> None:
    assert paired([5.0] * 20, [5.0] * 20).p == 1.0
    # Eight ties in size, all one way: one of two of the 256 sign patterns.
    assert paired([100.0] * 8 + [7.0], [110.0] * 8 + [7.0]).p == pytest.approx(2 / 256)


def test_a_rounds_interval_covers_what_it_says() -> None:
    rng = np.random.default_rng(2)
    inside = 0
    for _ in range(600):
        drift = np.cumsum(rng.normal(size=20)) / 10  # common to both sides of a round
        base, new = (np.exp(drift + rng.standard_t(3, size=20) / 50) for _ in range(2))
        effect = paired(base.tolist(), (1.05 * new).tolist())
        inside += effect.low <= 1.05 <= effect.high
    assert 0.93 <= inside / 600 <= 0.98


def test_rounds_of_equal_sides_raise_no_alarm_over_drift() -> None:
    rng = np.random.default_rng(3)
    low = 0
    for _ in range(1000):
        drift = np.cumsum(rng.normal(size=(2, 30)), axis=1) / 10
        tossed = rng.random(30) < 0.5  # drift of its own for the first and the second place
        first, second = np.exp(drift)
        base, new = np.where(tossed, first, second), np.where(tossed, second, first)
        low += paired(base.tolist(), new.tolist()).p < 0.05
    assert low <= 72  # 50 expected, three deviations


def test_many_rounds_are_taken_together() -> None:
    rng = np.random.default_rng(4)
    base = np.exp(rng.normal(size=5000) / 20)
    effect = paired(base.tolist(), (1.01 * base * np.exp(rng.normal(size=5000) / 20)).tolist())
    assert effect.base_units == effects.MAX_ROUNDS
    assert effect.low < 1.01 < effect.high
    assert effect.p < 1e-6


def test_independent_sides_agree_with_scipy() -> None:
    rng = np.random.default_rng(5)
    base, new = 100 + rng.normal(size=(2, 15))
    new = new * 1.01
    effect = independent(base[:, None].tolist(), new[:, None].tolist(), level=LEVEL)
    assert effect.unit == "run"
    assert effect.p == max(
        stats.brunnermunzel(base, new).pvalue,
        stats.mannwhitneyu(base, new, method="exact").pvalue,
    )
    assert effect.ratio == pytest.approx(np.median(np.divide.outer(new, base)), rel=1e-4)
    for end in (effect.low, effect.high):
        assert stats.brunnermunzel(base, new / end).pvalue == pytest.approx(0.05, abs=0.02)


def test_few_runs_are_judged_by_welch() -> None:
    base, new = [100.0, 101.0, 99.5, 100.4], [110.0, 111.0, 109.0, 110.5]
    effect = independent([[b] for b in base], [[n] for n in new], level=LEVEL)
    oracle: Any = stats.ttest_ind(np.log(new), np.log(base), equal_var=False)
    assert effect.test.startswith("Welch")
    assert effect.p == pytest.approx(oracle.pvalue)
    assert math.log(effect.low) == pytest.approx(oracle.confidence_interval().low)
    assert math.log(effect.high) == pytest.approx(oracle.confidence_interval().high)


def test_a_rank_test_never_claims_more_than_its_units_allow() -> None:
    base, new = [float(i) for i in range(100, 108)], [float(i) for i in range(200, 208)]
    effect = independent([[b] for b in base], [[n] for n in new], level=LEVEL)
    assert effect.p == pytest.approx(2 / math.comb(16, 8))


@pytest.mark.slow
@pytest.mark.parametrize(
    "noise",
    [
        lambda rng: rng.normal(size=200),
        lambda rng: rng.exponential(size=200),
        lambda rng: correlated(rng, 200, 0.5),
        lambda rng: correlated(rng, 400, 0.9),
        lambda rng: bursts(rng, 400),
        lambda rng: np.cumsum(rng.normal(size=200)),
        lambda rng: rng.normal(size=9),
    ],
    ids=["normal", "skewed", "correlated", "hangs together", "bursts", "drift", "few"],
)
def test_noise_raises_few_alarms(noise: Callable[[np.random.Generator], Floats]) -> None:
    # 1% of 150 are 1.5: more than 7 have a probability below one in a thousand.
    assert alarms(np.random.default_rng(6), noise, tries=150, p=0.01) <= 7


def test_correlated_samples_would_raise_alarms_if_they_were_counted_singly() -> None:
    """The test above could fail: without blocks most comparisons of a drift are alarms."""
    rng = np.random.default_rng(7)
    found = sum(
        stats.brunnermunzel(correlated(rng, 400, 0.9), correlated(rng, 400, 0.9)).pvalue < 0.01
        for _ in range(100)
    )
    assert found > 30


def test_a_slowdown_is_found() -> None:
    rng = np.random.default_rng(8)
    found = 0
    for _ in range(50):
        base = np.exp(0.05 * correlated(rng, 300, 0.3))
        new = 1.05 * np.exp(0.05 * correlated(rng, 300, 0.3))
        found += independent([base.tolist()], [new.tolist()], level=LEVEL).p < LEVEL
    assert found >= 48


@pytest.mark.parametrize(
    ("share", "low", "high"), [(0.0, 1.0, 1.4), (0.5, 2.2, 4.0), (0.9, 12, 30)]
)
def test_autocorrelation_time(share: float, low: float, high: float) -> None:
    values = correlated(np.random.default_rng(9), 4000, share)
    assert low <= autocorrelation_time(values) <= high  # (1 + share) / (1 - share) in the long run
    outlier = values.copy()
    outlier[100] = 1e6
    assert autocorrelation_time(outlier) == pytest.approx(autocorrelation_time(values), rel=0.05)


def test_holm_is_statsmodels_example() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []
    assert holm([0.9, 0.8]) == [1.0, 1.0]


def test_too_few_samples_say_so() -> None:
    with pytest.raises(CannotTellError, match="only 5 samples"):
        independent([[1.0, 2.0, 3.0, 4.0, 5.0]], [[1.0] * 9], level=LEVEL)
    with pytest.raises(CannotTellError, match="no samples"):
        independent([[1.0], []], [[1.0], [2.0]], level=LEVEL)
    with pytest.raises(CannotTellError, match="drift"):
        independent([list(range(1, 100))], [list(range(1, 100))], level=LEVEL)
    with pytest.raises(CannotTellError, match="no round"):
        paired([], [])


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan, math.inf])
def test_times_that_are_none_are_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="positive and finite"):
        paired([1.0, bad], [1.0, 2.0])
    with pytest.raises(ValueError, match="positive and finite"):
        independent([[1.0, bad]], [[1.0, 2.0]], level=LEVEL)


def test_huge_and_tiny_times_keep_their_ratio() -> None:
    base = [1e-300 * (1 + i / 100) for i in range(12)]
    effect = paired(base, [2 * b for b in base])
    assert effect.ratio == pytest.approx(2)
    assert paired([1e300] * 12, [2e300] * 12).ratio == pytest.approx(2)


def test_a_coarse_clock_is_no_error() -> None:
    rng = np.random.default_rng(10)
    base, new = rng.choice([100.0, 101.0], size=(2, 200))
    assert independent([base.tolist()], [new.tolist()], level=LEVEL).p > 0.01
    assert independent([[100.0] * 60], [[200.0] * 60], level=LEVEL).p < LEVEL
    assert independent([[100.0] * 60], [[100.0] * 60], level=LEVEL).p == 1.0
