"""Two functions against each other in one process, on memory that is laid out anew for each turn.

Where operands come to lie decides some percent of a kernel's time, for as long as they lie there:
a function timed against its own copy differs from it by more than a regression that one looks for.
So the functions are made anew for every turn.
"""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING

from sllmbench.ab.rounds import Limits, TurnsResult, take_turns
from sllmbench.measure.interference import Watch
from sllmbench.measure.sampling import InProcess, open_clock

if TYPE_CHECKING:
    from collections.abc import Callable

    Maker = Callable[[], Callable[[], object]]

SAMPLES = 5
"""Undisturbed ones that a turn's time is the median of."""
MOST_SAMPLES = 25
"""After so many the turn's time is the median of all: on a busy machine none may be undisturbed."""


def ab_functions(
    name: str, make_base: Maker, make_new: Maker, limits: Limits | None = None
) -> TurnsResult:
    """Decide which of two functions is faster.

    Args:
        name: of the benchmark.
        make_base: returns the function to call, with operands of its own.
        make_new: the same of the other side.
        limits: when to stop and what counts as slower; the default ones if None.
    """
    watch = Watch()
    base, new = _Turn(name, make_base, watch), _Turn(name, make_new, watch)
    notes = (f"each turn on operands laid out anew, the median of {SAMPLES} samples",)
    return take_turns(base, new, limits or Limits(), labels=("base", "new"), notes=notes)


class _Turn:
    """Makes a side's function and times it."""

    def __init__(self, name: str, make: Maker, watch: Watch) -> None:
        self._name = name
        self._make = make
        self._watch = watch
        self._kept: object = None

    def __call__(self) -> dict[str, float]:
        function = self._make()
        # The last turn's operands are let go of only now, so that these lie elsewhere.
        self._kept = function
        timed = InProcess(function, open_clock(), self._watch)
        samples: list[float] = []
        quiet: list[float] = []
        while len(quiet) < SAMPLES and len(samples) < MOST_SAMPLES:
            turn = timed.turn()
            samples.append(turn.ns)
            if not turn.interference.causes:
                quiet.append(turn.ns)
        chosen = quiet if len(quiet) >= SAMPLES else samples
        return {self._name: statistics.median(chosen)}
