"""This process's peak memory, and how much memory may still be used."""

from __future__ import annotations

from sllmbench.errors import InputError
from sllmbench.hardware import memory
from sllmbench.hardware.roots import KIB, SYSTEM, Roots, read_fields

_RESET_PEAK = "5"
_SLACK_BYTES = 16 * 1024**2
"""The kernel may count pages a thread at a time, so that a fresh peak differs a little."""


class PeakRss:
    """The highest resident memory since :meth:`start`, above what was resident then.

    The kernel keeps the peak itself (VmHWM), so nothing between two samples is missed.
    """

    def __init__(self, roots: Roots = SYSTEM) -> None:
        """Watch this process; ``roots`` stands for /proc."""
        self._process = roots.proc / "self"
        self._start_bytes: int | None = None
        self._highest_bytes = 0
        self._reason: str | None = "it was not started"

    def start(self) -> None:
        """Reset the kernel's peak and note the resident memory now."""
        self._start_bytes, self._highest_bytes, self._reason = None, 0, None
        try:
            (self._process / "clear_refs").write_text(_RESET_PEAK)
        except OSError as error:
            self._reason = f"the peak could not be reset: {error.strerror} on /proc/self/clear_refs"
            return
        now_bytes, peak_bytes = self._read_bytes("VmRSS"), self._read_bytes("VmHWM")
        if now_bytes is None or peak_bytes is None:
            self._reason = "/proc/self/status has no VmRSS and VmHWM on this kernel"
        elif peak_bytes > now_bytes + _SLACK_BYTES:
            self._reason = "the kernel took the reset of the peak and did not do it"
        else:
            self._start_bytes = now_bytes

    def start_phase(self) -> None:
        """Reset the kernel's peak for a phase; the peak since :meth:`start` is kept."""
        if self._start_bytes is None:
            return
        self._highest_bytes = max(self._highest_bytes, self._read_bytes("VmHWM") or 0)
        try:
            (self._process / "clear_refs").write_text(_RESET_PEAK)
        except OSError as error:
            self._start_bytes = None
            self._reason = f"the peak could not be reset again: {error.strerror}"

    def phase_bytes(self) -> tuple[int | None, str | None]:
        """Return the phase's peak above what was resident at :meth:`start`, or None, the reason."""
        if self._start_bytes is None:
            return None, self._reason
        peak_bytes = self._read_bytes("VmHWM")
        if peak_bytes is None:
            return None, "VmHWM is no longer in /proc/self/status"
        return max(0, peak_bytes - self._start_bytes), None

    def above_start_bytes(self) -> tuple[int | None, str | None]:
        """Return the peak above the start, or None and the reason."""
        phase_bytes, reason = self.phase_bytes()
        if phase_bytes is None or self._start_bytes is None:
            return None, reason
        return max(phase_bytes, self._highest_bytes - self._start_bytes), None

    def _read_bytes(self, field: str) -> int | None:
        number, _, unit = read_fields(self._process / "status").get(field, "").partition(" ")
        return int(number) * KIB if number.isdecimal() and unit == "kB" else None


def available_bytes(roots: Roots = SYSTEM) -> int:
    """Memory that can still be taken, as :func:`sllmbench.hardware.memory.available_bytes`.

    Raises:
        InputError: the kernel does not tell.
    """
    left_bytes = memory.available_bytes(roots)
    if left_bytes is None:
        raise InputError("the free memory is unknown: /proc/meminfo has no MemAvailable here")
    return left_bytes
