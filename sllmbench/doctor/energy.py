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
    """One readable sensor is enough; else each says why not."""
    found = [sensor for sensor in energy_sensors(subject.roots) if sensor.name != _GPU]
    readable = [sensor.name for sensor in found if sensor.available]
    if readable:
        yield ok("energy sensors", f"{', '.join(readable)} can be read")
        return
    for sensor in found:
        yield bad(
            "notice" if subject.virtual else "problem",
            f"energy sensor {sensor.name}",
            f"closed: {sensor.reason}",
            unmeasured("records have no joules; no speed changes"),
            remedy=sensor.remedy if (sensor.remedy or "").startswith("sudo ") else None,
            advice=None if (sensor.remedy or "").startswith("sudo ") else sensor.remedy,
        )


CHECKS = (sensors,)
