"""NVIDIA GPUs, asked of the driver through NVIDIA's own bindings."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Gpu(BaseModel):
    """A GPU that the driver knows."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    memory_bytes: int
    has_energy_counter: bool


def find() -> tuple[tuple[Gpu, ...], str | None]:
    """Return the GPUs, or none and the reason."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError_LibraryNotFound:
        return (), "no NVIDIA driver: libnvidia-ml.so.1 is not installed"
    except pynvml.NVMLError as error:
        return (), f"NVML: {error}"
    try:
        gpus = tuple(_describe(index) for index in range(pynvml.nvmlDeviceGetCount()))
    except pynvml.NVMLError as error:
        return (), f"NVML: {error}"
    finally:
        pynvml.nvmlShutdown()
    return (gpus, None) if gpus else ((), "the NVIDIA driver sees no GPU")


def _describe(index: int) -> Gpu:
    import pynvml

    device = pynvml.nvmlDeviceGetHandleByIndex(index)
    try:
        pynvml.nvmlDeviceGetTotalEnergyConsumption(device)
        has_energy_counter = True
    except (pynvml.NVMLError_NotSupported, pynvml.NVMLError_FunctionNotFound):
        has_energy_counter = False
    return Gpu(
        name=pynvml.nvmlDeviceGetName(device),
        memory_bytes=pynvml.nvmlDeviceGetMemoryInfo(device).total,
        has_energy_counter=has_energy_counter,
    )
