"""What a path is: a named way to run a linear layer, a storage format and a kernel."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from torch import nn

if TYPE_CHECKING:
    import torch

    from sllmbench.checkpoints.base import Checkpoint

FloatType = Literal["float32", "bfloat16", "float16"]


@dataclass(frozen=True)
class KernelUse:
    """What really ran for one layer."""

    kernel: str
    isa: str
    arithmetic: str
    format: str


class PathLinear(nn.Module):
    """A linear layer on a path; knows what it holds and which kernels have run."""

    in_features: int
    out_features: int
    weights_bytes: int

    def kernel_uses(self) -> set[KernelUse]:
        """Every kernel that has run in this layer since it was made; empty before the first call."""
        raise NotImplementedError

    def embedding_rows(self, ids: torch.Tensor) -> torch.Tensor:
        """Rows ``ids`` of the weight as floats, [*ids.shape, k]: a tied embedding's lookup."""
        raise NotImplementedError


class Path(ABC):
    """A named way to run a linear layer."""

    name: str
    summary: str
    """What it is, in one line for ``sllmbench paths``."""
    float_type: FloatType
    """The type of activations, norms and attention, which no path quantises."""

    @abstractmethod
    def unsupported(self) -> str | None:
        """Why this path cannot run on this machine, or None if it can."""

    @abstractmethod
    def linear(self, checkpoint: Checkpoint, name: str, bias: torch.Tensor | None) -> PathLinear:
        """The layer whose weight is the checkpoint's tensor ``name``.

        Raises:
            InputError: the weight's shape or stored type cannot run on this path.
        """

    @abstractmethod
    def lm_head(self, checkpoint: Checkpoint, name: str, bias: torch.Tensor | None) -> PathLinear:
        """The output layer; paths keep it at the precision that their format customarily does."""

    @abstractmethod
    def bits_per_weight(self, k: int) -> float:
        """Stored bits a weight in a row of ``k``, for estimates of memory before loading."""
