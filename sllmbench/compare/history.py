"""A benchmark's medians over commits, and where they changed for good.

Two things are looked for: a place whose two sides differ most in their ranks' sums, standardised,
and a stretch that differs most from the rest, for a slowdown that was mended later leaves two sides
of nearly equal level. Shuffling the medians tells how often chance alone would show so large a
difference anywhere; where it would not, the parts are searched again. An end of a stretch stays
only if halving the parts around it shows a change as well, for one of its ends may be chance.
"""

from __future__ import annotations

import itertools
import math
import statistics
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from sllmbench.compare.inputs import of_records

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from sllmbench.compare.series import Run
    from sllmbench.record import AnyRecord

    _Highest = Callable[[NDArray[np.float64]], NDArray[np.float64]]

ALPHA = 0.01
"""Probability of a change point in a line without one; ten commits are the fewest that can have
one."""
SHUFFLES = 4999
_STRETCHES_SHARE = 0.2
"""Of that probability for stretches, on top: it is not taken from the halves, of which alone ten
commits can show a change, and the ends must be confirmed besides."""
_LONG, _SHUFFLES_LONG = 200, 999
"""A line of so many commits is shuffled less often: its stretches are too many."""
LEAST_PART = 3
"""Commits on either side of a change point: fewer are an outlier."""


@dataclass(frozen=True)
class Point:
    """One commit.

    Attributes:
        commit: its name, ``+`` behind it where files differed.
        created_utc: of its first run.
        median_ns: of its runs' medians.
        runs: how many.
        disturbed: whether a run of them was disturbed in most samples.
    """

    commit: str
    created_utc: str
    median_ns: float
    runs: int
    disturbed: bool


@dataclass(frozen=True)
class Change:
    """A level that ends and another that begins.

    Attributes:
        index: the first point of the new level.
        ratio: the new level's median divided by the old one's: above 1 is slower.
        p: how often chance alone shows so clear a change.
    """

    index: int
    ratio: float
    p: float


@dataclass(frozen=True)
class Line:
    """A benchmark on one kind of machine, with the same libraries, over commits in time order.

    Attributes:
        name: the benchmark's.
        identity: what all its runs share.
    """

    name: str
    identity: Mapping[str, str]
    points: tuple[Point, ...]
    changes: tuple[Change, ...]


def history(records: Iterable[AnyRecord], pattern: str = "*") -> tuple[list[Line], int]:
    """Join records to lines; return them and how many runs are of no known commit, and left out.

    Args:
        records: of any kind.
        pattern: shell pattern that a benchmark's name must match.
    """
    lines: dict[tuple[str, tuple[tuple[str, str], ...]], list[Run]] = {}
    unknown: set[str] = set()
    for name, run in of_records(records, "the store"):
        if not fnmatchcase(name, pattern):
            continue
        if run.commit is None:
            unknown.add(run.source)
            continue
        lines.setdefault((name, tuple(sorted(run.identity.items()))), []).append(run)
    joined = [_line(name, dict(same), runs) for (name, same), runs in lines.items()]
    return joined, len(unknown)


def change_points(medians_ns: Sequence[float], alpha: float = ALPHA) -> list[Change]:
    """Find where the level of the medians changed, in order.

    Raises:
        ValueError: medians that are not above 0.
    """
    import numpy as np

    values = np.asarray(medians_ns, dtype=np.float64)
    if not np.all(values > 0):
        raise ValueError("medians must be above 0")
    toss = np.random.default_rng(0)
    candidates: set[int] = set()
    _search(values, 0, alpha, toss, candidates)
    places = _confirmed(values, sorted(candidates), alpha, toss)
    if not places:
        return []
    edges = [0, *places, len(values)]
    levels = [float(np.median(values[a:b])) for a, b in itertools.pairwise(edges)]
    return [
        Change(place, levels[number + 1] / levels[number], p)
        for number, (place, p) in enumerate(places.items())
    ]


def _line(name: str, identity: Mapping[str, str], runs: Sequence[Run]) -> Line:
    of_commit: dict[str, list[Run]] = {}
    for run in sorted(runs, key=lambda run: run.created_utc):
        of_commit.setdefault(run.commit or "", []).append(run)
    points = tuple(
        Point(
            commit,
            own[0].created_utc,
            statistics.median(statistics.median(run.usable_ns()) for run in own),
            len(own),
            any(run.mostly_disturbed() for run in own),
        )
        for commit, own in of_commit.items()
    )
    changes = change_points([point.median_ns for point in points])
    return Line(name, identity, points, tuple(changes))


def _search(
    values: NDArray[np.float64],
    start: int,
    alpha: float,
    toss: np.random.Generator,
    found: set[int],
) -> None:
    """Add the candidates of one part, which begins at ``start`` of the whole."""
    if len(values) < 2 * LEAST_PART:
        return
    if _chance(values, toss, _highest_half) <= alpha:
        first, last = 0, _best_half(values)
    elif _chance(values, toss, _highest_stretch) <= _STRETCHES_SHARE * alpha:
        first, last = _farthest_stretch(values)
    else:
        return
    found.update(start + place for place in (first, last) if 0 < place < len(values))
    edges = [0, first, last, len(values)]
    for begin, end in itertools.pairwise(edges):
        _search(values[begin:end], start + begin, alpha, toss, found)


def _confirmed(
    values: NDArray[np.float64], places: list[int], alpha: float, toss: np.random.Generator
) -> dict[int, float]:
    """The places that their neighbourhoods confirm, the least likely dropped one by one."""
    while places:
        edges = [0, *places, len(values)]
        ps = [
            _chance(values[begin:end], toss, _highest_half)
            for begin, end in zip(edges, edges[2:], strict=False)
        ]
        if max(ps) <= alpha:
            return dict(zip(places, ps, strict=True))
        del places[ps.index(max(ps))]
    return {}


def _chance(values: NDArray[np.float64], toss: np.random.Generator, highest: _Highest) -> float:
    """How often shuffled values are as high as these; ``highest`` gives each row's height."""
    import numpy as np

    if len(values) < 2 * LEAST_PART:
        return 1.0
    ranks = _ranks(values)
    height = highest(ranks[np.newaxis])[0]
    shuffles = SHUFFLES if len(values) < _LONG else _SHUFFLES_LONG
    shuffled = toss.permuted(np.tile(ranks, (shuffles, 1)), axis=1)
    # A rounding error must not make an equal shuffle a smaller one.
    as_high = int(np.count_nonzero(highest(shuffled) >= height * (1 - 1e-12)))
    return (1 + as_high) / (1 + shuffles)


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    from scipy import stats

    ranks: NDArray[np.float64] = stats.rankdata(values) - (len(values) + 1) / 2
    return ranks


def _best_half(values: NDArray[np.float64]) -> int:
    import numpy as np

    return LEAST_PART + int(_halves(_ranks(values)[np.newaxis])[0].argmax())


def _farthest_stretch(values: NDArray[np.float64]) -> tuple[int, int]:
    import numpy as np

    best, found = -1.0, (0, len(values))
    for length, heights in _stretches(_ranks(values)[np.newaxis]):
        place = int(heights[0].argmax())
        if heights[0, place] > best * (1 + 1e-12):
            best, found = float(heights[0, place]), (place, place + length)
    return found


def _highest_stretch(ranks: NDArray[np.float64]) -> NDArray[np.float64]:
    import numpy as np

    highest = np.zeros(len(ranks))
    for _, heights in _stretches(ranks):
        np.maximum(highest, heights.max(axis=1), out=highest)
    return highest


def _stretches(ranks: NDArray[np.float64]) -> Iterator[tuple[int, NDArray[np.float64]]]:
    """Each length, and of each row the standardised rank sums, without sign, of its stretches."""
    import numpy as np

    n = ranks.shape[1]
    sums = np.concatenate([np.zeros((len(ranks), 1)), ranks.cumsum(axis=1)], axis=1)
    for length in range(LEAST_PART, n - LEAST_PART + 1):
        yield (
            length,
            np.abs(sums[:, length:] - sums[:, :-length]) / math.sqrt(length * (n - length)),
        )


def _highest_half(ranks: NDArray[np.float64]) -> NDArray[np.float64]:
    highest: NDArray[np.float64] = _halves(ranks).max(axis=1)
    return highest


def _halves(ranks: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of each row, the standardised rank sum of its first 3, 4, ... values, without sign."""
    import numpy as np

    n = ranks.shape[1]
    counts = np.arange(LEAST_PART, n - LEAST_PART + 1)
    sums = ranks.cumsum(axis=1)[:, counts - 1]
    heights: NDArray[np.float64] = np.abs(sums) / np.sqrt(counts * (n - counts))
    return heights
