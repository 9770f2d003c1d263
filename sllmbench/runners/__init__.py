"""Every way to run a whole model, by name."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Protocol

from sllmbench import paths
from sllmbench.errors import InputError
from sllmbench.runners import gptq, llama_cpp
from sllmbench.runners.base import Libraries, Logits, ModelPath, Runner

if TYPE_CHECKING:
    from sllmbench.paths import Arithmetic

__all__ = ["Libraries", "Logits", "ModelPath", "Runner", "path_names", "resolve"]


class _Peer(Protocol):
    """A module of this room: a library that runs whole models."""

    NAMES: tuple[str, ...]

    def resolve(self, name: str, device: str) -> ModelPath: ...


_PEERS: tuple[_Peer, ...] = (gptq, llama_cpp)


def path_names() -> list[str]:
    """Every path's name, in the order in which they are shown."""
    return [*paths.path_names(), *(name for peer in _PEERS for name in peer.NAMES)]


def resolve(name: str, arithmetic: Arithmetic = "int8", device: str = "cpu") -> ModelPath:
    """Return the path called ``name``.

    Args:
        name: one of :func:`path_names`, or a longer form that its module knows.
        arithmetic: how our own kernels compute; other paths have no choice.
        device: ``cpu``, ``cuda`` or ``cuda:N``.

    Raises:
        InputError: no path has this name, or it does not run on the device.
    """
    from sllmbench.runners.transformers import TransformersPath

    for peer in _PEERS:
        if name in peer.NAMES:
            return peer.resolve(name, device)
    try:
        return TransformersPath(name, arithmetic, device)
    except InputError:
        close = difflib.get_close_matches(name, path_names(), 1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        raise InputError(f"unknown path {name!r}{hint}; `sllmbench paths` lists them") from None
