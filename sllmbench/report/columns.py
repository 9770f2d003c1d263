"""The two tables of a report as columns of text, most wanted first where room is short."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sllmbench.record import Interval, Record

    _Axis = Callable[[Record], "_Range | None"]

MISSING = "–"
PARETO_MARK, INCOMPLETE_MARK, DISTURBED_MARK = "*", "†", "~"
_LONGEST_NAME_IN_HEADER = 6


@dataclass(frozen=True)
class Column:
    """A column: its title, a cell a record, and how soon it is dropped (0: never)."""

    title: str
    cells: tuple[str, ...]
    rank: int

    @property
    def width(self) -> int:
        """Characters that it takes."""
        return max(len(text) for text in (self.title, *self.cells))


def pareto(records: Sequence[Record]) -> list[str]:
    """Paths that no other beats in decode speed, peak memory and perplexity at once.

    A path is beaten by one whose figures are at least as good in each and better beyond noise in
    one: their ranges (see :data:`NOISE`) lie apart. A quantity that no record has is left out; a
    record that lacks one which others have is not on the frontier.
    """
    used = _axes(records)
    points = {r.path: _point(r, used) for r in records}
    known = {path: point for path, point in points.items() if point is not None}
    return [
        path
        for path, point in known.items()
        if used and not any(_beats(other, point) for other in known.values())
    ]


def without_all_axes(records: Sequence[Record]) -> list[str]:
    """Paths that lack a quantity which others have, so that the frontier leaves them out."""
    used = _axes(records)
    return [r.path for r in records if _point(r, used) is None]


def speed_columns(records: Sequence[Record], reference: str) -> list[Column]:
    """Throughputs and latencies with their intervals, and ratios against the reference."""
    first = records[0]
    against = ratio_title(reference)
    base = _of(records, reference)
    return [
        _paths(records),
        Column(f"pp{first.n_prompt} t/s", _intervals(records, lambda r: r.prefill_tps), 2),
        Column(against, _ratios(records, base, lambda r: _median(r.prefill_tps)), 4),
        Column(f"tg{first.n_gen} t/s", _intervals(records, lambda r: r.decode_tps), 1),
        Column(against, _ratios(records, base, lambda r: _median(r.decode_tps)), 3),
        _duration("TTFT", records, lambda r: r.ttft_ns, 6),
        _duration("TPOT", records, lambda r: r.tpot_ns, 5),
        Column("kernel", tuple(r.kernel for r in records), 7),
        Column("ISA", tuple(r.isa for r in records), 8),
    ]


def cost_columns(records: Sequence[Record], reference: str) -> list[Column]:
    """Memory, energy, quality and load time; a quantity that no record has gets no column."""
    against = ratio_title(reference)
    base = _of(records, reference)
    columns = [
        _paths(records),
        Column("weights MB", _numbers(records, lambda r: r.weights_bytes / 1e6), 3),
        Column(against, _ratios(records, base, lambda r: r.weights_bytes), 7),
        Column("peak RSS MB", _numbers(records, lambda r: _scaled(r.peak_rss_bytes, 1e6)), 1),
        Column(against, _ratios(records, base, lambda r: r.peak_rss_bytes), 8),
    ]
    first = records[0]
    if any(r.decode_energy.j_per_token is not None for r in records):
        cells = _numbers(records, lambda r: r.decode_energy.j_per_token)
        columns.append(Column(f"tg{first.n_gen} J/token", cells, 4))
    if any(r.prefill_energy.j_per_token is not None for r in records):
        cells = _numbers(records, lambda r: r.prefill_energy.j_per_token)
        columns.append(Column(f"pp{first.n_prompt} J/token", cells, 4))
    if any(r.quality is not None for r in records):
        columns += [
            Column("perplexity", _numbers(records, lambda r: r.perplexity, digits=4), 2),
            Column("KL nats", tuple(_or_missing(r.kl_divergence, _small) for r in records), 5),
            Column("top-1", tuple(_or_missing(r.top1_agreement, _percent) for r in records), 6),
        ]
    columns.append(Column("load s", _numbers(records, lambda r: r.load_ns / 1e9), 9))
    return columns


def fitted(columns: Sequence[Column], width: int, gap: int) -> list[Column]:
    """Leave out the least wanted columns until the rest, ``gap`` apart, fit into ``width``."""
    kept = list(columns)
    while sum(c.width for c in kept) + gap * (len(kept) - 1) > width and len(kept) > 1:
        kept.remove(max(kept, key=lambda c: c.rank))
    return kept


def ratio_title(reference: str) -> str:
    """The title of a ratio's column: it names the row that is 1, where the name is short."""
    return f"× {reference}" if len(reference) <= _LONGEST_NAME_IN_HEADER else "× ref"


def number(value: float, digits: int = 3) -> str:
    """``digits`` significant digits, whole numbers in full: 0.0123, 1.23, 12.3, 123, 1234."""
    return f"{value:.{_decimals(value, digits)}f}"


def spread(interval: Interval | None, scale: float = 1.0) -> str:
    """The median and the farther end of its interval, rounded up: ``312 ±4``."""
    if interval is None:
        return MISSING
    median = interval.median / scale
    if interval.low is None or interval.high is None:
        return number(median)
    farther = max(interval.high - interval.median, interval.median - interval.low) / scale
    decimals = _decimals(median, 3)
    unit = 10.0**-decimals
    return f"{median:.{decimals}f} ±{math.ceil(farther / unit - 1e-9) * unit:.{decimals}f}"


def _decimals(value: float, digits: int) -> int:
    if value == 0:
        return digits - 1
    # Of the rounded value: 9.996 has three digits as 10.0, not 10.00.
    exponent = int(f"{value:.{digits - 1}e}".partition("e")[2])
    return max(0, digits - 1 - exponent)


def _paths(records: Sequence[Record]) -> Column:
    best = set(pareto(records))
    marks = [
        (INCOMPLETE_MARK if not r.complete else "")
        + (DISTURBED_MARK if r.disturbed else "")
        + (PARETO_MARK if r.path in best else "")
        for r in records
    ]
    width = max(1, *map(len, marks))
    cells = tuple(f"{mark:<{width}} {r.path}" for mark, r in zip(marks, records, strict=True))
    return Column(f"{'':<{width}} path", cells, 0)


NOISE = "intervals of tg apart, or 10% less RSS, or 1% less perplexity"
"""What counts as better beyond noise: resident memory varies from run to run with the allocator."""


class _Range(NamedTuple):
    """A figure, lower being better, and how far noise may have moved it."""

    low: float
    value: float
    high: float


def _speed(record: Record) -> _Range | None:
    tps = record.decode_tps
    if tps is None:
        return None
    if tps.low is None or tps.high is None:
        return _Range(-tps.median, -tps.median, -tps.median)
    return _Range(-tps.high, -tps.median, -tps.low)


def _memory(record: Record) -> _Range | None:
    value = record.peak_rss_bytes
    return None if value is None else _Range(0.95 * value, value, 1.05 * value)


def _perplexity(record: Record) -> _Range | None:
    value = record.perplexity
    return None if value is None else _Range(0.995 * value, value, 1.005 * value)


def _axes(records: Sequence[Record]) -> list[_Axis]:
    axes: tuple[_Axis, ...] = (_speed, _memory, _perplexity)
    return [axis for axis in axes if any(axis(r) is not None for r in records)]


def _point(record: Record, axes: Sequence[_Axis]) -> tuple[_Range, ...] | None:
    values = tuple(value for axis in axes if (value := axis(record)) is not None)
    return values if len(values) == len(axes) else None


def _beats(a: tuple[_Range, ...], b: tuple[_Range, ...]) -> bool:
    pairs = list(zip(a, b, strict=True))
    return all(x.value <= y.value for x, y in pairs) and any(x.high < y.low for x, y in pairs)


def _of(records: Sequence[Record], path: str) -> Record | None:
    return next((r for r in records if r.path == path), None)


def _median(interval: Interval | None) -> float | None:
    return None if interval is None else interval.median


def _scaled(value: float | None, scale: float) -> float | None:
    return None if value is None else value / scale


def _intervals(
    records: Sequence[Record], get: Callable[[Record], Interval | None]
) -> tuple[str, ...]:
    return tuple(spread(get(r)) for r in records)


def _duration(
    title: str, records: Sequence[Record], get: Callable[[Record], Interval | None], rank: int
) -> Column:
    """Milliseconds, or seconds where milliseconds would be long to read."""
    longest = max((interval.median for r in records if (interval := get(r)) is not None), default=0)
    unit, scale = ("s", 1e9) if longest >= 1e10 else ("ms", 1e6)
    return Column(f"{title} {unit}", tuple(spread(get(r), scale) for r in records), rank)


def _numbers(
    records: Sequence[Record], get: Callable[[Record], float | None], digits: int = 3
) -> tuple[str, ...]:
    return tuple(_or_missing(get(r), lambda value: number(value, digits)) for r in records)


def _ratios(
    records: Sequence[Record], base: Record | None, get: Callable[[Record], float | None]
) -> tuple[str, ...]:
    below = None if base is None else get(base)
    cells = []
    for record in records:
        value = get(record)
        cells.append(MISSING if value is None or not below else f"{value / below:.2f}")
    return tuple(cells)


def _or_missing(value: float | None, form: Callable[[float], str]) -> str:
    return MISSING if value is None else form(value)


def _small(value: float) -> str:
    return f"{value:.4f}" if value >= 0.001 or value == 0 else f"{value:.1e}"


def _percent(value: float) -> str:
    return f"{value:.1%}"
