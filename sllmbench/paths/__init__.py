"""Every path that can be asked for, by name."""

from __future__ import annotations

import difflib
import re
from typing import TYPE_CHECKING

from sllmbench.errors import InputError
from sllmbench.formats import parse_format
from sllmbench.hardware.cuda import usual_arithmetic
from sllmbench.paths.base import Arithmetic, KernelUse, Path, PathLinear
from sllmbench.paths.native import NativePath, StoredPath
from sllmbench.paths.torch_float import TorchFloatPath
from sllmbench.paths.torch_int4pack import Int4PackPath
from sllmbench.paths.unfused import UnfusedPath, UnfusedStoredPath

if TYPE_CHECKING:
    from sllmbench.checkpoints.base import Checkpoint

__all__ = [
    "Arithmetic",
    "KernelUse",
    "Path",
    "PathLinear",
    "default_paths",
    "path_names",
    "resolve",
]

_INT4 = ("int4-g32", "int4-g64", "int4-g128", "int4-row")
_INT4_ASYM = tuple(f"{name}-asym" for name in _INT4)
_STORED = {
    "gguf": "our kernels on a GGUF file's own blocks, K-quants too",
    "gptq": "our kernels on a GPTQ checkpoint's own tensors, act-order too",
    "awq": "our kernels on an AWQ checkpoint's own tensors",
}
_UNFUSED = {f"unfused-{kind}": kind for kind in ("gptq", "awq")}
_DEFAULTS = ("fp32", "bf16", "int8", "int4-g32", *_STORED, "unfused-int4")
_CUDA_DEFAULTS = ("fp16", "bf16", "int8", "int4-g128", "gptq", "awq", "unfused-int4-g128")
_GROUPED = re.compile(r"(unfused-int4|torch:int4pack)(?:-g(32|64|128))?")


def path_names() -> list[str]:
    """Every path's name, in the order in which they are shown."""
    grouped = [
        f"{base}{g}" for base in ("unfused-int4", "torch:int4pack") for g in ("", "-g64", "-g128")
    ]
    ours = ("int8", "int8-g128", *_INT4, *_INT4_ASYM, *_STORED)
    return ["fp32", "bf16", "fp16", *ours, *grouped, *_UNFUSED]


def default_paths(checkpoint: Checkpoint, device: str = "cpu") -> tuple[str, ...]:
    """The paths that ``sllmbench run`` takes where none are asked for."""
    names = _DEFAULTS if device == "cpu" else _CUDA_DEFAULTS
    arithmetic = usual_arithmetic(device)
    return tuple(
        name for name in names if resolve(name, arithmetic, device).unsupported(checkpoint) is None
    )


def resolve(name: str, arithmetic: Arithmetic = "int8", device: str = "cpu") -> Path:
    """Return the path called ``name``.

    Args:
        name: one of :func:`path_names`; a bare ``unfused-int4`` or ``torch:int4pack`` means g32.
        arithmetic: how our own kernels compute; other paths have no choice.
        device: ``cpu``, ``cuda`` or ``cuda:N``.

    Raises:
        InputError: no path has this name.
    """
    match name:
        case "fp32":
            return TorchFloatPath(name, "torch, float32: the usual baseline", "float32", device)
        case "bf16":
            return TorchFloatPath(name, "torch, bfloat16", "bfloat16", device)
        case "fp16":
            return TorchFloatPath(
                name, "torch, float16; emulated, so slow, on a CPU without it", "float16", device
            )
        case _ if name in _STORED:
            return StoredPath(name, _STORED[name], arithmetic, device)
        case _ if name in _UNFUSED:
            kind = _UNFUSED[name]
            summary = f"a {kind.upper()} checkpoint's tensors expanded to floats at every call"
            return UnfusedStoredPath(name, summary, kind, device)
        case "int8":
            summary = "our kernels, int8, a scale a row"
            return NativePath(name, summary, parse_format(name), arithmetic, device)
        case "int8-g128":
            summary = "our kernels, int8, a scale a group of 128"
            return NativePath(name, summary, parse_format(name), arithmetic, device)
        case _ if name in _INT4 + _INT4_ASYM:
            group = name.split("-")[1].removeprefix("g")
            span = "row" if group == "row" else f"group of {group}"
            kind = "asymmetric" if name.endswith("-asym") else "symmetric"
            summary = f"our kernels, {kind} int4, a scale a {span}"
            return NativePath(name, summary, parse_format(name), arithmetic, device)
    grouped = _GROUPED.fullmatch(name)
    if grouped is None:
        close = difflib.get_close_matches(name, path_names(), 1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        raise InputError(f"unknown path {name!r}{hint}; `sllmbench paths` lists them")
    layout = parse_format(f"int4-g{grouped[2] or 32}")
    if grouped[1] == "unfused-int4":
        summary = f"int4-g{layout.group_size} expanded to floats at every call, then torch"
        return UnfusedPath(name, summary, layout, device)
    summary = f"peer: torch's int4 kernel, groups of {layout.group_size}, bf16 activations"
    return Int4PackPath(name, summary, layout, device)
