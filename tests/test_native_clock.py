"""Clocks against Python's own, and what they refuse."""

from __future__ import annotations

import platform
import time
from typing import TYPE_CHECKING

import pytest

from sllmbench import _native

if TYPE_CHECKING:
    from pathlib import Path

TSC_REASON = _native.tsc_unsupported_reason()
needs_tsc = pytest.mark.skipif(TSC_REASON is not None, reason=str(TSC_REASON))
CLOCKS = ["monotonic", pytest.param("tsc", marks=needs_tsc)]


@pytest.mark.parametrize("name", CLOCKS)
def test_a_clock_agrees_with_pythons(name: str) -> None:
    clock = _native.Clock(name)
    assert clock.name == name
    start = time.perf_counter_ns()
    inner_ns = clock.time_batch(lambda: time.sleep(0.05), 2)
    outer_ns = time.perf_counter_ns() - start
    assert inner_ns * (1 + 1e-4) >= 100e6
    assert inner_ns <= outer_ns * (1 + 1e-4)


@pytest.mark.parametrize("name", CLOCKS)
def test_a_clock_knows_what_it_costs(name: str) -> None:
    clock = _native.Clock(name)
    assert 1 < clock.cost_ns < 5e4
    assert 0 < clock.resolution_ns < 5e4
    assert 0.5 < clock.call_cost_ns() < 1e4
    assert (clock.rate_uncertainty == 0) == (name == "monotonic")
    assert clock.rate_uncertainty < 0.01


@needs_tsc
def test_two_calibrations_agree_within_what_they_say() -> None:
    first, second = _native.Clock("tsc"), _native.Clock("tsc")
    # The same ticks, each in its own nanoseconds: the rates' quotient, up to the function's time.
    pair = [c.time_batch(lambda: time.sleep(0.2), 1) for c in (first, second)]
    assert all(200e6 <= ns < 260e6 for ns in pair)


def test_the_time_stamp_counter_is_refused_where_the_kernel_distrusts_it(tmp_path: Path) -> None:
    if platform.machine() != "x86_64":
        assert "x86" in (TSC_REASON or "")
        return
    folder = tmp_path / "devices/system/clocksource/clocksource0"
    folder.mkdir(parents=True)
    (folder / "available_clocksource").write_text("hpet acpi_pm \n")
    reason = _native.tsc_unsupported_reason(sys=str(tmp_path))
    assert reason is not None
    assert "unstable" in reason
    assert "hpet acpi_pm" in reason
    with pytest.raises(RuntimeError, match="unstable"):
        _native.Clock("tsc", sys=str(tmp_path))
    (folder / "available_clocksource").write_text("tsc hpet \n")
    assert _native.tsc_unsupported_reason(sys=str(tmp_path)) == TSC_REASON


def test_functions_are_called_in_turn_and_as_often_as_asked() -> None:
    clock, called = _native.Clock("monotonic"), []
    parts = [lambda i=i: called.append(i) for i in range(3)]
    clock.time_batch(parts, 7, 2)
    assert called == [2, 0, 1, 2, 0, 1, 2]
    clock.time_batch(parts[0], 2)
    assert called[7:] == [0, 0]


def test_a_list_that_a_call_empties_is_still_walked() -> None:
    clock, called = _native.Clock("monotonic"), []
    parts = [lambda: (parts.clear(), called.append(1)), lambda: called.append(2)]
    clock.time_batch(parts, 4)
    assert called == [1, 2, 1, 2]


def test_errors_of_a_call_go_through_and_end_the_batch() -> None:
    clock, called = _native.Clock("monotonic"), []

    def third_time_fails() -> None:
        called.append(1)
        if len(called) == 3:
            raise LookupError("the third")

    with pytest.raises(LookupError, match="the third"):
        clock.time_batch(third_time_fails, 9)
    assert len(called) == 3


@pytest.mark.parametrize(
    ("calls", "count", "first", "message"),
    [([], 1, 0, "nothing"), (list, 0, 0, "at least 1"), (list, 1, -1, "negative")],
)
def test_batches_that_make_no_sense_are_refused(
    calls: object, count: int, first: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        _native.Clock("monotonic").time_batch(calls, count, first)  # type: ignore[arg-type]


def test_what_cannot_be_called_is_an_error() -> None:
    with pytest.raises(TypeError):
        _native.Clock("monotonic").time_batch([1], 1)
    with pytest.raises(TypeError):
        _native.Clock("monotonic").time_batch(1, 1)  # type: ignore[arg-type]


def test_a_clock_of_another_name_is_refused() -> None:
    with pytest.raises(ValueError, match="monotonic, tsc"):
        _native.Clock("sundial")


def test_eviction_needs_bytes() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        _native.evict(0)
