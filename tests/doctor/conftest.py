"""A machine laid out as files, as a doctor wants it: nothing to find."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from sllmbench.doctor.finding import Finding, Subject
from sllmbench.doctor.gauge import Gauge
from sllmbench.hardware.roots import Roots

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Check = Callable[[Subject], object]


class Patient:
    """Files under a folder of the test's own; this process may run on four processors."""

    def __init__(self, folder: Path) -> None:
        self.roots = Roots(folder / "proc", folder / "sys")
        self.folder = folder
        self.environ: dict[str, str] = {}
        self.allowed = frozenset(range(4))

    def write(self, files: dict[str, str]) -> Patient:
        """Write files, named from the root."""
        for name, text in files.items():
            file = self.folder / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text + "\n")
        return self

    def examined(self, check: Check, measure: bool = False) -> list[Finding]:
        """What one check finds."""
        subject = Subject(self.roots, self.environ, self.allowed, Gauge(measure))
        return list(check(subject))  # type: ignore[call-overload]

    def one(self, check: Check, measure: bool = False) -> Finding:
        """The only thing that it finds."""
        (found,) = self.examined(check, measure)
        return found


@pytest.fixture
def patient(tmp_path: Path) -> Patient:
    """An empty machine."""
    return Patient(tmp_path)
