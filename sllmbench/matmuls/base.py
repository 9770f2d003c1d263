"""What a bare matrix product is: a library's kernel with its operands bound, ready to be timed.

``sllmbench.paths`` runs whole models; here a path, ours or a peer's, multiplies one matrix.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from sllmbench.record import KernelUse


@dataclass(frozen=True)
class Operands:
    """What every candidate of a comparison multiplies.

    Attributes:
        weight: float32 [n, k]; each candidate stores it in its own format.
        x: float32 [m, k], C-contiguous.
        threads: of the kernel.
        copies: of the stored weight, at places of their own in memory.
    """

    weight: NDArray[np.float32]
    x: NDArray[np.float32]
    threads: int
    copies: int = 1


@dataclass(frozen=True)
class BoundMatmul:
    """A product that only has to be called.

    Attributes:
        calls: one a copy of the weight; each is the library's own entry with its operands bound.
        product: float32 [m, n], the product with the first copy.
        use: the kernel that ran; known after a call at the latest.
        weight_bytes: bytes of one copy as the kernel reads it: codes, scales, offsets, padding.
        values: float32 [n, k], the weights that the stored ones stand for.
        products_per_call: for a library that can only multiply with all copies at once, their
            number; ``calls`` is then one call, and its time is that of so many products.
    """

    calls: Sequence[Callable[[], object]]
    product: Callable[[], NDArray[np.float32]]
    use: Callable[[], KernelUse]
    weight_bytes: int
    values: NDArray[np.float32]
    products_per_call: int = 1


class MatmulPath(ABC):
    """A way to multiply one matrix."""

    def __init__(self, name: str, summary: str) -> None:
        """Name it as the user asks for it; ``summary`` is one line."""
        self.name = name
        self.summary = summary

    def unavailable(self) -> str | None:
        """Why it cannot run here, with the remedy; None if it can."""
        return None

    def unsupported_shape(self, n: int, k: int) -> str | None:
        """Why it cannot multiply a weight [n, k]; None if it can."""
        return None

    @abstractmethod
    def bits_per_weight(self, k: int) -> float:
        """Stored bits a weight in a row of ``k``, about: how many copies exceed a cache."""

    @abstractmethod
    def bind(self, operands: Operands) -> BoundMatmul:
        """Store the weight, ``operands.copies`` times, and bind everything.

        Raises:
            InputError: the library refuses these operands.
        """


def missing_library(names: Sequence[str], extra: str) -> str | None:
    """Say which of the packages ``names`` is not installed, and the extra that brings it."""
    for name in names:
        if find_spec(name) is None:
            return f"{name} is not installed; pip install 'sllmbench[{extra}]'"
    return None
