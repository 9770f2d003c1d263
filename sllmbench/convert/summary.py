"""What a conversion tells in the end."""

from __future__ import annotations

import resource
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from sllmbench.convert.calibration import Calibration
    from sllmbench.convert.scratch import LinearReport


@dataclass(frozen=True)
class Summary:
    """What was made of a model, and how far its linears are from the float ones.

    Attributes:
        model: as the user named it.
        provenance: what its weights were.
        out: what was written.
        kind: ``gptq``, …, or a GGUF type.
        settings: of the method; empty for GGUF types.
        calibration: the text, samples, sequence length and seed; None without a text.
        error_of: what the errors are of: ``outputs`` over the calibration text, or ``weights``.
        linears: every quantised linear.
        layers: decoder layers.
        resumed_layers: of these, how many an earlier run had finished.
        restarted: whether layers of another conversion were thrown away.
        seconds: of this run, from the walk's start to the checkpoint on disk.
        peak_rss_bytes: the most memory that this process has held.
        stored_bytes: of everything at ``out``.
        notes: what else to know, in words.
    """

    model: str
    provenance: str
    out: str
    kind: str
    settings: dict[str, Any]
    calibration: dict[str, Any] | None
    error_of: str
    linears: tuple[LinearReport, ...]
    layers: int
    resumed_layers: int
    restarted: bool
    seconds: float
    peak_rss_bytes: int
    stored_bytes: int
    notes: tuple[str, ...] = ()

    def worst(self, count: int = 5) -> list[LinearReport]:
        """The linears of the largest error, the largest first."""
        return sorted(self.linears, key=lambda linear: -linear.relative_error)[:count]

    def retried(self) -> list[LinearReport]:
        """The linears whose Hessian needed more damping than was asked for."""
        return [linear for linear in self.linears if linear.retries]


def calibration_facts(calibration: Calibration | None) -> dict[str, Any] | None:
    """What a summary says of the text."""
    if calibration is None:
        return None
    samples, length = calibration.ids.shape
    return {
        "source": calibration.source,
        "samples": samples,
        "sequence_length": length,
        "seed": calibration.seed,
        "ids_sha256": calibration.sha256,
    }


def peak_rss_bytes() -> int:
    """The most memory that this process has held."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def stored_bytes(out: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    files = [out] if out.is_file() else [file for file in out.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files)
