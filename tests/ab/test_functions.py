"""Two functions that take turns: a difference is found, none is not, noise cannot end it early."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING

import pytest

from sllmbench.ab import functions
from sllmbench.ab.functions import ab_functions
from sllmbench.ab.rounds import Limits
from sllmbench.compare import Thresholds
from sllmbench.measure import interference

if TYPE_CHECKING:
    from collections.abc import Callable

LIMITS = Limits(precision=0.03, max_time_s=20.0, thresholds=Thresholds(0.2), seed=3)


def spin(ns: int) -> None:
    end = time.perf_counter_ns() + ns
    while time.perf_counter_ns() < end:
        pass


def maker(ns: int) -> Callable[[], Callable[[], object]]:
    return lambda: partial(spin, ns)


@pytest.mark.parametrize(("new_ns", "word"), [(200_000, "slower"), (50_000, "faster")])
def test_a_clear_difference_is_found(new_ns: int, word: str) -> None:
    result = ab_functions("spin", maker(100_000), maker(new_ns), LIMITS)
    (verdict,) = result.comparison.verdicts
    assert (verdict.name, verdict.word) == ("spin", word)
    assert verdict.effect is not None
    assert verdict.effect.ratio == pytest.approx(new_ns / 100_000, rel=0.1)


def test_equal_functions_are_the_same() -> None:
    (verdict,) = ab_functions("spin", maker(100_000), maker(100_000), LIMITS).comparison.verdicts
    assert verdict.word == "same"


def test_every_turn_has_operands_of_its_own() -> None:
    alive: list[list[int]] = []

    def make() -> Callable[[], object]:
        alive.append([])
        return partial(alive[-1].append, 1)

    result = ab_functions("append", make, maker(1000), LIMITS)
    assert len(alive) == len(result.base_first) + 1  # one turn warms up
    assert all(alive)


def test_on_a_busy_machine_a_turn_still_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interference, "find_causes", lambda *_: ("a test",))
    turn = functions._Turn("spin", maker(10_000), interference.Watch())
    assert turn()["spin"] >= 10_000


def test_what_a_function_raises_goes_through() -> None:
    def fail() -> object:
        raise RuntimeError("no such kernel")

    with pytest.raises(RuntimeError, match="no such kernel"):
        ab_functions("fail", lambda: fail, maker(1000), LIMITS)
