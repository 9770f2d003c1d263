"""Bare matrix products: our kernels and the libraries that they are compared with, by name."""

from __future__ import annotations

import difflib

from sllmbench.errors import InputError
from sllmbench.matmuls import ggml, native, onnxruntime, openvino, torch_ops
from sllmbench.matmuls.base import BoundMatmul, MatmulPath, Operands
from sllmbench.record import Arithmetic

__all__ = ["Arithmetic", "BoundMatmul", "MatmulPath", "Operands", "matmul_names", "resolve"]

_PEERS = (torch_ops, onnxruntime, openvino, ggml)
"""Each has its ``NAMES`` and ``resolve``."""


def matmul_names() -> list[str]:
    """Every name: our formats, then the peers' kernels as ``library:kind``."""
    return [*native.NAMES, *(name for peer in _PEERS for name in peer.NAMES)]


def resolve(name: str, arithmetic: Arithmetic = "int8", isa: str | None = None) -> MatmulPath:
    """Return what is called ``name``.

    Args:
        name: one of :func:`matmul_names`.
        arithmetic: how our own kernels compute; peers have no choice.
        isa: our kernels' instruction set; None takes the one that this machine uses.

    Raises:
        InputError: nothing has this name.
    """
    if name in native.NAMES:
        return native.NativeMatmul(name, arithmetic, isa)
    for peer in _PEERS:
        if name in peer.NAMES:
            found: MatmulPath = peer.resolve(name)
            return found
    close = difflib.get_close_matches(name, matmul_names(), 1)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    raise InputError(f"unknown path {name!r}{hint}; `sllmbench paths` lists them")
