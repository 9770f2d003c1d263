"""What makes numbers on this machine worse than they could be.

A file a subject, each a tuple ``CHECKS`` of functions that look at a
:class:`~sllmbench.doctor.finding.Subject` and yield findings; :mod:`sllmbench.doctor.effects`
measures what a finding costs.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import sllmbench
from sllmbench import _native, hardware
from sllmbench.doctor import cpu, energy, gpu, libraries, limits, load, memory, system
from sllmbench.doctor.finding import Effect, Examination, Finding, Subject
from sllmbench.doctor.gauge import Gauge
from sllmbench.errors import InputError
from sllmbench.hardware.roots import SYSTEM, Roots
from sllmbench.record import MachineFacts

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sllmbench.doctor.finding import Check

__all__ = ["Effect", "Examination", "Finding", "examine"]

CHECKS: tuple[Check, ...] = (
    *load.CHECKS,  # first: measurements make a load of their own
    *limits.CHECKS,
    *cpu.CHECKS,
    *memory.CHECKS,
    *libraries.CHECKS,
    *system.CHECKS,
    *energy.CHECKS,
    *gpu.CHECKS,
)
_ORDER = ("problem", "notice", "ok")


def examine(
    measure: bool = True, *, roots: Roots = SYSTEM, environ: Mapping[str, str] = os.environ
) -> Examination:
    """Look at everything; with ``measure`` for some seconds, else for about one.

    Args:
        measure: whether to measure what each finding costs.
        roots: the folders that stand for /proc and /sys.
        environ: the settings that stand for the environment's.

    Raises:
        InputError: $SLLMBENCH_ISA or $SLLMBENCH_THREADS cannot be used.
    """
    try:
        _native.active_isa()
        _native.threads()
    except ValueError as error:
        raise InputError(str(error)) from error
    subject = Subject(roots, environ, frozenset(os.sched_getaffinity(0)), Gauge(measure))
    findings = [finding for check in CHECKS for finding in check(subject)]
    return Examination(
        sllmbench_version=sllmbench.__version__,
        machine=MachineFacts(**hardware.facts(roots=roots)),
        measured=measure,
        findings=tuple(sorted(findings, key=lambda found: _ORDER.index(found.severity))),
    )
