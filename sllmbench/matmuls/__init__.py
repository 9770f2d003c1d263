"""Bare matrix products: our kernels and the libraries that they are compared with, by name."""

from __future__ import annotations

import difflib

from sllmbench.errors import InputError
from sllmbench.matmuls import cuda, ggml, native, onnxruntime, openvino, torch_ops
from sllmbench.matmuls.base import BoundMatmul, MatmulPath, Operands
from sllmbench.record import Arithmetic

__all__ = ["Arithmetic", "BoundMatmul", "MatmulPath", "Operands", "matmul_names", "resolve"]

_PEERS = (torch_ops, onnxruntime, openvino, ggml)
"""Each has its ``NAMES`` and ``resolve``."""


def matmul_names(device: str = "cpu") -> list[str]:
    """Every name on a device: our formats, then the peers' kernels as ``library:kind``."""
    if device != "cpu":
        return list(cuda.NAMES)
    return [*native.NAMES, *(name for peer in _PEERS for name in peer.NAMES)]


def resolve(
    name: str, arithmetic: Arithmetic = "int8", isa: str | None = None, device: str = "cpu"
) -> MatmulPath:
    """Return what is called ``name``.

    Args:
        name: one of :func:`matmul_names`.
        arithmetic: how our own kernels compute; peers have no choice.
        isa: our kernels' instruction set; None takes the one that this machine uses. A GPU has one.
        device: ``cpu``, ``cuda`` or ``cuda:N``.

    Raises:
        InputError: nothing has this name.
    """
    if device != "cpu":
        return cuda.resolve(name, arithmetic, device)
    if name in native.NAMES:
        return native.NativeMatmul(name, arithmetic, isa)
    for peer in _PEERS:
        if name in peer.NAMES:
            found: MatmulPath = peer.resolve(name)
            return found
    close = difflib.get_close_matches(name, matmul_names(), 1)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    raise InputError(f"unknown path {name!r}{hint}; `sllmbench paths` lists them")
