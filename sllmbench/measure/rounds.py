"""Rounds of turns, until the medians of several candidates are known well enough."""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from sllmbench.errors import InputError
from sllmbench.measure.interference import Kept, compare_clocks, keep
from sllmbench.measure.statistics import LARGEST_DRIFT_WINDOW, drifts, half_width
from sllmbench.record import Interference, Interval, Sampling

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Mapping, Sequence

    from sllmbench import _native

    Stopped = Literal["precision", "time", "rounds", "interrupt"]

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
