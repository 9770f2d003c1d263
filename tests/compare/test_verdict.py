"""The decision: each word is given where it is due, and the reason where none is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from sllmbench.compare.series import Run, Series
from sllmbench.compare.verdict import SINGLE_RUN_NOTE, Thresholds, judge_rounds, judge_series

if TYPE_CHECKING:
    from collections.abc import Sequence


def times(
    rng: np.random.Generator, median: float, n: int = 40, spread: float = 0.01
) -> list[float]:
    return [float(t) for t in median * np.exp(spread * rng.normal(size=n))]


def quiet(samples_ns: Sequence[float]) -> Run:
    """Samples beside which nothing happened."""
    return Run(tuple(samples_ns), (False,) * len(samples_ns))


def runs(rng: np.random.Generator, median: float, count: int, **options: Any) -> Series:
    return Series("b", tuple(quiet(times(rng, median, **options)) for _ in range(count)))


@pytest.mark.parametrize(
    ("ratio", "word"),
    [(1.2, "slower"), (1 / 1.2, "faster"), (1.0, "same"), (1.03, "cannot tell")],
)
def test_rounds(ratio: float, word: str) -> None:
    rng = np.random.default_rng(1)
    base, new = times(rng, 100), times(rng, 100 * ratio)
    forward, backward = (judge_rounds({"b": pair})[0] for pair in ((base, new), (new, base)))
    assert forward.word == word
    assert (forward.reason is None) == (word != "cannot tell")
    mirrored = {"slower": "faster", "faster": "slower"}
    assert backward.word == mirrored.get(word, word)


def test_a_slowdown_within_the_threshold_is_the_same_however_certain() -> None:
    rng = np.random.default_rng(2)
    pair = (times(rng, 100, spread=1e-4), times(rng, 101, spread=1e-4))
    assert judge_rounds({"b": pair})[0].word == "same"
    assert judge_rounds({"b": pair}, thresholds=Thresholds(0.005))[0].word == "slower"


def test_a_large_effect_of_few_rounds_is_no_verdict() -> None:
    verdict = judge_rounds({"b": ([100.0, 101, 102, 99], [200.0, 201, 199, 204])})[0]
    assert verdict.word == "cannot tell"
    assert "may be chance (p = 0.12" in str(verdict.reason)


def test_thresholds_the_last_pattern_counts() -> None:
    wanted = Thresholds(0.05, (("test_*", 0.02), ("*slow*", 0.2)))
    found = [wanted.of(n, single_run=False) for n in ("other", "test_a", "test_slow")]
    assert found == [0.05, 0.02, 0.2]
    assert Thresholds().of("b", single_run=False) == 0.03
    assert Thresholds().of("b", single_run=True) == 0.1


def test_one_run_a_side_needs_more_and_says_what_it_does_not_cover() -> None:
    rng = np.random.default_rng(3)
    (one,) = judge_series([(runs(rng, 100, 1), runs(rng, 106, 1))])
    assert one.word != "slower"
    assert one.notes == (SINGLE_RUN_NOTE,)
    (large,) = judge_series([(runs(rng, 100, 1), runs(rng, 115, 1))])
    assert large.word == "slower"
    (many,) = judge_series([(runs(rng, 100, 8), runs(rng, 106, 8))])
    assert many.word == "slower"
    assert many.notes == ()


def test_noise_between_runs_is_no_slowdown() -> None:
    """Each run's median strays by 5%; its samples alone would make every pair differ."""
    rng = np.random.default_rng(4)

    def side() -> Series:
        each = 100 * np.exp(0.05 * rng.normal(size=5))
        return Series("b", tuple(quiet(times(rng, m, spread=0.002)) for m in each))

    words = [judge_series([(side(), side())])[0].word for _ in range(100)]
    assert sum(word in ("slower", "faster") for word in words) <= 1


def test_many_benchmarks_are_corrected_for() -> None:
    rng = np.random.default_rng(3)
    equal = [(runs(rng, 100, 7), runs(rng, 100, 7)) for _ in range(100)]
    pairs = [(Series(f"b{i}", a.runs), Series(f"b{i}", b.runs)) for i, (a, b) in enumerate(equal)]
    verdicts = judge_series(pairs, thresholds=Thresholds(0.0), alpha=0.05)
    assert all(v.word != "slower" and v.word != "faster" for v in verdicts)
    assert all(v.effect is not None and v.p_adjusted >= v.effect.p for v in verdicts)  # type: ignore[operator]
    assert min(v.effect.p for v in verdicts if v.effect) < 0.05


def disturbed(samples: Sequence[float], count: int) -> Run:
    flags = tuple(i < count for i in range(len(samples)))
    return Run(tuple(s * (3 if bad else 1) for s, bad in zip(samples, flags, strict=True)), flags)


def test_disturbed_samples_do_not_count_while_there_are_enough_others() -> None:
    rng = np.random.default_rng(6)
    base, new = (times(rng, 100) for _ in range(2))
    (verdict,) = judge_series([(Series("b", (quiet(base),)), Series("b", (disturbed(new, 15),)))])
    assert verdict.word == "same"
    (verdict,) = judge_series([(Series("b", (quiet(base),)), Series("b", (disturbed(new, 25),)))])
    assert verdict.word == "cannot tell"
    assert verdict.reason == "new was disturbed in 25 of 40 samples"


def test_what_is_blocked_is_not_compared() -> None:
    rng = np.random.default_rng(7)
    pair = (runs(rng, 100, 1), runs(rng, 200, 1))
    (verdict,) = judge_series([pair], blocked={"b": "threads differ: 1, then 2"})
    assert (verdict.word, verdict.reason) == ("cannot tell", "threads differ: 1, then 2")
    assert verdict.effect is None
