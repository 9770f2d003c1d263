"""NVIDIA GPUs, asked of the driver's own library."""

from __future__ import annotations

import ctypes
from typing import Any

from pydantic import BaseModel, ConfigDict

_LIBRARY = "libnvidia-ml.so.1"
_NAME_BYTES = 96


class Gpu(BaseModel):
    """A GPU that the driver knows."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    memory_bytes: int
    has_energy_counter: bool


class _Memory(ctypes.Structure):
    """``nvmlMemory_t``."""

    _fields_ = (
        ("total", ctypes.c_ulonglong),
        ("free", ctypes.c_ulonglong),
        ("used", ctypes.c_ulonglong),
    )


class _NvmlError(Exception):
    pass


def find() -> tuple[tuple[Gpu, ...], str | None]:
    """Return the GPUs, or none and the reason."""
    try:
        nvml = ctypes.CDLL(_LIBRARY)
    except OSError:
        return (), f"no NVIDIA driver: {_LIBRARY} is not installed"
    nvml.nvmlErrorString.restype = ctypes.c_char_p
    try:
        _call(nvml, "nvmlInit_v2")
    except _NvmlError as error:
        return (), str(error)
    try:
        count = ctypes.c_uint()
        _call(nvml, "nvmlDeviceGetCount_v2", ctypes.byref(count))
        gpus = tuple(_describe(nvml, index) for index in range(count.value))
    except _NvmlError as error:
        return (), str(error)
    finally:
        nvml.nvmlShutdown()
    return (gpus, None) if gpus else ((), "the NVIDIA driver sees no GPU")


def _describe(nvml: ctypes.CDLL, index: int) -> Gpu:
    device = ctypes.c_void_p()
    _call(nvml, "nvmlDeviceGetHandleByIndex_v2", ctypes.c_uint(index), ctypes.byref(device))
    name = ctypes.create_string_buffer(_NAME_BYTES)
    _call(nvml, "nvmlDeviceGetName", device, name, ctypes.c_uint(_NAME_BYTES))
    memory = _Memory()
    _call(nvml, "nvmlDeviceGetMemoryInfo", device, ctypes.byref(memory))
    millijoules = ctypes.c_ulonglong()
    try:
        _call(nvml, "nvmlDeviceGetTotalEnergyConsumption", device, ctypes.byref(millijoules))
        has_energy_counter = True
    except _NvmlError:
        has_energy_counter = False
    return Gpu(
        name=name.value.decode(errors="replace"),
        memory_bytes=memory.total,
        has_energy_counter=has_energy_counter,
    )


def _call(nvml: ctypes.CDLL, function: str, *arguments: Any) -> None:
    code = getattr(nvml, function)(*arguments)
    if code != 0:
        said: bytes = nvml.nvmlErrorString(code)
        raise _NvmlError(f"{function}: {said.decode(errors='replace')}")
