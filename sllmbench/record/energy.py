"""What a phase cost in energy, and how that is known."""

from __future__ import annotations

from pydantic import Field

from sllmbench.record.base import Frozen


class Energy(Frozen):
    """Energy of the windows of one phase, added up. Without a figure there is a reason."""

    energy_j: float | None
    """Gross: idle power and everything else that ran is in it."""
    above_idle_j: float | None
    """Less what the idle machine, measured before, takes in the same time."""
    uncertainty_j: float | None
    """How far the sensors' steps leave ``energy_j`` open, either way; their own error is apart."""
    j_per_token: float | None
    """Gross."""
    source: str | None
    """Which counters were added up."""
    update_period_ns: int | None
    """How often the sensor changes."""
    window_ns: int | None
    """The windows' total length."""
    windows_j: tuple[float, ...] = ()
    """Each window's gross energy; empty where one of them has no figure."""
    domains_j: dict[str, float] = Field(default_factory=dict)
    """Each counter's part apart; cores lie within their package."""
    idle_w: float | None = None
    """The idle power that was taken off, measured before the model was loaded."""
    reason: str | None
    """Why there is no figure, with the remedy where one is known."""
    estimate_j: float | None = None
    """Nominal power × utilisation × time; only where it was asked for, and never in energy_j."""
    estimate_basis: str | None = None
