"""Two functions against each other in one process, on memory that is laid out anew again and again.

Where operands come to lie decides some percent of a kernel's time, for as long as they lie there:
a function timed against its own copy differs from it by more than a regression that one looks for.
So the functions are made anew for every block of rounds, in random order, and a block's ratio is
one observation.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sllmbench.compare.verdict import Thresholds, Verdict, judge_rounds
from sllmbench.errors import InputError
from sllmbench.measure.interference import Watch
from sllmbench.measure.sampling import InProcess, Limits, Rounds, open_clock

if TYPE_CHECKING:
    from collections.abc import Callable

    Maker = Callable[[], Callable[[], object]]

BLOCK_ROUNDS = 9
THRESHOLD = 0.01
LEAST_BLOCKS = 12
"""The fewest whose signs alone can have a probability below 0.001 by chance."""
_WIDTH_TO_STOP = 0.5
"""Of the threshold: an interval that narrow decides nearly always, and looks at no sign."""
_LOOK_EVERY = 1.25


@dataclass(frozen=True)
class AbResult:
    """What two functions cost beside each other.

    Attributes:
        verdict: on the second one against the first.
        base_ns: the first one's median in each block.
        new_ns: the second one's in the same blocks.
        n_disturbed: blocks that were thrown out of the verdict, for most of their rounds were
            disturbed on one side; they are not in the two lists.
        seconds: how long it took.
    """

    verdict: Verdict
    base_ns: tuple[float, ...]
    new_ns: tuple[float, ...]
    n_disturbed: int
    seconds: float


def ab_functions(
    name: str,
    make_base: Maker,
    make_new: Maker,
    *,
    threshold: float = THRESHOLD,
    max_seconds: float = 10.0,
    seed: int = 0,
) -> AbResult:
    """Decide which of two functions is faster.

    Args:
        name: of the benchmark.
        make_base: returns the function to call, with operands of its own.
        make_new: the same of the other side.
        threshold: the smallest difference that counts, as a fraction.
        max_seconds: after which no further block begins.
        seed: of all orders.

    Raises:
        InputError: a number outside its range.
    """
    if not 0 < threshold < 1:
        raise InputError(f"the threshold must be between 0 and 100%, not {threshold:.3%}")
    blocks = _Blocks((make_base, make_new), seed)
    start, next_look = time.monotonic(), LEAST_BLOCKS
    while True:
        blocks.take()
        elapsed = time.monotonic() - start
        quiet = blocks.quiet
        if len(quiet) >= next_look or elapsed >= max_seconds:
            next_look = int(_LOOK_EVERY * len(quiet)) + 1
            chosen = quiet or blocks.disturbed
            base_ns, new_ns = zip(*chosen, strict=True)
            (verdict,) = judge_rounds({name: (base_ns, new_ns)}, thresholds=Thresholds(threshold))
            if elapsed >= max_seconds or _is_narrow(verdict, threshold):
                return AbResult(verdict, base_ns, new_ns, len(blocks.disturbed), elapsed)


def _is_narrow(verdict: Verdict, threshold: float) -> bool:
    effect = verdict.effect
    return effect is not None and (effect.high - effect.low) / 2 <= _WIDTH_TO_STOP * threshold


class _Blocks:
    """Pairs of medians, each on operands of its own."""

    def __init__(self, makers: tuple[Maker, Maker], seed: int) -> None:
        self.quiet: list[tuple[float, float]] = []
        self.disturbed: list[tuple[float, float]] = []
        self._makers = makers
        self._random = random.Random(seed)
        self._clock = open_clock()
        self._watch = Watch()
        self._kept: object = None

    def take(self) -> None:
        """Make both functions, take rounds, keep the two medians."""
        names = ("base", "new")
        functions = {names[side]: self._makers[side]() for side in self._random.sample(range(2), 2)}
        # The last block's operands are let go of only now, so that these lie elsewhere.
        self._kept = functions
        candidates = {
            name: InProcess(function, self._clock, self._watch)
            for name, function in functions.items()
        }
        rounds = Rounds(candidates, Limits(BLOCK_ROUNDS), self._random)
        rounds.take()
        series = [rounds.series(name, self._clock) for name in names]
        medians = series[0].median_ns, series[1].median_ns
        disturbed = any(side.kept.disturbed for side in series)
        (self.disturbed if disturbed else self.quiet).append(medians)
