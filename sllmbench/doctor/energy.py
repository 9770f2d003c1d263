"""Whether the processor's energy can be measured."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sllmbench.doctor.finding import Finding, Subject, bad, ok, unmeasured
from sllmbench.hardware.energy import energy_sensors

if TYPE_CHECKING:
    from collections.abc import Iterator

_GPU = "NVML"
"""Its state is told with the GPUs."""


def sensors(subject: Subject) -> Iterator[Finding]:
    """One readable kind of counter is enough."""
    title = "energy sensors"
    found = [sensor for sensor in energy_sensors(subject.roots) if sensor.name != _GPU]
    readable = [sensor.name for sensor in found if sensor.available]
    if readable:
        yield ok(title, f"{', '.join(readable)} can be read")
        return
    remedies = list(dict.fromkeys(sensor.remedy for sensor in found if sensor.remedy))
    commands = [remedy for remedy in remedies if remedy.startswith("sudo ")]
    words = [remedy for remedy in remedies if remedy not in commands[:1]]
    yield bad(
        "notice" if subject.virtual and not commands else "problem",
        title,
        "; ".join(f"{sensor.name}: {sensor.reason}" for sensor in found),
        unmeasured("records have no joules; no speed changes"),
        remedy=commands[0] if commands else None,
        advice=", or ".join(words) or None,
        source=subject.roots.sys / "class/powercap",
    )


CHECKS = (sensors,)
