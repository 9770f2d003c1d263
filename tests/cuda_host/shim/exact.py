"""Rounding by integers: what IEEE 754 asks of numbers too long for float64."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Kind:
    """A binary format: digits of its significand, exponents of its smallest and largest digit."""

    digits: int
    smallest: int  # exponent of the last digit of subnormal numbers
    largest: int  # numbers of 2^largest and above are infinite


HALF = Kind(11, -24, 16)
FLOAT = Kind(24, -149, 128)


def rounded(value: int, exponent: int, kind: Kind) -> float:
    """value 2^exponent, to the nearest number of that kind, ties to even."""
    if value == 0:
        return 0.0
    magnitude = abs(value)
    last = max(exponent + magnitude.bit_length() - kind.digits, kind.smallest)
    shift = last - exponent
    if shift > 0:
        kept, lost = divmod(magnitude, 1 << shift)
        half = 1 << (shift - 1)
        kept += lost > half or (lost == half and kept & 1)
        magnitude, exponent = kept, last
    if magnitude.bit_length() + exponent > kind.largest:
        return float("inf") if value > 0 else float("-inf")
    result = float(magnitude) * 2.0**exponent if exponent > -1022 else 0.0
    return result if value > 0 else -result


def scaled(value: float, exponent: int) -> int:
    """The integer that a finite number is in units of 2^exponent; ValueError where it is none."""
    numerator, denominator = value.as_integer_ratio()
    quotient, rest = divmod(numerator << max(-exponent, 0), denominator << max(exponent, 0))
    if rest:
        raise ValueError(f"{value} is no multiple of 2^{exponent}")
    return quotient
