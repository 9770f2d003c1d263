"""A benchmark's medians over the commits of a store, with the changes among them."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from sllmbench.compare.changes import LEVEL, Change, find_changes
from sllmbench.compare.inputs import of_records
from sllmbench.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from sllmbench.compare.series import Run
    from sllmbench.record import AnyRecord


@dataclass(frozen=True)
class Point:
    """A commit in a line.

    Attributes:
        commit: with ``+`` behind it where files differed from it.
        created_utc: of its first run.
        median_ns: of its runs' medians.
        run_medians_ns: of each run, in time's order.
        disturbed_runs: how many of them were mostly disturbed.
        change: the change of level that this commit begins, if any.
    """

    commit: str
    created_utc: str
    median_ns: float
    run_medians_ns: tuple[float, ...]
    disturbed_runs: int
    change: Change | None


@dataclass(frozen=True)
class Line:
    """One benchmark on one machine with one set of libraries, threads and so on."""

    name: str
    identity: dict[str, str]
    points: tuple[Point, ...]


@dataclass(frozen=True)
class History:
    """The lines, and how many measurements of theirs had no commit."""

    lines: tuple[Line, ...]
    without_commit: int


def history(pattern: str = "*", store: Path | None = None) -> History:
    """Read the store and find the changes of every benchmark that the pattern matches.

    Raises:
        InputError: no store, or nothing in it that matches and has a commit.
    """
    from sllmbench.store import Store

    with Store(store, must_exist=True) as opened:
        found = of_store(opened.records(), pattern)
        if not found.lines:
            why = f"{found.without_commit} have no commit" if found.without_commit else "none is"
            raise InputError(f"no benchmark like {pattern!r} over commits in {opened.path}: {why}")
    return found


def of_store(records: Iterable[AnyRecord], pattern: str = "*") -> History:
    """Draw the lines of records; only what is alike in all that identifies it is joined."""
    alike: dict[tuple[str, tuple[tuple[str, str], ...]], list[Run]] = {}
    without_commit = 0
    for name, run in of_records(records, "store"):
        if name != pattern and not fnmatchcase(name, pattern):
            continue
        if run.commit is None:
            without_commit += 1
            continue
        alike.setdefault((name, tuple(sorted(run.identity.items()))), []).append(run)
    lines = [
        Line(name, dict(identity), _points(runs, LEVEL / len(alike)))
        for (name, identity), runs in alike.items()
    ]
    return History(tuple(sorted(lines, key=lambda line: line.name)), without_commit)


def _points(runs: Sequence[Run], level: float) -> tuple[Point, ...]:
    """Commits in the order of their first runs, later runs of one beside its first."""
    by_commit: dict[str, list[Run]] = {}
    for run in sorted(runs, key=lambda run: run.created_utc):
        by_commit.setdefault(run.commit or "", []).append(run)
    medians = {
        commit: tuple(statistics.median(run.usable_ns()) for run in of_commit)
        for commit, of_commit in by_commit.items()
    }
    # A commit's runs count once: several of one session are not several independent values.
    levels = [statistics.median(values) for values in medians.values()]
    changes = {change.index: change for change in find_changes(levels, level=level)}
    return tuple(
        Point(
            commit=commit,
            created_utc=of_commit[0].created_utc,
            median_ns=levels[index],
            run_medians_ns=medians[commit],
            disturbed_runs=sum(run.mostly_disturbed() for run in of_commit),
            change=changes.get(index),
        )
        for index, (commit, of_commit) in enumerate(by_commit.items())
    )
