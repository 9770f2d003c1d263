"""Where a series of times changed its level: segmentation by ranks, tested by permutation.

Every stretch of the series is compared with the rest by Wilcoxon's rank sum, standardised;
stretches rather than halves, so that a change which was taken back later is seen too (circular binary
segmentation). The stretch with the largest sum is a change if it exceeds the largest one of nearly
all random orders of the same values: of the values, because the place was searched for. The parts
are then searched in the same way; a place whose two sides do not differ by themselves is dropped.
Ranks, because one bad session must not look like a change.

It answers for series whose values are independent of each other but for the changes. A machine that
drifts from month to month is a change too, and is marked as one.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

LEVEL = 0.01
"""Probability of marking anything in a set of series that did not change."""
LEAST_EFFECT = 0.01
PERMUTATIONS = 5000
"""The least probability that they can show bounds how many lines the level is divided by."""
_SHORTEST = 3
"""Values on either side: one or two are an outlier until more have followed."""
_AT_ONCE = 1_000_000
"""Ranks that are permuted at once, for memory's sake."""


@dataclass(frozen=True)
class Change:
    """A change of level.

    Attributes:
        index: of the first value of the new level.
        ratio: the median of that level divided by the one before.
        p: how often random orders show so clear a change.
    """

    index: int
    ratio: float
    p: float


def find_changes(
    values_ns: Sequence[float], *, level: float = LEVEL, seed: int = 0
) -> list[Change]:
    """Return the changes of a series in time's order.

    Args:
        values_ns: positive times.
        level: probability of marking a change in a series without one.
        seed: of the permutations: the same series is always judged alike.
    """
    import numpy as np

    logs = np.log(np.asarray(values_ns, dtype=np.float64))
    rng = np.random.default_rng(seed)
    reachable = max(level, 2 / (PERMUTATIONS + 1))
    places: dict[int, float] = {}
    _search(logs, 0, len(logs), reachable, rng, places)
    return _kept(logs, places, reachable)


def _search(
    logs: Floats,
    start: int,
    end: int,
    level: float,
    rng: np.random.Generator,
    places: dict[int, float],
) -> None:
    if end - start < 2 * _SHORTEST:
        return
    first, last, p = _best_stretch(logs[start:end], rng)
    if p > level:
        return
    ends = [start, start + first, start + last, end]
    places.update({place: p for place in ends[1:3] if start < place < end})
    for begin, stop in itertools.pairwise(ends):
        _search(logs, begin, stop, level, rng, places)


def _best_stretch(values: Floats, rng: np.random.Generator) -> tuple[int, int, float]:
    """The stretch that differs most from the rest, and its permutation p."""
    import numpy as np
    from scipy import stats

    n = len(values)
    ranks = stats.rankdata(values) - (n + 1) / 2
    best, first, last = 0.0, 0, n
    for length, scores in _stretches(ranks[None]):
        place = int(np.argmax(scores[0]))
        if scores[0, place] > best + 1e-9:
            best, first, last = float(scores[0, place]), place, place + length
    as_clear, rows = 0, max(1, _AT_ONCE // n)
    for begin in range(0, PERMUTATIONS, rows):
        count = min(rows, PERMUTATIONS - begin)
        orders = rng.permuted(np.broadcast_to(ranks, (count, n)), axis=1)
        highest = np.zeros(count)
        for _, scores in _stretches(orders):
            np.maximum(highest, scores.max(axis=1), out=highest)
        as_clear += int(np.sum(highest >= best - 1e-9))
    return first, last, (as_clear + 1) / (PERMUTATIONS + 1)


def _stretches(ranks: Floats) -> Iterator[tuple[int, Floats]]:
    """Each length, and |rank sum| of its stretches by the deviation that chance gives it.

    Those that begin or end with the series are its plain halves.
    """
    import numpy as np

    n = ranks.shape[1]
    sums = np.concatenate([np.zeros((len(ranks), 1)), np.cumsum(ranks, axis=1)], axis=1)
    for length in range(_SHORTEST, n - _SHORTEST + 1):
        deviation = math.sqrt(length * (n - length) * (n + 1) / 12)
        yield length, np.abs(sums[:, length:] - sums[:, :-length]) / deviation


def _kept(logs: Floats, places: dict[int, float], level: float) -> list[Change]:
    """Drop places between levels that hardly differ, the least convincing first."""
    import numpy as np
    from scipy import stats

    kept = sorted(places)
    while kept:
        parts = np.split(logs, kept)
        steps = [float(np.median(b) - np.median(a)) for a, b in itertools.pairwise(parts)]
        doubts = [
            1.0 if abs(step) < math.log1p(LEAST_EFFECT) else float(stats.mannwhitneyu(a, b).pvalue)
            for step, (a, b) in zip(steps, itertools.pairwise(parts), strict=True)
        ]
        if max(doubts) <= level:
            return [
                Change(place, math.exp(step), places[place])
                for place, step in zip(kept, steps, strict=True)
            ]
        del kept[doubts.index(max(doubts))]
    return []
