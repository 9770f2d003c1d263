"""What a check found, what it costs and what mends it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from sllmbench.hardware import load
from sllmbench.hardware.cpu import is_virtual
from sllmbench.record import Frozen, MachineFacts

if TYPE_CHECKING:
    from sllmbench.doctor.gauge import Gauge
    from sllmbench.hardware.roots import Roots

Severity = Literal["problem", "notice", "ok"]


class Effect(Frozen):
    """What a finding costs, measured on this machine.

    ``value`` and ``unit`` are None where it was not measured; ``text`` then says why.
    """

    text: str
    value: float | None = None
    unit: str | None = None


class Finding(Frozen):
    """One thing that a check looked at.

    A ``problem`` makes numbers worse and can be mended; a ``notice`` is worth knowing, or could not
    be found out; ``ok`` is as it should be. ``remedy`` is one command for a shell, ``advice`` what
    a command cannot do or what the command means; ``source`` the file or setting that was read.
    """

    severity: Severity
    title: str
    found: str
    effect: Effect | None = None
    remedy: str | None = None
    advice: str | None = None
    source: str | None = None


class Examination(Frozen):
    """All findings about one machine, the most severe first."""

    sllmbench_version: str
    machine: MachineFacts
    measured: bool
    findings: tuple[Finding, ...]

    def count(self, severity: Severity) -> int:
        """How many findings of a severity there are."""
        return sum(finding.severity == severity for finding in self.findings)


@dataclass(frozen=True)
class Subject:
    """What checks look at: files, settings, and a gauge that measures effects when asked."""

    roots: Roots
    environ: Mapping[str, str]
    allowed: frozenset[int]
    """The processors that this process may run on."""
    gauge: Gauge

    @cached_property
    def virtual(self) -> bool:
        """Whether a hypervisor is beneath."""
        return is_virtual(self.roots)

    @cached_property
    def load(self) -> load.Load:
        """What else ran while this process slept; watched once."""
        return load.watch(self.gauge.watch_s, self.roots)


Check = Callable[[Subject], Iterable[Finding]]


def unmeasured(reason: str) -> Effect:
    """Why there is no number."""
    return Effect(text=f"not measured: {reason}")


def ok(title: str, found: str, source: object = None) -> Finding:
    """Something that is as it should be."""
    return Finding(severity="ok", title=title, found=found, source=_name(source))


def unknown(title: str, reason: str, source: object = None, advice: str | None = None) -> Finding:
    """Something that could not be found out."""
    return Finding(
        severity="notice",
        title=title,
        found=f"unknown: {reason}",
        effect=unmeasured("it is unknown whether there is one"),
        advice=advice,
        source=_name(source),
    )


def bad(
    severity: Literal["problem", "notice"],
    title: str,
    found: str,
    effect: Effect,
    *,
    remedy: str | None = None,
    advice: str | None = None,
    source: object = None,
) -> Finding:
    """Something that is not as it should be; its effect is never left out."""
    return Finding(
        severity=severity,
        title=title,
        found=found,
        effect=effect,
        remedy=remedy,
        advice=advice,
        source=_name(source),
    )


def write(value: str, file: object) -> str:
    """The command that writes a value into a file of the kernel."""
    return f"echo {value} | sudo tee {file}"


def _name(source: object) -> str | None:
    return None if source is None else str(source)
