"""What a measurement asks of a model before it begins."""

from __future__ import annotations

from typing import Protocol

from sllmbench.errors import InputError


class HasPositions(Protocol):
    """Any model: how many tokens a sequence may have, None where there is no limit."""

    positions: int | None


def require_positions(model: HasPositions, n_tokens: int) -> None:
    """Refuse a sequence that is longer than the model's positions.

    Raises:
        InputError: the model has fewer than ``n_tokens`` positions.
    """
    if model.positions is not None and n_tokens > model.positions:
        raise InputError(
            f"{n_tokens} tokens are more than the model's {model.positions} positions; "
            "ask for fewer"
        )
