"""A benchmark's medians over commits, and where they changed for good.

A change point divides a line of commits into two parts of different level. The most likely place is
where the ranks of the medians differ most between the parts (the largest standardised rank sum,
which no outlier decides); shuffling the medians tells how often chance alone would show so large a
one. Both parts are then searched again (binary segmentation).
"""

from __future__ import annotations

import itertools
import statistics
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from sllmbench.compare.inputs import of_records

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from sllmbench.compare.series import Run
    from sllmbench.record import AnyRecord

ALPHA = 0.01
"""Probability of a change point in a line without one; ten commits are the fewest that can have
one."""
SHUFFLES = 4999
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
    unknown = 0
    for name, run in of_records(records, "the store"):
        if not fnmatchcase(name, pattern):
            continue
        if run.commit is None:
            unknown += 1
            continue
        lines.setdefault((name, tuple(sorted(run.identity.items()))), []).append(run)
    return [_line(name, dict(same), runs) for (name, same), runs in lines.items()], unknown


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
    found: list[tuple[int, float]] = []
    _search(values, 0, alpha, toss, found)
    if not found:
        return []
    places = sorted(found)
    edges = [0, *(place for place, _ in places), len(values)]
    levels = [float(np.median(values[a:b])) for a, b in itertools.pairwise(edges)]
    return [
        Change(place, levels[number + 1] / levels[number], p)
        for number, (place, p) in enumerate(places)
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
    found: list[tuple[int, float]],
) -> None:
    """Add the change points of one part, which begins at ``start`` of the whole."""
    import numpy as np
    from scipy import stats

    if len(values) < 2 * LEAST_PART:
        return
    ranks = stats.rankdata(values) - (len(values) + 1) / 2
    heights = _heights(ranks[np.newaxis])[0]
    place = int(heights.argmax())
    shuffled = toss.permuted(np.tile(ranks, (SHUFFLES, 1)), axis=1)
    # A rounding error must not make an equal shuffle a smaller one.
    as_high = np.count_nonzero(_heights(shuffled).max(axis=1) >= heights[place] * (1 - 1e-12))
    p = (1 + as_high) / (1 + SHUFFLES)
    if p > alpha:
        return
    first = place + LEAST_PART
    found.append((start + first, p))
    _search(values[:first], start, alpha, toss, found)
    _search(values[first:], start + first, alpha, toss, found)


def _heights(ranks: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of each row, the standardised rank sum of its first 3, 4, ... values, without sign."""
    import numpy as np

    n = ranks.shape[1]
    counts = np.arange(LEAST_PART, n - LEAST_PART + 1)
    sums = ranks.cumsum(axis=1)[:, counts - 1]
    heights: NDArray[np.float64] = np.abs(sums) / np.sqrt(counts * (n - counts))
    return heights
