"""How many weights a trip through a kernel's main loop multiplies."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sllmbench.cubin.names import short

if TYPE_CHECKING:
    from sllmbench.record import MainLoop

_OURS = "sllmbench::cuda::"
_BITS = (
    (re.compile(r"decode<(?:HalfPairs|TensorCores)<4,"), 4),
    (re.compile(r"decode<(?:HalfPairs|TensorCores)<8,"), 8),
    (re.compile(r"decode<Dp4a<"), 8),
    (re.compile(r"multiply_f16<Codes4,"), 4),
    (re.compile(r"multiply_f16<Codes8,"), 8),
    (re.compile(r"multiply_i8<"), 8),
)
"""Bits of a weight, by the short name of each of our kernels that multiplies."""


@dataclass(frozen=True)
class Weights:
    """Weights of a lane and a trip, their bits and how that is known; or why it is not."""

    per_trip: float | None = None
    bits: int | None = None
    source: str | None = None
    reason: str | None = None


def of_kernel(demangled: str, loop: MainLoop, given: float | None) -> Weights:
    """Weights that a lane multiplies in a trip, each counted once however many rows x has.

    Our own kernels read weights, and nothing else, with ``load_once``, so the bytes of these loads
    in the loop, unrolled as it may be, tell; of another's kernel, ``given`` does.
    """
    if given is not None:
        return Weights(given, source="--weights-per-trip")
    bits = _bits_of_ours(demangled)
    if bits is None:
        return Weights(
            reason="instructions per weight: known of our own kernels; give --weights-per-trip"
        )
    read_bits = sum(int(width) * count for width, count in loop.read_once_loads.items())
    if read_bits == 0:
        return Weights(reason="instructions per weight: the main loop reads nothing with load_once")
    return Weights(
        per_trip=read_bits / bits,
        bits=bits,
        source=f"{read_bits // 8} bytes read once a trip, {bits} bits a weight",
    )


def _bits_of_ours(demangled: str) -> int | None:
    if _OURS not in demangled:
        return None
    name = short(demangled)
    return next((bits for pattern, bits in _BITS if pattern.match(name)), None)
