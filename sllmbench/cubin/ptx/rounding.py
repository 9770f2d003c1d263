"""Sums that are rounded once, to the precision wanted, and conversions that round as asked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from sllmbench.cubin.ptx.scalars import Array


def sum_to_odd(a: Array, b: Array) -> Array:
    """a + b in float64, rounded to odd: where inexact, to the neighbour whose last bit is 1.

    Rounding that to a format at least two bits shorter gives what rounding the exact sum would
    (Boldo and Melquiond), which float64's own rounding, done first, would not.
    """
    rounded, error = _two_sum(a, b)
    bits = rounded.view(np.int64)
    even = np.isfinite(rounded) & (error != 0) & (bits & 1 == 0)
    away = (error > 0) == (rounded > 0)  # from 0: one more in the bits, whatever the sign
    odd: Array = (bits + np.where(even, np.where(away, 1, -1), 0)).view(np.float64)
    return odd


def fused(a: Array, b: Array, c: Array) -> Array:
    """a * b + c of float16 or float32 with one rounding, in their type."""
    # Of two 24-bit numbers float64 holds the product exactly.
    wide = sum_to_odd(a.astype(np.float64) * b.astype(np.float64), c.astype(np.float64))
    return wide.astype(a.dtype)


def narrow(values: Array, dtype: np.dtype[Any], mode: str) -> Array:
    """float64 values, exact, as a shorter type of floats, rounded by one of rn, rz, rm, rp."""
    nearest = values.astype(dtype)
    if mode == "rn":
        return nearest
    error = nearest.astype(np.float64) - values  # nan where both are infinite: not touched
    down = (error > 0) & ((mode == "rm") | ((mode == "rz") & (values > 0)))
    up = (error < 0) & ((mode == "rp") | ((mode == "rz") & (values < 0)))
    inf = np.asarray(np.inf, dtype)
    lower, upper = np.nextafter(nearest, -inf), np.nextafter(nearest, inf)
    return np.where(down, lower, np.where(up, upper, nearest))


def flush(values: Array) -> Array:
    """Subnormal numbers as zeros of the same sign (.ftz)."""
    tiny = np.finfo(values.dtype).tiny
    return np.where(np.abs(values) < tiny, np.copysign(np.zeros_like(values), values), values)


def saturate(values: Array) -> Array:
    """Clamp to 0 .. 1; what is not a number becomes 0 (.sat)."""
    clamped: Array = np.clip(np.where(np.isnan(values), 0, values), 0, 1).astype(values.dtype)
    clamped += np.asarray(0, values.dtype)  # -0 becomes 0
    return clamped


def sum_of_three_to_odd(a: Array, b: Array, c: Array) -> Array:
    """a + b + c in float64, rounded to odd once (Boldo and Melquiond's sum of three)."""
    low, low_error = _two_sum(b, c)
    high, high_error = _two_sum(a, low)
    errors = sum_to_odd(high_error, low_error)
    # Where something is infinite or no number, so is the sum, and the errors are not numbers.
    return sum_to_odd(high, np.where(np.isfinite(high), errors, 0))


def _two_sum(a: Array, b: Array) -> tuple[Array, Array]:
    """a + b and, exactly, what its rounding left out (Knuth)."""
    rounded = a + b
    of_b = rounded - a
    return rounded, (a - (rounded - of_b)) + (b - of_b)
