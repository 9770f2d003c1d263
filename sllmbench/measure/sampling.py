"""Functions of this process, timed against each other."""

from __future__ import annotations

import gc
import math
import random
from functools import lru_cache
from typing import TYPE_CHECKING

from sllmbench import _native
from sllmbench.errors import InputError
from sllmbench.measure.interference import TICK_WINDOW_NS, Watch
from sllmbench.measure.rounds import Candidate, ClockFacts, Limits, Rounds, Series, Turn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from sllmbench.measure.interference import GpuProbe

__all__ = [
    "CLOCK_SHARE",
    "LEAST_ROUNDS",
    "Candidate",
    "ClockFacts",
    "InProcess",
    "Limits",
    "Rounds",
    "Series",
    "Turn",
    "evict_caches",
    "open_clock",
    "sample",
]

SAMPLE_SECONDS = 1e-3
"""The least length of a sample of a function in this process; what is watched beside it takes
about 0.1 ms."""
LEAST_ROUNDS = 6
CLOCK_SHARE = 0.01
"""Of a sample that reading the clock may take, at most."""
STEPS_PER_SAMPLE = 1000
"""Of the clock's resolution in a sample, at least."""
_COLD_CALLS = 8
"""In a sample at most, where something is done before every call."""


class InProcess:
    """Functions of this process, called in turn without a Python loop in between."""

    def __init__(
        self,
        functions: Callable[[], object] | Sequence[Callable[[], object]],
        clock: _native.Clock,
        watch: Watch,
        *,
        sample_seconds: float = SAMPLE_SECONDS,
        between: Callable[[], object] | None = None,
    ) -> None:
        """Call each once and find out how many calls are a sample.

        Args:
            functions: one, or several that are called one after the other, as copies of a weight
                are that together exceed the cache.
            clock: what times them.
            watch: what is seen beside each sample.
            sample_seconds: the least length of a sample.
            between: what is called before every call, untimed, as :func:`evict_caches`.
        """
        self._functions = (functions,) if callable(functions) else tuple(functions)
        self._clock = clock
        self._watch = watch
        self._between = between
        self._next = 0
        self._calls = self._calibrate(
            max(
                1e9 * sample_seconds,
                clock.cost_ns / CLOCK_SHARE,
                clock.resolution_ns * STEPS_PER_SAMPLE,
            )
        )

    def turn(self) -> Turn:
        """Take one sample; what a function raises goes through."""
        enabled = gc.isenabled()
        gc.disable()  # a full collection takes longer than most calls
        try:
            self._watch.start()
            total_ns = self._time(self._calls)
            interference = self._watch.stop()
        finally:
            if enabled:
                gc.enable()
        return Turn(total_ns / self._calls, self._calls, interference)

    def _time(self, calls: int) -> float:
        if self._between is None:
            total_ns = self._clock.time_batch(self._functions, calls, self._next)
            self._next = (self._next + calls) % len(self._functions)
            return total_ns
        total_ns = 0.0
        for _ in range(calls):
            self._between()
            total_ns += self._clock.time_batch(self._functions, 1, self._next)
            self._next = (self._next + 1) % len(self._functions)
        return total_ns

    def _calibrate(self, sample_ns: float) -> int:
        """So many calls that even the fastest batch seen is long enough."""
        most = 1 << 40 if self._between is None else _COLD_CALLS
        self._time(min(len(self._functions), most))
        calls = 1
        while True:
            took_ns = min(self._time(calls) for _ in range(3))
            if took_ns >= sample_ns or calls >= most:
                return calls
            wanted = calls * sample_ns / max(took_ns, 1.0)
            calls = min(most, max(calls + 1, math.ceil(min(1.05 * wanted, 10 * calls))))


def sample(
    functions: Mapping[str, Callable[[], object] | Sequence[Callable[[], object]]],
    *,
    precision: float | None = 0.01,
    max_seconds: float | None = 10.0,
    rounds: int = LEAST_ROUNDS,
    sample_seconds: float = SAMPLE_SECONDS,
    clock: str | _native.Clock | None = None,
    between: Callable[[], object] | None = None,
    gpu: GpuProbe | None = None,
    seed: int = 0,
) -> dict[str, Series]:
    """Time functions of this process against each other; each has one sample a round.

    Args:
        functions: by name; several under one name are called in turn.
        precision: as :class:`Limits` takes it, with ``max_seconds`` and ``rounds``.
        max_seconds: see there.
        rounds: see there.
        sample_seconds: the least length of a sample.
        clock: ``tsc`` or ``monotonic``; None takes the first where it can be used. For work on a
            GPU, a ``cuda_event`` clock of its stream.
        between: called before every call, untimed; :func:`evict_caches` makes the caches cold.
        gpu: tells how the GPU is doing, where one is measured.
        seed: of the order of turns.

    Raises:
        InputError: a limit that makes no sense, or a clock that cannot be used here.
    """
    limits = Limits(rounds, precision, max_seconds)
    chosen = clock if isinstance(clock, _native.Clock) else open_clock(clock)
    watch = Watch(gpu=gpu)
    watch.start()
    candidates = {
        name: InProcess(function, chosen, watch, sample_seconds=sample_seconds, between=between)
        for name, function in functions.items()
    }
    taken = Rounds(candidates, limits, random.Random(seed))
    taken.warm_up = _look_around(candidates.values(), watch)
    taken.take()
    facts = ClockFacts.of(chosen)
    return {name: taken.series(name, facts) for name in functions}


def _look_around(candidates: Iterable[Candidate], watch: Watch) -> int:
    """Take rounds that do not count until even the first sample has a past to be judged by.

    Without one a burning process would not be told of a series that is shorter than a few ticks.
    """
    rounds = 0
    listed = list(candidates)
    while listed and watch.past_ns() < TICK_WINDOW_NS:
        for candidate in listed:
            candidate.turn()
        rounds += 1
    return rounds


@lru_cache
def open_clock(name: str | None = None) -> _native.Clock:
    """The clock of that name, calibrated once a process.

    Raises:
        InputError: no such clock, or one that cannot be used here.
    """
    if name is None:
        name = "tsc" if _native.tsc_unsupported_reason() is None else "monotonic"
    try:
        return _native.Clock(name)
    except (ValueError, RuntimeError) as error:
        raise InputError(f"clock {name}: {error}") from None


def evict_caches() -> None:
    """Put other bytes into every cache: twice as many as the last level holds.

    Raises:
        InputError: the kernel does not tell the caches' sizes.
    """
    _native.evict(bytes_to_evict())


@lru_cache
def bytes_to_evict() -> int:
    """Twice what the last level of cache holds.

    Raises:
        InputError: the kernel does not tell the caches' sizes.
    """
    from sllmbench.hardware import cpu

    caches, reason = cpu.caches()
    if not caches:
        raise InputError(f"the caches cannot be made cold: {reason}")
    last = max(cache.level for cache in caches)
    return 2 * max(cache.bytes * cache.instances for cache in caches if cache.level == last)
