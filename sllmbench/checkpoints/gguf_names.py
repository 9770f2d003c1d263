"""What GGUF calls the tensors that transformers names, and in which order it keeps their rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from sllmbench.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

INTERLEAVED = {"llama": True, "qwen2": False}
"""Architectures whose rows are proven to map, and whether attention's q and k are interleaved."""


def name_map(architecture: str, layers: int) -> Any:
    """The gguf library's names for a model of ``layers`` layers, for :func:`stored_name`."""
    from gguf import MODEL_ARCH_NAMES, get_tensor_name_map

    kind = next(kind for kind, name in MODEL_ARCH_NAMES.items() if name == architecture)
    return get_tensor_name_map(kind, layers)


def stored_name(names: Any, name: str) -> str | None:
    """What a file calls transformers' ``name``, e.g. ``output.weight``; None if nothing."""
    stored: str | None = names.get_name(name, try_suffixes=(".weight", ".bias"))
    return stored


def interleaved_rows(name: str, n: int, heads: int) -> NDArray[np.intp]:
    """For each of a file's ``n`` rows of attention's q or k its place in transformers' order.

    transformers rotates the two halves of a head, llama.cpp neighbouring rows: its converter
    interleaves the halves, row ``half * dim/2 + i`` of a head becoming row ``2 * i + half``.

    Raises:
        InputError: the heads cannot share the rows of ``name``.
    """
    if heads <= 0 or n % (2 * heads):
        raise InputError(f"{name} has {n} rows, which {heads} heads cannot share")
    places = np.arange(n, dtype=np.intp).reshape(heads, 2, n // heads // 2)
    return places.swapaxes(1, 2).reshape(n)
