"""Memory of a model's phases: what is resident, what is mapped, and what the cache holds."""

from __future__ import annotations

import sys
from typing import Literal

from sllmbench.hardware.roots import KIB, SYSTEM, Roots, read_fields, read_text
from sllmbench.measure.memory import PeakRss
from sllmbench.measure.sensors import load_nvml
from sllmbench.record import PhaseMemory


class MemoryWatch:
    """Memory of phases that follow each other, above what this process held at the start."""

    def __init__(self, *, device: str = "cpu", roots: Roots = SYSTEM) -> None:
        """Note what is held now; ``roots`` stands for /proc."""
        self._process = roots.proc / "self"
        self._device = device
        self._peak = PeakRss(roots)
        self._peak.start()
        self._pss_bytes = self._read_pss_bytes()
        self._mapped_bytes, self._resident_bytes = self._read_mapped()

    def start(self) -> None:
        """Begin a phase."""
        self._peak.start_phase()
        torch = sys.modules.get("torch")
        if self._device != "cpu" and torch is not None and torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats(self._device)

    def end(
        self, phase: Literal["load", "prefill", "decode"], kv_cache_bytes: int | None = None
    ) -> PhaseMemory:
        """Return what the phase held; ``kv_cache_bytes`` is what the model says of its cache."""
        peak_bytes, reason = self._peak.phase_bytes()
        pss_bytes, (mapped_bytes, resident_bytes) = self._read_pss_bytes(), self._read_mapped()
        if reason is None and (pss_bytes is None or mapped_bytes is None):
            reason = "this kernel shows no /proc/self/smaps"
        allocated_bytes, reserved_bytes, driver_bytes, cuda_reason = self._cuda()
        return PhaseMemory(
            phase=phase,
            peak_rss_bytes=peak_bytes,
            pss_bytes=_above(pss_bytes, self._pss_bytes),
            file_mapped_bytes=_above(mapped_bytes, self._mapped_bytes),
            file_resident_bytes=_above(resident_bytes, self._resident_bytes),
            kv_cache_bytes=kv_cache_bytes,
            cuda_allocated_bytes=allocated_bytes,
            cuda_reserved_bytes=reserved_bytes,
            cuda_driver_bytes=driver_bytes,
            reason=reason or cuda_reason,
        )

    def peak(self) -> tuple[int | None, str | None]:
        """Return the peak of all phases and of what lay between them, or None and the reason."""
        return self._peak.above_start_bytes()

    def _read_pss_bytes(self) -> int | None:
        number, _, unit = read_fields(self._process / "smaps_rollup").get("Pss", "").partition(" ")
        return int(number) * KIB if number.isdecimal() and unit == "kB" else None

    def _read_mapped(self) -> tuple[int | None, int | None]:
        """Bytes mapped from files and resident of them; libraries' too, which the start has."""
        text = read_text(self._process / "smaps")
        if not text:
            return None, None
        total, resident, of_file = 0, 0, False
        for line in text.splitlines():
            name, _, value = line.partition(":")
            if name == "Size":
                total += int(value.split()[0]) * KIB * of_file
            elif name == "Rss":
                resident += int(value.split()[0]) * KIB * of_file
            elif "-" in name.split(" ")[0]:  # address perms offset device inode path
                fields = line.split(maxsplit=5)
                of_file = len(fields) == 6 and fields[5].startswith("/") and fields[4] != "0"
        return total, resident

    def _cuda(self) -> tuple[int | None, int | None, int | None, str | None]:
        if self._device == "cpu":
            return None, None, None, None
        import torch

        if not torch.cuda.is_available():
            return None, None, None, "no figures of the GPU: this torch has no CUDA"
        try:
            gpu = torch.device(self._device).index or 0
            driver_bytes, reason = load_nvml().memory_used_bytes(gpu), None
        except RuntimeError as error:
            driver_bytes, reason = None, str(error)
        return (
            torch.cuda.max_memory_allocated(self._device),
            torch.cuda.max_memory_reserved(self._device),
            driver_bytes,
            reason,
        )


def _above(now_bytes: int | None, start_bytes: int | None) -> int | None:
    if now_bytes is None or start_bytes is None:
        return None
    return max(0, now_bytes - start_bytes)
