"""What a measurement asks of a model before it begins."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sllmbench.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def require_cpu(model: PreTrainedModel) -> None:
    """Refuse a model elsewhere: the clocks here do not wait for a device's queue.

    Raises:
        InputError: the model is not on the CPU.
    """
    if model.device.type != "cpu":
        raise InputError(f"the model is on {model.device}; only a model on the CPU can be timed")


def require_positions(model: PreTrainedModel, n_tokens: int) -> None:
    """Refuse a sequence that is longer than the model's positions.

    Raises:
        InputError: the model's configuration has fewer than ``n_tokens`` positions.
    """
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if positions is not None and n_tokens > positions:
        raise InputError(
            f"{n_tokens} tokens are more than the model's {positions} positions; ask for fewer"
        )
