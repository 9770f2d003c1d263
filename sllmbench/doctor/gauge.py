"""Measures effects where that was asked for, each once."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

from sllmbench.doctor.finding import Effect, unmeasured

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

_WATCH_S = 1.0
_GLANCE_S = 0.3


class Gauge:
    """Calls the functions of :mod:`sllmbench.doctor.effects` and keeps what they said."""

    def __init__(self, measure: bool) -> None:
        """Measure, or say of every effect that this was not asked for."""
        self._measure = measure
        self._known: dict[tuple[object, ...], Effect] = {}
        self.watch_s = _WATCH_S if measure else _GLANCE_S
        """How long foreign load is watched."""

    def __call__(self, measure: Callable[..., Effect], *arguments: Hashable) -> Effect:
        """Measure, or return what the same measurement gave before."""
        if not self._measure:
            return unmeasured("not asked for")
        key = (measure, *arguments)
        if key not in self._known:
            try:
                self._known[key] = measure(*arguments)
            # What the operating system refuses is no reason to lose what else was found.
            except (OSError, RuntimeError, subprocess.SubprocessError) as error:
                self._known[key] = unmeasured(" ".join(str(error).split()))
        return self._known[key]
