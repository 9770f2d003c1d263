"""Two shell commands, a process each a round, timed from before its start until its end."""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import tempfile
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from sllmbench.ab.rounds import Limits, TurnsResult, take_turns
from sllmbench.errors import InputError

if TYPE_CHECKING:
    from sllmbench.ab.rounds import Tell

_TOLD = 300
"""Characters of a failed command's output that stand in the message."""
NAME = "command"


@dataclass
class Command:
    """A shell command and what each of its processes cost."""

    text: str
    cpu_ns: list[int] = field(default_factory=list)
    """User and system time of the shell and all its children that were waited for."""
    involuntary_switches: list[int] = field(default_factory=list)
    major_faults: list[int] = field(default_factory=list)

    def turn(self) -> dict[str, float]:
        """Run it once, without input, its output thrown away; the wall time in ns.

        Raises:
            InputError: it failed; the message ends with what it wrote to stderr.
        """
        with tempfile.TemporaryFile() as errors:
            start_ns = time.perf_counter_ns()
            child = subprocess.Popen(
                ["/bin/sh", "-c", self.text],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                start_new_session=True,  # so that all it started can be ended with it
            )
            try:
                _, status, used = os.wait4(child.pid, 0)
                wall_ns = time.perf_counter_ns() - start_ns
                child.returncode = os.waitstatus_to_exitcode(status)
            finally:
                if child.returncode is None:
                    os.killpg(child.pid, signal.SIGKILL)
                    child.wait()
            if child.returncode != 0:
                raise InputError(self._failed(child.returncode, _tail(errors.fileno())))
        self.cpu_ns.append(round((used.ru_utime + used.ru_stime) * 1e9))
        self.involuntary_switches.append(used.ru_nivcsw)
        self.major_faults.append(used.ru_majflt)
        return {NAME: float(wall_ns)}

    def _failed(self, code: int, told: str) -> str:
        how = f"ended with {code}" if code > 0 else f"was killed by signal {-code}"
        return f"the command {self.text!r} {how}: {told or 'it wrote nothing to stderr'}"

    def costs(self, rounds: int) -> dict[str, list[int]]:
        """The figures of the rounds: without the warm-up, and without one that was interrupted."""
        kept = slice(1, rounds + 1)
        return {
            "cpu_ns": self.cpu_ns[kept],
            "involuntary_switches": self.involuntary_switches[kept],
            "major_faults": self.major_faults[kept],
        }


def ab_commands(
    base: str, new: str, limits: Limits, tell: Tell = lambda what, fraction: None
) -> TurnsResult:
    """Compare two shell commands.

    Raises:
        InputError: one of them failed.
    """
    sides = Command(base), Command(new)
    found = take_turns(
        sides[0].turn, sides[1].turn, limits, labels=(f"`{base}`", f"`{new}`"), tell=tell
    )
    rounds = len(found.base_first)
    costs = {"base": sides[0].costs(rounds), "new": sides[1].costs(rounds)}
    cpu_ms = [statistics.median(costs[side]["cpu_ns"]) / 1e6 for side in ("base", "new")]
    switches = [statistics.median(costs[s]["involuntary_switches"]) for s in ("base", "new")]
    note = (
        f"times are a process's, from before its start until its end; CPU time {cpu_ms[0]:.4g} and"
        f" {cpu_ms[1]:.4g} ms, involuntary switches {switches[0]:g} and {switches[1]:g} (medians of"
        " base and new)"
    )
    comparison = replace(found.comparison, notes=(*found.comparison.notes, note))
    return replace(found, comparison=comparison, extra=costs)


def _tail(descriptor: int) -> str:
    size = os.fstat(descriptor).st_size
    text = os.pread(descriptor, 4 * _TOLD, max(0, size - 4 * _TOLD)).decode(errors="replace")
    return " ".join(text.split())[-_TOLD:]
