"""Samples of several candidates that take turns, until the median is known well enough."""

from __future__ import annotations

import gc
import math
import random
import time
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Literal, Protocol

from sllmbench import _native
from sllmbench.errors import InputError
from sllmbench.measure.interference import TICK_WINDOW_NS, Kept, Watch, compare_clocks, keep
from sllmbench.measure.statistics import LARGEST_DRIFT_WINDOW, drifts, half_width
from sllmbench.record import Interference, Interval, Sampling

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from sllmbench.measure.interference import GpuProbe

    Stopped = Literal["precision", "time", "rounds", "interrupt"]

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
_WARM_UP_SHARE = 0.25
"""Of the time that is allowed, for samples that are thrown away."""
_CHECK_GROWTH = 1.1
"""How much longer the series is from one look at the interval to the next: each look is a chance to
stop on an interval that is narrow by luck."""


@dataclass(frozen=True)
class Turn:
    """One sample.

    Attributes:
        ns: a call's time.
        calls: how many, or how many batches of them, were timed.
        others_ns: other times of the same sample, whose medians must be known as well.
    """

    ns: float
    calls: int
    interference: Interference
    others_ns: tuple[float, ...] = ()


@dataclass(frozen=True)
class ClockFacts:
    """The fields of a :class:`Sampling` that say what the clock is."""

    clock: Literal["monotonic", "tsc", "cuda_event"]
    clock_cost_ns: float
    clock_resolution_ns: float | None
    clock_rate_uncertainty: float | None
    call_cost_ns: float | None

    @classmethod
    def of(cls, clock: _native.Clock) -> ClockFacts:
        """Measure what calls cost; the rest the clock has measured when it was made."""
        return cls(
            clock.name,
            clock.cost_ns,
            clock.resolution_ns,
            clock.rate_uncertainty,
            clock.call_cost_ns(),
        )


class Candidate(Protocol):
    """Something that can be timed over and over."""

    def turn(self) -> Turn | None:
        """Take one sample; None where it failed for good."""


@dataclass(frozen=True)
class Limits:
    """When to stop.

    Attributes:
        rounds: how many samples of each candidate; the fewest of them with a precision.
        precision: half the width that the 95% interval of each median may have, as a fraction of
            the median; None takes the rounds and no more.
        max_seconds: after which no further round begins; None waits.
    """

    rounds: int
    precision: float | None = None
    max_seconds: float | None = None

    def __post_init__(self) -> None:
        """Refuse what never ends or never begins.

        Raises:
            InputError: a number outside its range.
        """
        if self.rounds < 1:
            raise InputError(f"rounds must be at least 1, not {self.rounds}")
        if self.precision is not None and not 0 < self.precision < 1:
            raise InputError(f"precision must be between 0 and 100%, not {self.precision:.3%}")
        if self.max_seconds is not None and not 0 < self.max_seconds < math.inf:
            raise InputError(f"the time must be more than 0 seconds, not {self.max_seconds:g}")
        if self.precision is not None and self.max_seconds is None:
            raise InputError("a precision may never be reached; say how long it may take")


@dataclass(frozen=True)
class Series:
    """All samples of one candidate and what they say.

    Attributes:
        samples_ns: a call's time, in the order they were taken, the disturbed ones too. Those of
            several candidates with the same index were taken one after the other, in random order.
        kept: the samples that the interval is of.
        interval: the median's.
    """

    samples_ns: tuple[float, ...]
    calls_per_sample: tuple[int, ...]
    interference: tuple[Interference, ...]
    sampling: Sampling
    kept: Kept
    interval: Interval

    @property
    def median_ns(self) -> float:
        """Of the undisturbed samples, or of all where those are too few (``kept.disturbed``)."""
        return self.interval.median

    @property
    def ci95_ns(self) -> tuple[float, float] | None:
        """None with fewer than six samples."""
        low, high = self.interval.low, self.interval.high
        return None if low is None or high is None else (low, high)


class Rounds:
    """Rounds in which each candidate has one turn, in random order.

    An interrupt, or anything that a candidate raises, leaves what was taken so far in ``turns``.

    Attributes:
        turns: of each candidate that still runs, round by round.
        warm_up: rounds that were thrown away.
        warm: of each candidate, whether what is left did not drift at its beginning; None where too
            few undisturbed samples tell.
        stopped_by: ``interrupt`` until another reason is reached.
    """

    def __init__(
        self,
        candidates: Mapping[str, Candidate],
        limits: Limits,
        turns: random.Random,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare; ``turns`` draws the orders and ``now`` tells seconds."""
        self.turns: dict[str, list[Turn]] = {name: [] for name in candidates}
        self.warm_up = 0
        self.warm: dict[str, bool | None] = dict.fromkeys(candidates)
        self.stopped_by: Stopped = "interrupt"
        self._candidates = candidates
        self._limits = limits
        self._random = turns
        self._now = now
        self._next_look = limits.rounds
        self._settled = False

    def take(self) -> None:
        """Take rounds until a limit is reached or no candidate is left."""
        start = self._now()
        while self.turns:
            self._take_round()
            elapsed = self._now() - start
            self._settle(elapsed)
            stopped = self._stop(elapsed)
            if stopped is not None:
                self.stopped_by = stopped
                return

    def series(self, name: str, clock: ClockFacts) -> Series:
        """What the candidate's turns say; it has taken one at least."""
        turns = self.turns[name]
        samples_ns = tuple(turn.ns for turn in turns)
        interference = compare_clocks([turn.interference for turn in turns])
        kept = keep(interference)
        interval = kept.interval(samples_ns)
        return Series(
            samples_ns=samples_ns,
            calls_per_sample=tuple(turn.calls for turn in turns),
            interference=interference,
            sampling=self.sampling(name, clock, half_width(interval)),
            kept=kept,
            interval=interval,
        )

    def sampling(self, name: str, clock: ClockFacts, reached: float | None) -> Sampling:
        """How the candidate's samples were taken; ``reached`` is the precision they gave."""
        return Sampling(
            **asdict(clock),
            warm_up_samples=self.warm_up,
            warm=self.warm[name],
            precision_asked=self._limits.precision,
            precision_reached=reached,
            stopped_by=self.stopped_by,
        )

    def _take_round(self) -> None:
        for name in self._random.sample(list(self.turns), len(self.turns)):
            turn = self._candidates[name].turn()
            if turn is None:
                del self.turns[name]
            else:
                self.turns[name].append(turn)

    def _taken(self) -> int:
        return min((len(turns) for turns in self.turns.values()), default=0)

    def _settle(self, elapsed: float) -> None:
        """Judge the beginning; with a precision, throw the first round away where it drifts.

        So the rounds that show that the candidates are warm are samples already.
        """
        begun, limits = 2 * LARGEST_DRIFT_WINDOW, self._limits
        if self._settled or self._taken() > begun:
            return
        self.warm = {name: _is_warm(turns[:begun]) for name, turns in self.turns.items()}
        if limits.precision is None or self._taken() < begun:
            return
        late = elapsed >= _WARM_UP_SHARE * (limits.max_seconds or math.inf)
        if all(self.warm.values()) or late:
            self._settled = True
            return
        self.warm_up += 1
        for turns in self.turns.values():
            del turns[0]

    def _stop(self, elapsed: float) -> Stopped | None:
        limits, taken = self._limits, self._taken()
        if limits.precision is None and taken >= limits.rounds:
            return "rounds"
        if limits.precision is not None and self._settled and taken >= self._next_look:
            self._next_look = math.ceil(_CHECK_GROWTH * taken)
            if all(self._is_narrow(turns, limits.precision) for turns in self.turns.values()):
                return "precision"
        if limits.max_seconds is not None and elapsed >= limits.max_seconds:
            return "time"
        return None

    @staticmethod
    def _is_narrow(turns: Sequence[Turn], precision: float) -> bool:
        kept = keep(compare_clocks([turn.interference for turn in turns]))
        figures = zip(*((turn.ns, *turn.others_ns) for turn in turns), strict=True)
        widths = [half_width(kept.interval(figure)) for figure in figures]
        return all(width is not None and width <= precision for width in widths)


def _is_warm(turns: Sequence[Turn]) -> bool | None:
    drift = drifts([turn.ns for turn in turns if not turn.interference.causes])
    return None if drift is None else not drift


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
    clock: str | None = None,
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
        clock: ``tsc`` or ``monotonic``; None takes the first where it can be used.
        between: called before every call, untimed; :func:`evict_caches` makes the caches cold.
        gpu: tells how the GPU is doing, where one is measured.
        seed: of the order of turns.

    Raises:
        InputError: a limit that makes no sense, or a clock that cannot be used here.
    """
    limits = Limits(rounds, precision, max_seconds)
    chosen = open_clock(clock)
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
    _native.evict(_bytes_to_evict())


@lru_cache
def _bytes_to_evict() -> int:
    from sllmbench.hardware import cpu

    caches, reason = cpu.caches()
    if not caches:
        raise InputError(f"the caches cannot be made cold: {reason}")
    last = max(cache.level for cache in caches)
    return 2 * max(cache.bytes * cache.instances for cache in caches if cache.level == last)
