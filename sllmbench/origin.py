"""What the records of one run share: its name, the machine, the commit."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from typing import Any

from sllmbench import hardware, revision
from sllmbench.record import MachineFacts


@dataclass(frozen=True)
class RunOrigin:
    """A run that has begun.

    Attributes:
        run_id: begins with the time, so that names sort as runs began.
        commit: of the repository that the working directory is in.
    """

    run_id: str
    machine: MachineFacts
    commit: str | None

    @classmethod
    def begin(cls) -> RunOrigin:
        """Look at the machine and the repository, and take a new name."""
        run_id = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(4)}"
        return cls(run_id, MachineFacts(**hardware.facts()), revision.current())

    def fields(self, libraries: dict[str, str] | None = None) -> dict[str, Any]:
        """The fields of :class:`sllmbench.record.Origin` for a record that is made now.

        ``libraries`` are those of the process that measured, where it was another's interpreter.
        """
        machine = self.machine
        if libraries is not None:
            machine = machine.model_copy(update={"libraries": libraries})
        return {
            "run_id": self.run_id,
            "created_utc": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "sllmbench_version": metadata.version("sllmbench"),
            "machine": machine,
            "commit": self.commit,
        }
