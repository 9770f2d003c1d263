"""Turns, warm-up and stopping with candidates whose times are known; and real functions."""

from __future__ import annotations

import gc
import itertools
import random
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from sllmbench import _native
from sllmbench.errors import InputError
from sllmbench.measure.interference import Watch
from sllmbench.measure.sampling import (
    ClockFacts,
    InProcess,
    Limits,
    Rounds,
    Turn,
    evict_caches,
    open_clock,
    sample,
)
from sllmbench.record import Interference

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

QUIET = Interference(
    window_ns=1000,
    wait_ns=0,
    steal_ns=0,
    foreign_cpu_ns=0,
    involuntary_switches=0,
    migrations=0,
    minor_faults=0,
    major_faults=0,
    core_hz=3e9,
    temperature_c=None,
    causes=(),
)
CLOCK = ClockFacts("monotonic", 25.0, 20.0, 0.0, 6.0)
DISTURBED = QUIET.model_copy(update={"causes": ("another",)})


class Script:
    """Candidates that take their times from generators and share a clock, in seconds."""

    def __init__(self, **times_ns: Iterator[float | None]) -> None:
        self.now = 0.0
        self.order: list[str] = []
        self.candidates = {name: self.Part(self, name, t) for name, t in times_ns.items()}

    class Part:
        def __init__(self, script: Script, name: str, times_ns: Iterator[float | None]) -> None:
            self.script, self.name, self.times_ns = script, name, times_ns

        def turn(self) -> Turn | None:
            self.script.now += 0.01
            self.script.order.append(self.name)
            ns = next(self.times_ns)
            return None if ns is None else Turn(ns, 10, QUIET)

    def rounds(self, limits: Limits, seed: int = 0) -> Rounds:
        return Rounds(self.candidates, limits, random.Random(seed), lambda: self.now)


def noise(median: float, sigma: float, seed: int) -> Iterator[float]:
    rng = np.random.default_rng(seed)
    while True:
        yield float(median * np.exp(sigma * rng.normal()))


def after(first: list[float], rest: Iterator[float]) -> Iterator[float]:
    yield from first
    yield from rest


def test_every_round_holds_one_turn_of_each_in_an_order_of_its_own() -> None:
    script = Script(**{name: noise(100, 0.01, 1) for name in "abc"})
    rounds = script.rounds(Limits(60))
    rounds.take()
    taken = [tuple(script.order[i : i + 3]) for i in range(0, len(script.order), 3)]
    assert len(taken) == 60
    assert all(sorted(order) == ["a", "b", "c"] for order in taken)
    assert len(set(taken)) == 6
    again = Script(**{name: noise(100, 0.01, 1) for name in "abc"})
    again.rounds(Limits(60)).take()
    assert again.order == script.order


def test_fixed_rounds_are_all_kept_and_said_to_drift() -> None:
    falling = (200.0 - i for i in range(100))
    script = Script(a=falling, b=noise(100, 0.01, 2))
    rounds = script.rounds(Limits(20))
    rounds.take()
    assert rounds.stopped_by == "rounds"
    assert [turn.ns for turn in rounds.turns["a"]] == [200.0 - i for i in range(20)]
    assert (rounds.warm["a"], rounds.warm["b"], rounds.warm_up) == (False, True, 0)


@pytest.mark.parametrize(("n", "warm"), [(5, None), (7, None), (9, True), (30, True)])
def test_few_rounds_cannot_tell_whether_they_are_warm(n: int, warm: bool | None) -> None:
    steady = iter([100.0, 101.0, 99.0, 100.5] * 10)
    rounds = Script(a=steady).rounds(Limits(n))
    rounds.take()
    assert rounds.warm["a"] is warm


def test_a_precision_stops_as_soon_as_every_median_is_known_so_well() -> None:
    script = Script(quiet=noise(100, 0.005, 3), noisy=noise(100, 0.05, 4))
    rounds = script.rounds(Limits(6, precision=0.01, max_seconds=1e6))
    rounds.take()
    assert rounds.stopped_by == "precision"
    assert all(rounds.warm.values())
    series = {name: rounds.series(name, CLOCK) for name in script.candidates}
    for each in series.values():
        assert each.sampling.precision_reached is not None
        assert each.sampling.precision_reached <= 0.01
    n = len(series["noisy"].samples_ns)
    assert n == len(series["quiet"].samples_ns)
    # 1.2533 sigma / sqrt(n) is the median's standard error; 1.96 of them must be 1%.
    assert 60 < n < 400


def test_every_figure_of_a_sample_must_be_known_as_well() -> None:
    other = noise(100, 0.05, 11)

    class Part:
        def turn(self) -> Turn:
            return Turn(100.0, 1, QUIET, (next(other),))

    rounds = Rounds({"a": Part()}, Limits(6, 0.01, 1e6), random.Random(0), lambda: 0.0)
    rounds.take()
    assert 60 < len(rounds.turns["a"]) < 400


def test_time_that_is_up_is_said() -> None:
    script = Script(a=noise(100, 0.5, 5))
    rounds = script.rounds(Limits(6, precision=0.001, max_seconds=1.0))
    rounds.take()
    assert rounds.stopped_by == "time"
    assert 1.0 <= script.now < 1.02
    series = rounds.series("a", CLOCK)
    assert series.sampling.precision_reached is not None
    assert series.sampling.precision_reached > 0.001


def test_cold_rounds_are_thrown_away_for_all_and_warm_ones_are_samples_already() -> None:
    cold = [300.0, 250.0, 210.0, 180.0, 160.0, 140.0, 130.0, 120.0]
    script = Script(cold=after(cold, noise(100, 0.01, 6)), warm=noise(50, 0.01, 7))
    rounds = script.rounds(Limits(6, precision=0.02, max_seconds=100))
    rounds.take()
    assert all(rounds.warm.values())
    assert 4 <= rounds.warm_up <= 12
    assert max(turn.ns for turn in rounds.turns["cold"]) < 180
    assert len(rounds.turns["cold"]) == len(rounds.turns["warm"])
    assert len(script.order) == 2 * (rounds.warm_up + len(rounds.turns["warm"]))


def test_what_never_settles_is_kept_and_said() -> None:
    script = Script(a=(1e6 * 0.99**i for i in range(10**6)))
    rounds = script.rounds(Limits(6, precision=0.0001, max_seconds=2.0))
    rounds.take()
    assert rounds.warm["a"] is False
    assert rounds.stopped_by == "time"
    assert 0.2 < rounds.warm_up * 0.01 <= 0.5


def test_a_disturbed_beginning_says_nothing_of_warmth_and_is_thrown_away() -> None:
    rng = np.random.default_rng(8)

    class Part:
        turns = 0

        def turn(self) -> Turn:
            self.turns += 1
            disturbed = self.turns <= 9 and self.turns % 3
            return Turn(100 + rng.normal(), 1, DISTURBED if disturbed else QUIET)

    rounds = Rounds({"a": Part()}, Limits(6, 0.02, 100), random.Random(0), lambda: 0.0)
    rounds.take()
    assert rounds.warm["a"] is True
    assert rounds.warm_up == 2  # then eight of twelve are undisturbed
    assert rounds.stopped_by == "precision"


def test_a_candidate_that_fails_is_out_and_the_others_go_on() -> None:
    script = Script(a=iter([1.0, 1.0, None]), b=iter([2.0] * 9))
    rounds = script.rounds(Limits(9))
    rounds.take()
    assert list(rounds.turns) == ["b"]
    assert len(rounds.turns["b"]) == 9
    nothing = Script(a=iter([None])).rounds(Limits(9))
    nothing.take()
    assert nothing.turns == {}


def test_an_interrupt_leaves_what_was_taken() -> None:
    def interrupted() -> Iterator[float]:
        yield from [1.0, 1.0]
        raise KeyboardInterrupt

    rounds = Script(a=interrupted(), b=iter([2.0] * 9)).rounds(Limits(9))
    with pytest.raises(KeyboardInterrupt):
        rounds.take()
    assert [turn.ns for turn in rounds.turns["a"]] == [1.0, 1.0]
    assert len(rounds.turns["b"]) in (2, 3)
    assert rounds.stopped_by == "interrupt"


def test_disturbed_samples_stay_and_the_median_is_of_the_others() -> None:
    script = Script(a=iter([]))
    rounds = script.rounds(Limits(9))
    rounds.turns["a"] = [
        Turn(900.0 if i % 3 == 0 else 100.0 + i, 5, DISTURBED if i % 3 == 0 else QUIET)
        for i in range(12)
    ]
    series = rounds.series("a", CLOCK)
    assert len(series.samples_ns) == 12
    assert series.kept.n_disturbed == 4
    assert series.median_ns == 106.0
    assert series.ci95_ns == (101.0, 111.0)
    assert not series.kept.disturbed


def test_stopping_early_leaves_the_interval_its_coverage() -> None:
    """What stops on a narrow interval stops a little too often on one narrow by luck."""
    covered, runs = 0, 300
    for seed in range(runs):
        script = Script(a=noise(100, 0.03, 1000 + seed))
        rounds = script.rounds(Limits(6, precision=0.01, max_seconds=1e6))
        rounds.take()
        low, high = rounds.series("a", CLOCK).ci95_ns or (0.0, 0.0)
        covered += low <= 100 <= high
    assert covered / runs > 0.91


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"rounds": 0}, "at least 1"),
        ({"rounds": 6, "precision": 0.0, "max_seconds": 1}, "between 0 and 100%"),
        ({"rounds": 6, "precision": 1.5, "max_seconds": 1}, "between 0 and 100%"),
        ({"rounds": 6, "precision": 0.01}, "how long"),
        ({"rounds": 6, "max_seconds": 0}, "more than 0 seconds"),
        ({"rounds": 6, "max_seconds": float("nan")}, "more than 0 seconds"),
    ],
)
def test_limits_that_make_no_sense_are_refused(limits: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Limits(**limits)


def test_functions_are_timed_in_batches_of_a_sensible_length() -> None:
    clock, watch = open_clock(), Watch()
    candidate = InProcess(lambda: time.sleep(2e-4), clock, watch)
    turn = candidate.turn()
    assert 2 <= turn.calls <= 6
    assert 2e5 < turn.ns < 5e6
    assert turn.interference.window_ns > turn.calls * turn.ns
    short = InProcess(lambda: None, clock, watch).turn()
    assert short.calls * short.ns > 5e5
    assert clock.cost_ns < 0.01 * short.calls * short.ns
    assert gc.isenabled()


def test_functions_under_one_name_are_called_in_turn_across_samples() -> None:
    called: list[int] = []
    parts = [lambda i=i: called.append(i) for i in range(3)]
    candidate = InProcess(parts, open_clock(), Watch(), sample_seconds=1e-6)
    candidate._calls = 4  # no multiple of three
    called.clear()
    for _ in range(5):
        candidate.turn()
    assert len(called) == 20
    assert {(after - before) % 3 for before, after in itertools.pairwise(called)} == {1}


def test_what_is_done_between_calls_is_not_timed() -> None:
    order: list[str] = []

    def between() -> None:
        time.sleep(2e-3)
        order.append("between")

    series = sample(
        {"a": lambda: order.append("call")},
        between=between,
        precision=None,
        max_seconds=None,
        rounds=6,
    )["a"]
    assert series.median_ns < 1e5
    assert set(zip(order[::2], order[1::2], strict=True)) == {("between", "call")}


def test_cold_calls_are_slower_than_hot_ones() -> None:
    data = np.ones(1 << 16, np.float32)  # 256 KiB: in the second level while it is hot
    take: Callable[[], object] = data.sum
    hot = sample({"a": take}, precision=None, max_seconds=None, rounds=7)["a"]
    cold = sample({"a": take}, between=evict_caches, precision=None, max_seconds=None, rounds=7)
    assert cold["a"].median_ns > 1.3 * hot.median_ns


def test_errors_of_a_function_go_through() -> None:
    def fails() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        sample({"a": fails})


def test_a_clock_that_is_not_there_is_refused() -> None:
    with pytest.raises(InputError, match="monotonic, tsc"):
        open_clock("sundial")
    assert open_clock() is open_clock()
    assert isinstance(open_clock(), _native.Clock)
