"""Verdicts of a comparison as a table, as markdown for a pull request and as JSON."""

from __future__ import annotations

import json as json_text
import math
from dataclasses import asdict
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from sllmbench.compare import exit_code
from sllmbench.report.columns import MISSING, Column, number
from sllmbench.report.grids import markdown_grid, markdown_notes, notes_grid, text_grid

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rich.console import RenderableType

    from sllmbench.compare import Comparison, Verdict

_ORDER = ("slower", "faster", "cannot tell", "same")
_LEAST_NAME, _BESIDE_NAME = 16, 46
"""The name's column: at least so wide, and as wide as the most wanted other columns leave it."""
_LISTED = 4
_UNITS = ((1e9, "s"), (1e6, "ms"), (1e3, "µs"))


def table(comparison: Comparison, width: int) -> RenderableType:
    """The verdicts, those that matter first, and notes, for a terminal of ``width`` columns."""
    from rich.console import Group
    from rich.text import Text

    verdicts = _ordered(comparison.verdicts)
    prefix = common_prefix([v.name for v in verdicts])
    room = max(_LEAST_NAME, width - _BESIDE_NAME)
    names = [shortened(v.name.removeprefix(prefix), room) for v in verdicts]
    notes = _notes(comparison, prefix)
    return Group(
        Text(headline(comparison), style="bold"),
        "",
        text_grid(_columns(verdicts, names), width),
        "",
        notes_grid(notes),
    )


def markdown(comparison: Comparison) -> str:
    """Render the same with every column and whole names; the verdict stands on top."""
    verdicts = _ordered(comparison.verdicts)
    lines = [f"**{headline(comparison)}**", ""]
    lines += markdown_grid(_columns(verdicts, [f"`{v.name}`" for v in verdicts]))
    lines += ["", *markdown_notes(_notes(comparison, ""))]
    return "\n".join(lines) + "\n"


def json(comparison: Comparison) -> str:
    """One object; an interval's end that is not known is null."""
    whole = asdict(comparison)
    for verdict in whole["verdicts"]:
        effect: dict[str, Any] | None = verdict["effect"]
        if effect is not None:
            effect["low"] = effect["low"] or None
            effect["high"] = effect["high"] if math.isfinite(effect["high"]) else None
    whole["exit_code"] = exit_code(comparison.verdicts)
    return json_text.dumps(whole, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def headline(comparison: Comparison) -> str:
    """How many benchmarks got which verdict."""
    counts = {word: sum(v.word == word for v in comparison.verdicts) for word in _ORDER}
    said = ", ".join(f"{n} {word}" for word, n in counts.items() if n)
    total = len(comparison.verdicts)
    return f"{said} (of {total} benchmark{'' if total == 1 else 's'})"


def duration(ns: float) -> str:
    """Three digits and a unit: ``12.3 µs``."""
    scale, unit = unit_of(ns)
    return f"{number(ns / scale)} {unit}"


def unit_of(ns: float) -> tuple[float, str]:
    """The largest unit in which a time is at least 1, in ns, and its name."""
    return next(((scale, unit) for scale, unit in _UNITS if ns >= scale), (1.0, "ns"))


def shortened(name: str, room: int) -> str:
    """The name's beginning and end, where it is longer than ``room`` characters."""
    if len(name) <= room:
        return name
    tail = (room - 1) * 2 // 3  # parameters, which tell benchmarks apart, stand at the end
    return f"{name[: room - 1 - tail]}…{name[-tail:]}"


def common_prefix(names: Sequence[str]) -> str:
    """What all names begin with, up to the last separator; nothing for a single name."""
    if len(names) < 2:
        return ""
    columns = takewhile(lambda letters: len(set(letters)) == 1, zip(*names, strict=False))
    shared = "".join(letters[0] for letters in columns)
    ends = [shared.rfind(mark) + len(mark) for mark in ("::", "/", " ") if mark in shared]
    return shared[: max(ends, default=0)]


def _ordered(verdicts: Iterable[Verdict]) -> list[Verdict]:
    return sorted(verdicts, key=lambda v: _ORDER.index(v.word))


def _columns(verdicts: Sequence[Verdict], names: Sequence[str]) -> list[Column]:
    effects = [v.effect for v in verdicts]
    return [
        Column("benchmark", tuple(names), 0),
        Column("verdict", tuple(v.word for v in verdicts), 0),
        Column("ratio", tuple(MISSING if e is None else f"{e.ratio:.3f}" for e in effects), 1),
        Column("95% interval", tuple(_interval(v) for v in verdicts), 2),
        Column("base", tuple(MISSING if e is None else duration(e.base_ns) for e in effects), 4),
        Column("new", tuple(MISSING if e is None else duration(e.new_ns) for e in effects), 5),
        Column("p", tuple(_chance(v.p_adjusted) for v in verdicts), 3),
        Column("threshold", tuple(f"{v.threshold * 100:.3g}%" for v in verdicts), 6),
        Column("units", tuple(_units(v) for v in verdicts), 7),
    ]


def _interval(verdict: Verdict) -> str:
    effect = verdict.effect
    if effect is None or effect.low == 0 or not math.isfinite(effect.high):
        return MISSING
    return f"{effect.low:.3f}–{effect.high:.3f}"


def _chance(p: float | None) -> str:
    if p is None:
        return MISSING
    return f"{p:.1e}" if p < 0.001 else f"{p:.3f}"


def _units(verdict: Verdict) -> str:
    effect = verdict.effect
    if effect is None:
        return MISSING
    if effect.unit == "round":
        return f"{effect.base_units} rounds"
    return f"{effect.base_units} and {effect.new_units} {effect.unit}s"


def _notes(comparison: Comparison, prefix: str) -> list[tuple[str, str]]:
    tests = dict.fromkeys(v.effect.test for v in comparison.verdicts if v.effect is not None)
    notes = [("sides", f"base {comparison.base}; new {comparison.new}")]
    if prefix:
        notes.append(("names", f"each begins with {prefix}"))
    kind = "compared all the same" if comparison.forced else "not compared; --force does"
    for text, names in comparison.differences.items():
        every = len(names) == len(comparison.verdicts)
        notes.append(("differs", f"{text} ({'all' if every else _listed(names, prefix)}; {kind})"))
    notes += [("unclear", text) for text in _reasons(comparison, prefix)]
    notes += [
        ("only base", _listed(comparison.only_base, prefix)),
        ("only new", _listed(comparison.only_new, prefix)),
        (
            "ratio",
            "new time ÷ base time, so above 1 is slower, with its 95% interval; slower and faster:"
            f" beyond the threshold ({_thresholds(comparison)}) and p below {comparison.alpha:g};"
            " same: the whole interval within the threshold",
        ),
        (
            "p",
            "chance of so clear a difference between equals, corrected for the number of"
            f" benchmarks (Holm); {', '.join(tests)}"
            if tests
            else "",
        ),
    ]
    notes += [("beware", text) for text in _warnings(comparison)]
    return [(label, text) for label, text in notes if text]


def _thresholds(comparison: Comparison) -> str:
    return ", ".join(dict.fromkeys(f"{v.threshold * 100:.3g}%" for v in comparison.verdicts))


def _reasons(comparison: Comparison, prefix: str) -> list[str]:
    """Every reason, behind the benchmarks that it holds for."""
    found: dict[str, list[str]] = {}
    for verdict in comparison.verdicts:
        if verdict.reason is not None:
            found.setdefault(verdict.reason, []).append(verdict.name)
    return [f"{_listed(names, prefix)}: {reason}" for reason, names in found.items()]


def _warnings(comparison: Comparison) -> list[str]:
    return [*comparison.notes, *dict.fromkeys(n for v in comparison.verdicts for n in v.notes)]


def _listed(names: Sequence[str], prefix: str) -> str:
    shown = [name.removeprefix(prefix) for name in names[:_LISTED]]
    more = len(names) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")
