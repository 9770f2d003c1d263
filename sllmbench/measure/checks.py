"""What a measurement asks of a model before it begins."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sllmbench.errors import InputError

if TYPE_CHECKING:
    from sllmbench.runners import Runner


def require_positions(runner: Runner, n_tokens: int) -> None:
    """Refuse a sequence that is longer than the model's positions.

    Raises:
        InputError: the model has fewer than ``n_tokens`` positions.
    """
    if runner.positions is not None and n_tokens > runner.positions:
        raise InputError(
            f"{n_tokens} tokens are more than the model's {runner.positions} positions; "
            "ask for fewer"
        )
