"""Energy of a span of time, from the counters of the processor's packages."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sllmbench.hardware.energy import (
    RaplDomain,
    permission_remedy,
    powercap_status,
    rapl_packages,
)
from sllmbench.hardware.roots import SYSTEM, Roots

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

_UPDATE_NS = 1_000_000
"""RAPL counters step about once a millisecond."""
SHORTEST_NS = 20 * _UPDATE_NS
"""Below 20 steps, not knowing where in a step the window began and ended is over 5% of it."""
MOST_WATTS = 1000.0
"""No processor package takes more; a counter that says so was reset."""


class _UnreadableError(Exception):
    """Why a counter gave no number."""


@dataclass(frozen=True)
class _Reading:
    energy_uj: int
    range_uj: int


class EnergyWindow:
    """Measures the energy that all processor packages use between entering and leaving.

    The counters are of whole packages: idle power and everything else that runs are in it,
    memory and the rest of the machine are not. Nothing is estimated.

    Attributes:
        energy_j: joules, or None.
        source: which counters were summed, or None.
        reason: why there is no figure, with the remedy where one is known, or None.
    """

    energy_j: float | None
    source: str | None
    reason: str | None

    def __init__(self, roots: Roots = SYSTEM) -> None:
        """Look for the counters; ``roots`` stands for /sys and /proc."""
        self.energy_j, self.source, self.reason = None, None, "the window has not ended"
        self._roots = roots
        self._domains = rapl_packages(roots)
        self._before: list[_Reading] | None = None
        self._start_ns = 0

    def __enter__(self) -> EnergyWindow:
        """Read the counters."""
        if not self._domains:
            status = powercap_status(self._roots)
            self.reason = f"{status.reason}; remedy: {status.remedy}"
            return self
        try:
            self._before = [_read(domain) for domain in self._domains]
        except _UnreadableError as error:
            self.reason = self._explain(error)
        self._start_ns = time.perf_counter_ns()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Read the counters again and set the attributes."""
        duration_ns = time.perf_counter_ns() - self._start_ns
        if self._before is None:
            return
        try:
            after = [_read(domain) for domain in self._domains]
            total_uj = sum(
                _used_uj(domain, before, now, duration_ns)
                for domain, before, now in zip(self._domains, self._before, after, strict=True)
            )
        except _UnreadableError as unreadable:
            self.reason = self._explain(unreadable)
            return
        self.energy_j, self.reason = total_uj / 1e6, None
        names = "+".join(domain.name for domain in self._domains)
        self.source = f"RAPL {names}, whole packages, idle power included"

    def _explain(self, error: _UnreadableError) -> str:
        if isinstance(error.__cause__, PermissionError):
            return f"{error}; remedy: {permission_remedy(self._domains)}"
        return str(error)


def _read(domain: RaplDomain) -> _Reading:
    return _Reading(_read_uj(domain, domain.energy_file), _read_uj(domain, domain.range_file))


def _read_uj(domain: RaplDomain, file: Path) -> int:
    try:
        text = file.read_text().strip()
    except OSError as error:
        raise _UnreadableError(f"{domain.name} {file.name}: {error.strerror}") from error
    if not text.isdecimal():
        raise _UnreadableError(f"{domain.name} {file.name} holds {text!r}, not a number")
    return int(text)


def _used_uj(domain: RaplDomain, before: _Reading, after: _Reading, duration_ns: int) -> int:
    """Microjoules between two readings, at most one wrap apart."""
    duration_s = duration_ns / 1e9
    if duration_ns < SHORTEST_NS:
        raise _UnreadableError(
            f"the window of {duration_s * 1e3:.3g} ms is too short for a counter that steps every "
            f"{_UPDATE_NS / 1e6:.0f} ms; at least {SHORTEST_NS / 1e6:.0f} ms are needed"
        )
    if duration_s * MOST_WATTS * 1e6 > after.range_uj:
        raise _UnreadableError(
            f"the window of {duration_s:.0f} s may hide a whole turn of {domain.name}'s counter; "
            "measure fewer tokens at a time"
        )
    used_uj = after.energy_uj - before.energy_uj
    if used_uj < 0:
        used_uj += after.range_uj
    if used_uj == 0:
        raise _UnreadableError(f"{domain.name}'s counter did not move")
    if not 0 < used_uj <= duration_s * MOST_WATTS * 1e6:
        raise _UnreadableError(
            f"{domain.name}'s counter went from {before.energy_uj} to {after.energy_uj} uJ in "
            f"{duration_s:.3g} s: it was reset"
        )
    return used_uj
