"""Rounds in which both candidates have one turn each, in an order tossed for every round.

The toss is what makes the verdict valid: whichever of the two the machine's noise falls on, it
might as well have fallen on the other. The rounds end when the interval of every ratio is as narrow
as asked, never because of the verdict itself.
"""

from __future__ import annotations

import math
import random
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from sllmbench.compare import ALPHA, Comparison, Thresholds, Verdict
from sllmbench.compare.verdict import judge_rounds
from sllmbench.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Turn = Callable[[], Mapping[str, float]]
    """Runs a candidate once; the time of each of its benchmarks in ns."""
    Tell = Callable[[str, float | None], None]

_GROWTH = 1.25
"""From one look at the intervals to the next: few looks, so that a lucky one hardly counts."""


@dataclass(frozen=True)
class Limits:
    """When to stop, and what the verdict asks for.

    Attributes:
        precision: half the width of every ratio's 95% interval, as a fraction.
        max_time_s: no round is begun after it.
        thresholds: the smallest slowdowns that count.
        alpha: probability of any false alarm.
        seed: of the tosses.
    """

    precision: float = 0.01
    max_time_s: float = 120.0
    thresholds: Thresholds = field(default_factory=Thresholds)
    alpha: float = ALPHA
    seed: int | None = None


@dataclass(frozen=True)
class TurnsResult:
    """What the rounds gave.

    Attributes:
        comparison: the verdicts.
        base_ns: of each benchmark, a time a round.
        new_ns: the same of the new one.
        base_first: of each round, whether the base had the first turn.
        stopped_by: why there were no more rounds.
        wall_s: how long the rounds took.
        extra: other figures of the sides, for files.
    """

    comparison: Comparison
    base_ns: Mapping[str, tuple[float, ...]]
    new_ns: Mapping[str, tuple[float, ...]]
    base_first: tuple[bool, ...]
    stopped_by: Literal["precision", "time", "interrupt"]
    wall_s: float
    extra: Mapping[str, object] = field(default_factory=dict)


def take_turns(
    base: Turn,
    new: Turn,
    limits: Limits,
    *,
    labels: tuple[str, str],
    notes: tuple[str, ...] = (),
    tell: Tell = lambda what, fraction: None,
) -> TurnsResult:
    """Give each candidate one turn that does not count, then rounds until ``limits`` are met.

    An interrupt ends the rounds; those that were completed are judged.

    Raises:
        InputError: no benchmark is on both sides; whatever a turn raises.
    """
    tell("warming up", None)
    names, one_sided = _names(base(), new(), labels)
    rounds = _Rounds(names, limits)
    started_s = time.monotonic()
    stopped_by: Literal["precision", "time", "interrupt"] = "interrupt"
    try:
        stopped_by = rounds.run(base, new, tell, started_s + limits.max_time_s)
    except KeyboardInterrupt:
        if not rounds.base_first:
            raise
    verdicts = rounds.judge()
    asked = f"± {limits.precision * 100:.3g}% of every ratio's interval"
    said = {
        "precision": f"{len(rounds.base_first)} rounds reached {asked}",
        "time": f"{len(rounds.base_first)} rounds; {asked} was not reached in"
        f" {limits.max_time_s:.3g} s",
        "interrupt": f"interrupted after {len(rounds.base_first)} rounds",
    }[stopped_by]
    return TurnsResult(
        comparison=Comparison(
            base=labels[0],
            new=labels[1],
            verdicts=tuple(verdicts),
            differences={},
            forced=False,
            only_base=one_sided[0],
            only_new=one_sided[1],
            alpha=limits.alpha,
            notes=(f"turns in random order, {said}", *notes),
        ),
        base_ns={name: tuple(times) for name, times in rounds.base_ns.items()},
        new_ns={name: tuple(times) for name, times in rounds.new_ns.items()},
        base_first=tuple(rounds.base_first),
        stopped_by=stopped_by,
        wall_s=time.monotonic() - started_s,
    )


def _names(
    base: Mapping[str, float], new: Mapping[str, float], labels: tuple[str, str]
) -> tuple[list[str], tuple[tuple[str, ...], tuple[str, ...]]]:
    both = [name for name in base if name in new]
    if not both:
        raise InputError(f"no benchmark is both in {labels[0]} and in {labels[1]}")
    return both, (tuple(n for n in base if n not in new), tuple(n for n in new if n not in base))


class _Rounds:
    """The times so far; a round counts when both of its turns are done."""

    def __init__(self, names: list[str], limits: Limits) -> None:
        self.base_ns: dict[str, list[float]] = {name: [] for name in names}
        self.new_ns: dict[str, list[float]] = {name: [] for name in names}
        self.base_first: list[bool] = []
        self._limits = limits
        self._toss = random.Random(limits.seed)

    def run(
        self, base: Turn, new: Turn, tell: Tell, deadline_s: float
    ) -> Literal["precision", "time"]:
        # Fewer rounds cannot give so small a probability even if all agree.
        look = 2 + math.ceil(math.log2(len(self.base_ns) / self._limits.alpha))
        while not self.base_first or time.monotonic() < deadline_s:
            left = (deadline_s - time.monotonic()) / self._limits.max_time_s
            tell(f"round {len(self.base_first) + 1}", 1 - left)
            self._round(base, new)
            if len(self.base_first) < look:
                continue
            if self._narrow():
                return "precision"
            look = math.ceil(look * _GROWTH)
        return "time"

    def judge(self) -> list[Verdict]:
        times = {name: (self.base_ns[name], self.new_ns[name]) for name in self.base_ns}
        return judge_rounds(times, thresholds=self._limits.thresholds, alpha=self._limits.alpha)

    def _round(self, base: Turn, new: Turn) -> None:
        base_first = self._toss.random() < 0.5
        if base_first:
            before, after = base(), new()
        else:
            after, before = new(), base()
        missing = [n for n in self.base_ns if n not in before or n not in after]
        if missing:
            raise InputError(f"the benchmark {missing[0]} did not run in every round")
        for name, times in self.base_ns.items():
            times.append(before[name])
            self.new_ns[name].append(after[name])
        self.base_first.append(base_first)

    def _narrow(self) -> bool:
        widths = [
            (v.effect.high - v.effect.low) / 2 / v.effect.ratio
            for v in self.judge()
            if v.effect is not None
        ]
        return all(width <= self._limits.precision for width in widths)
