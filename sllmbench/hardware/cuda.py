"""Whether this machine, this build and this torch can multiply on a GPU."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any, Literal

from sllmbench import _native
from sllmbench.errors import InputError

_BUILD = (
    "sllmbench is built without CUDA; with the CUDA toolkit's nvcc on PATH: "
    "pip install . -C cmake.define.SLLMBENCH_CUDA=ON"
)
_DEVICE = re.compile(r"cuda(?::(\d{1,3}))?")


def unavailable() -> str | None:
    """Why nothing can run on a GPU here, in one line with the remedy; None if something can."""
    return kernels_unavailable() or torch_unavailable()


def kernels_unavailable() -> str | None:
    """Why our kernels cannot: the build, the driver or the devices; torch is not asked."""
    if _native.cuda_toolkit is None:
        return _BUILD
    reason = _native.cuda_unavailable()
    return None if reason is None else f"{reason}; see docs/t4.md"


def torch_unavailable() -> str | None:
    """Why torch, which holds all tensors, cannot use the GPU."""
    import torch

    if torch.version.cuda is None:
        return (
            f"torch {torch.__version__} is built without CUDA; install one that has it from "
            "https://pytorch.org/get-started"
        )
    if not torch.cuda.is_available():
        return f"torch {torch.__version__} cannot use the CUDA device that the driver sees"
    return None


def device_index(device: str) -> int | None:
    """The GPU that ``cuda`` (the first) or ``cuda:N`` names, None for ``cpu``.

    Raises:
        InputError: no kind of device has this name.
    """
    if device == "cpu":
        return None
    named = _DEVICE.fullmatch(device)
    if named is None:
        raise InputError(f"unknown device {device!r}; choose cpu, cuda or cuda:N")
    return int(named[1] or 0)


def usual_arithmetic(device: str) -> Literal["exact", "int8"]:
    """How our kernels compute where nothing is said: as they are fastest.

    On a CPU with int8 activations, on a GPU with fp16 ones, the only ones that 4 bits have there.
    """
    return "int8" if device == "cpu" else "exact"


def require(device: str) -> None:
    """Refuse a device that cannot be used here.

    Raises:
        InputError: in one line, with the reason.
    """
    index = device_index(device)
    if index is None:
        return
    reason = unavailable()
    if reason is not None:
        raise InputError(f"device {device} cannot be used: {reason}")
    facts(index)


@lru_cache
def facts(index: int) -> _native.CudaDevice:
    """What launches must know of a device.

    Raises:
        InputError: there is no such device, or our kernels are not built for it.
    """
    try:
        return _native.CudaDevice(index)
    except RuntimeError as error:
        raise InputError(f"device cuda:{index} cannot be used: {error}") from None


def free_bytes(device: str) -> int:
    """Memory of a device that is free now."""
    import torch

    free: Any = torch.cuda.mem_get_info(device_index(device))[0]
    return int(free)
