"""How many weights a trip through a kernel's main loop multiplies."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sllmbench.record import MainLoop

_OURS = re.compile(r"\bsllmbench::cuda::")
_BITS = re.compile(r"_w([48])a(?:8|16)\b")
"""Our kernels are named by what they multiply: ``decode_w4a16<…>``."""


@dataclass(frozen=True)
class Weights:
    """Weights of a lane and a trip, their bits and how that is known; or why it is not."""

    per_trip: float | None = None
    bits: float | None = None
    source: str | None = None
    reason: str | None = None


def of_kernel(demangled: str, loop: MainLoop, given: float | None) -> Weights:
    """Weights that a lane multiplies in a trip, each counted once however many rows x has.

    Our own kernels read weights, and nothing else, with ``load_once``, so the bytes of these loads
    in the loop, unrolled as it may be, tell; of another's kernel, ``given`` does.
    """
    if given is not None:
        return Weights(given, source="--weights-per-trip")
    bits = _BITS.search(demangled)
    if bits is None or not _OURS.search(demangled):
        return Weights(
            reason="instructions per weight: known of our own kernels; give --weights-per-trip"
        )
    read_bits = sum(int(width) * count for width, count in loop.read_once_loads.items())
    if read_bits == 0:
        return Weights(reason="instructions per weight: the main loop reads nothing with load_once")
    return Weights(
        per_trip=read_bits / int(bits[1]),
        bits=float(bits[1]),
        source=f"{read_bits // 8} bytes read once a trip, {bits[1]} bits a weight",
    )
