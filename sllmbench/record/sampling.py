"""How a time was sampled, and what disturbed the samples."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from sllmbench.record.base import Frozen

if TYPE_CHECKING:
    from collections.abc import Sequence

LEAST_UNDISTURBED = 6
"""The fewest samples whose median has a distribution-free 95% interval."""


class GpuState(Frozen):
    """A GPU beside one sample; what its driver does not tell is None."""

    sm_clock_hz: float | None
    throttle_reasons: tuple[str, ...] | None
    temperature_c: float | None
    foreign_processes: int | None


class Interference(Frozen):
    """What happened beside one sample. What cannot be read here is None."""

    window_ns: int
    """How long was watched; the sample lies within."""
    wait_ns: int | None
    """How long this process's threads were ready to run and did not, together."""
    steal_ns: int | None
    """Time that the host took from the processors within ``tick_window_ns``, in steps of the
    kernel's tick."""
    foreign_cpu_ns: int | None
    """Processor time of other processes within ``tick_window_ns``, in steps of the kernel's
    tick."""
    tick_window_ns: int | None = None
    """How long what comes in ticks was watched: it ends with the sample and begins earlier where
    the sample is too short for ticks. None: ``window_ns``."""
    involuntary_switches: int | None
    migrations: int | None
    minor_faults: int | None
    major_faults: int | None
    core_hz: float | None
    """The core's clock, measured with a chain of dependent instructions."""
    temperature_c: float | None
    gpu: GpuState | None = None
    causes: tuple[str, ...]
    """Why the sample counts as disturbed, as ``kind: how much``; empty where it does not."""


class Sampling(Frozen):
    """How samples were taken, and whether that was enough."""

    clock: Literal["monotonic", "tsc", "cuda_event"]
    clock_cost_ns: float
    """What one reading of the clock costs, measured; every timed batch holds one."""
    clock_resolution_ns: float | None = None
    """The smallest step between readings in a row; a reading's own time is in it."""
    clock_rate_uncertainty: float | None = None
    """How far a nanosecond of the clock may be off, as a fraction, from its calibration."""
    call_cost_ns: float | None = None
    """What calling an empty function takes; it is part of every call's time. None where no function
    is called in between."""
    warm_up_samples: int
    """Samples thrown away before the first that counts."""
    warm: bool | None
    """Whether the samples that count no longer drifted at first; None where they are too few to
    tell."""
    precision_asked: float | None
    """Half the width of the median's 95% interval, as a fraction of it; None: a fixed number."""
    precision_reached: float | None
    """None where there are too few samples for an interval."""
    stopped_by: Literal["precision", "time", "rounds", "interrupt"]


def undisturbed(disturbed: Sequence[bool]) -> tuple[int, ...] | None:
    """Where the undisturbed samples are, of which a median is taken: all, or six and half of all.

    None where they are fewer, so that it is taken of every sample and counts as disturbed.
    """
    quiet = tuple(index for index, bad in enumerate(disturbed) if not bad)
    enough = len(quiet) >= LEAST_UNDISTURBED and 2 * len(quiet) >= len(disturbed)
    return quiet if enough or len(quiet) == len(disturbed) else None
