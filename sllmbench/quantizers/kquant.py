"""GGUF's blocks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sllmbench.quantizers.rtn import quantize

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from sllmbench.formats import QuantTensor


def quantize_blocks(
    weight: NDArray[np.float32], block_type: str, importance: NDArray[np.float32] | None = None
) -> QuantTensor:
    """A float [n, k] weight as GGUF blocks of ``block_type``."""
    return quantize(weight, block_type.lower())
