"""NVIDIA GPUs: what their driver says."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sllmbench.doctor.finding import Finding, Subject, bad, ok, unmeasured
from sllmbench.hardware import gpu

if TYPE_CHECKING:
    from collections.abc import Iterator


def energy_counter(_: Subject) -> Iterator[Finding]:
    """Volta and newer count their energy; of others the power must be sampled."""
    gpus, reason = gpu.find()
    if reason is not None:
        yield ok("GPU", f"none: {reason}")
    for found in gpus:
        if found.has_energy_counter:
            yield ok(f"{found.name}'s energy counter", "can be read")
        else:
            yield bad(
                "notice",
                f"{found.name}'s energy counter",
                "there is none; Volta and newer have one",
                unmeasured("energy is integrated from samples of its power; no speed changes"),
            )


CHECKS = (energy_counter,)
