"""The child's side: operands that every process makes alike, honest errors, a cheap clock."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import TYPE_CHECKING

import numpy as np
import pytest

from sllmbench.errors import InputError
from sllmbench.measure.sampling import ClockFacts
from sllmbench.microbench.worker import (
    OUTLIER_EVERY,
    KernelWorker,
    make_activations,
    make_weight,
    max_rel_error,
    time_calls,
)
from sllmbench.record import Interference

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class Clock:
    """A clock that only moves when it is read or something is done."""

    cost_ns = 50.0

    def __init__(self) -> None:
        self.now_ns = 0.0
        self.batches: list[int] = []

    def time_batch(
        self, calls: Sequence[Callable[[], object]], count: int, first: int = 0
    ) -> float:
        self.batches.append(count)
        start = self.now_ns
        for i in range(count):
            calls[(first + i) % len(calls)]()
        self.now_ns += self.cost_ns
        return self.now_ns - start


def test_short_calls_are_timed_in_batches_that_hide_the_clock() -> None:
    clock, done = Clock(), 0

    def call() -> None:
        nonlocal done
        done += 1
        clock.now_ns += 200

    times = time_calls([call], 1e-3, clock)
    # A reading is 50 ns; in a batch of 200 ns calls it must stay below 1%.
    assert all(200 < time <= 202 for time in times)
    assert done >= len(times) * 25


def test_long_calls_are_timed_one_by_one_and_three_times_at_least() -> None:
    clock, calls = Clock(), []

    def call() -> None:
        calls.append(clock.now_ns)
        clock.now_ns += 10_000_000

    times = time_calls([call], 1e-3, clock)
    assert times == [10_000_050] * 3
    assert len(calls) == 4  # the first is not timed: it wakes threads and fills caches


def test_the_batch_is_judged_from_the_fastest_call_and_never_from_a_waking_thread() -> None:
    clock, calls = Clock(), 0

    def call() -> None:
        nonlocal calls
        calls += 1
        clock.now_ns += 500_000 if calls == 1 else 200

    time_calls([call], 1e-2, clock)
    assert clock.batches[-1] == 25


def test_copies_are_walked_through_in_turn() -> None:
    clock, order = Clock(), []

    def copy(number: int) -> None:
        order.append(number)
        clock.now_ns += 1_000_000

    time_calls([lambda i=i: copy(i) for i in range(3)], 5e-3, clock)  # type: ignore[misc]
    assert len(order) > 6
    assert order == [i % 3 for i in range(len(order))]


def test_a_wrong_product_is_seen() -> None:
    weight, x = make_weight(24, 64, 0), make_activations(3, 64, 0)
    right = (x.astype(np.float64) @ weight.astype(np.float64).T).astype(np.float32)
    assert max_rel_error(right, x, weight) < 1e-6
    one_off = right.copy()
    one_off[2, 23] += np.abs(right).max() / 10
    assert max_rel_error(one_off, x, weight) == pytest.approx(0.1, rel=1e-3)
    one_off[2, 23] = np.nan
    assert max_rel_error(one_off, x, weight) == sys.float_info.max
    with pytest.raises(InputError, match=r"\[3, 23\], not \[3, 24\]"):
        max_rel_error(right[:, :23], x, weight)


def test_operands_are_the_same_in_every_process_and_have_outliers() -> None:
    weight = make_weight(16, 2048, 3)
    np.testing.assert_array_equal(weight, make_weight(16, 2048, 3))
    assert not np.array_equal(weight, make_weight(16, 2048, 4))
    x = np.abs(make_activations(64, 2048, 0)).mean(axis=0)
    outliers = np.flatnonzero(x > 10)
    assert list(outliers) == list(range(OUTLIER_EVERY - 1, 2048, OUTLIER_EVERY))


def test_a_worker_binds_and_takes_turns() -> None:
    worker = KernelWorker()
    facts = worker.bind("int4-g32", "exact", None, 77, 96, 2, 1, 2, 0)
    assert facts["use"]["format"] == "int4-g32"
    assert facts["use"]["arithmetic"] == "exact"
    assert facts["max_rel_error"] < 1e-5
    turn = worker.turn(0.01)
    assert turn["median_ns"] > 0
    assert turn["batches"] >= 3
    seen = Interference.model_validate(turn["interference"])
    assert 1e7 < seen.window_ns < 1e9
    clock = ClockFacts(**facts["clock"])
    assert clock.clock in ("tsc", "monotonic")
    assert 1 < clock.clock_cost_ns < 1e5


def test_a_call_of_many_products_is_timed_as_many() -> None:
    worker = KernelWorker()
    worker._calls, worker._products_per_call = [lambda: time.sleep(0.002)], 10
    assert 2e5 <= worker.turn(0.01)["median_ns"] < 1e6


def test_int8_activations_pay_for_outliers() -> None:
    exact, int8 = (
        KernelWorker().bind("int4-g128", arithmetic, None, 64, 1024, 4, 1, 1, 0)["max_rel_error"]
        for arithmetic in ("exact", "int8")
    )
    assert exact < 1e-5 < 1e-3 < int8 < 0.1


def test_the_roofs_are_measured() -> None:
    worker = KernelWorker()
    assert worker.read_bandwidth(1 << 20, 1)["gbs"] > 0.1
    assert worker.peak_rate("int8", "generic", 1)["gops"] > 0.1


def test_a_process_of_ours_never_loads_torch() -> None:
    script = (
        "import sys; from sllmbench.microbench.worker import KernelWorker;"
        "KernelWorker().bind('int8', 'int8', None, 32, 64, 1, 1, 1, 0);"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-P", "-c", script], capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr
