"""What notes say of samples."""

from __future__ import annotations

from typing import Any

from sllmbench.record import Interference, Sampling
from sllmbench.report.sampling import Sampled, sampling_notes


def seen(*causes: str) -> Interference:
    return Interference(
        window_ns=1000,
        wait_ns=None,
        steal_ns=None,
        foreign_cpu_ns=None,
        involuntary_switches=None,
        migrations=None,
        minor_faults=None,
        major_faults=None,
        core_hz=None,
        temperature_c=None,
        causes=causes,
    )


def sampled(name: str, *series: Interference, disturbed: bool = False, **sampling: Any) -> Sampled:
    usual: dict[str, Any] = {
        "clock": "tsc",
        "clock_cost_ns": 25.0,
        "warm_up_samples": 0,
        "warm": True,
        "precision_asked": None,
        "precision_reached": 0.02,
        "stopped_by": "rounds",
    }
    return Sampled(name, series, disturbed, Sampling.model_validate(usual | sampling))


def test_quiet_samples_need_no_words() -> None:
    assert sampling_notes([sampled("a", seen(), seen(), warm=None)]) == []
    reached = sampled("a", seen(), precision_asked=0.01, precision_reached=0.01)
    assert sampling_notes([reached]) == []


def test_the_most_frequent_cause_comes_first_without_its_figures() -> None:
    row = sampled("a", seen("x: 1", "y: 5"), seen(), seen("y: 2"))
    assert sampling_notes([row]) == ["left out as disturbed: a 2 of 3 (y, x)"]
    taken = sampled("a", seen("x: 1"), disturbed=True)
    assert sampling_notes([taken]) == ["disturbed, yet taken: a 1 of 1 (x)"]


def test_a_precision_that_was_not_reached_is_said() -> None:
    rows = [
        sampled("a", seen(), precision_asked=0.01, precision_reached=0.0234, stopped_by="time"),
        sampled("b", seen(), precision_asked=0.01, precision_reached=None, stopped_by="interrupt"),
        sampled("c", seen(), precision_asked=0.01, precision_reached=0.002, stopped_by="time"),
    ]
    assert sampling_notes(rows) == [
        "the precision was not reached: a ±2.34% instead of ±1.00%; b no interval"
    ]


def test_drift_is_said_and_long_lists_are_cut() -> None:
    rows = [sampled(name, seen(), warm=False) for name in "abcdef"]
    assert sampling_notes(rows) == [
        "still drifting when their samples began: a; b; c; d; and 2 more"
    ]
