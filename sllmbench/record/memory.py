"""Memory of one phase of a run."""

from __future__ import annotations

from typing import Literal

from sllmbench.record.base import Frozen


class PhaseMemory(Frozen):
    """What one phase held, above what the interpreter held before. Unknown figures are None."""

    phase: Literal["load", "prefill", "decode"]
    peak_rss_bytes: int | None
    """The kernel's own high-water mark within the phase."""
    pss_bytes: int | None
    """At the phase's end: shared pages divided among those who share them."""
    file_mapped_bytes: int | None
    """Address space mapped from files, resident or not, at the phase's end."""
    file_resident_bytes: int | None
    """The part of it that is resident."""
    kv_cache_bytes: int | None
    cuda_allocated_bytes: int | None = None
    """The phase's peak of tensors; this and the next two only of models on a GPU."""
    cuda_reserved_bytes: int | None = None
    """The phase's peak of torch's allocator."""
    cuda_driver_bytes: int | None = None
    """At the phase's end, of the whole GPU: contexts, kernels and other processes are in it."""
    reason: str | None
    """Why a figure is missing."""
