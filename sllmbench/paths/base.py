"""What a path is: a named way to run a linear layer, a storage format and a kernel."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Literal

import torch
from torch import nn

from sllmbench.record import Arithmetic, KernelUse

if TYPE_CHECKING:
    from sllmbench.checkpoints.base import Checkpoint

__all__ = ["Arithmetic", "FloatType", "KernelUse", "Path", "PathLinear", "rows_at_once"]

FloatType = Literal["float32", "bfloat16", "float16"]


class PathLinear(nn.Module):
    """A linear layer on a path: [..., in_features] → [..., out_features].

    It knows what it holds and which kernels have run.
    """

    bias: nn.Parameter | None

    def __init__(
        self, out_features: int, in_features: int, format: str, bias: torch.Tensor | None
    ) -> None:
        """Note the shape and how the weight is stored; subclasses add the weight itself."""
        super().__init__()
        self.format = format
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)
        self.out_features = out_features
        self.in_features = in_features
        self.kernel_uses: set[KernelUse] = set()
        """Filled by the calls themselves, so it holds what ran and nothing else."""

    @property
    @abstractmethod
    def stored_bytes(self) -> int:
        """Bytes that the layer's weight takes in memory: codes, scales, offsets, padding."""


class Path(ABC):
    """A named way to run a linear layer."""

    def __init__(self, name: str, summary: str, float_type: FloatType, device: str = "cpu") -> None:
        """Name the path.

        Args:
            name: as the user asks for it.
            summary: what it is, in one line.
            float_type: the type of activations, norms and attention, which no path quantises.
            device: where all of them lie: ``cpu``, ``cuda`` or ``cuda:N``.
        """
        self.name = name
        self.summary = summary
        self.float_type: FloatType = float_type
        self.device = torch.device(device)

    @property
    @abstractmethod
    def format(self) -> str:
        """How the layers' weights are stored, and the output layer's where that differs."""

    def unsupported(self, checkpoint: Checkpoint | None = None) -> str | None:
        """Why this path cannot run here (or cannot run ``checkpoint``); None if it can."""
        return None

    @abstractmethod
    def linear(self, checkpoint: Checkpoint, name: str, bias: torch.Tensor | None) -> PathLinear:
        """Make the layer whose weight is the checkpoint's tensor ``name``.

        Raises:
            InputError: the weight's shape or stored type cannot run on this path.
        """

    @abstractmethod
    def lm_head(self, checkpoint: Checkpoint, name: str, bias: torch.Tensor | None) -> PathLinear:
        """Make the output layer, at the precision that the path's format customarily gives it."""

    @abstractmethod
    def bits_per_weight(self, k: int) -> float:
        """Stored bits a weight in a layer of ``k`` inputs, to estimate memory before loading."""

    @abstractmethod
    def head_bits_per_weight(self, k: int) -> float:
        """The same for the output layer."""


def rows_at_once(k: int) -> int:
    """Rows of a [n, k] float32 tensor to hold at a time: 4 MiB, so that loading stays lean.

    SmolLM2 to int8: 4 MiB loads in 0.85 s and peaks at 187 MB, 16 MiB in 1.18 s at 208 MB; 1 MiB
    is no better.
    """
    return max(1, (4 << 20) // (4 * k))
