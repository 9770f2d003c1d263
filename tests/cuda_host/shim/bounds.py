"""How far a kernel's result may be from the float64 oracle, by the arithmetic that it declares.

Let u = 2^-11 and v = 2^-24 be half an ulp of 1 in fp16 and float32, T = |scale (code - zero)|.

- Every kernel ends in one rounding to fp16: u |y|, or 2^-25 where y is subnormal.
- Sums in float32: k products and a few factors in any order, (k + 16) v sum |x| T.
- Sums in fp16 are closed after at most 16 roundings (128 k in steps of 8 on tensor cores, or 16
  products of pairs), which each product meets at most all: ((1 + u)^16 - 1) sum |x| T. Tensor cores
  take weights rounded to fp16 once, which is one more, and 2^-25 |x| where those are subnormal.
- Each of these roundings near 0 errs by up to 2^-25 of the sum's unit. On tensor cores that is 1,
  for 16 roundings a 128 k. Pairs sum codes in units of 16 (8 bits: 128), which the scale multiplies
  later, 16 roundings in each of 8 sums of a group: 128 2^-25 unit sum over groups |scale|.
- int8 activations are what the kernel makes of x: against those, products are exact inside a group.
  Against x itself each differs by half a step: sum step / 2 |w|. A quotient x / scale in float32
  that falls just past a half may round the other way: half a step times 1 + 2^-12.

At large k such bounds let one wrong code bit pass. So `equal_case` makes products that every order
of sums, in fp16 too, gives exactly; those must be equal to the rounded oracle.
"""

from __future__ import annotations

from dataclasses import replace
from enum import Enum, auto
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from shim.weights import Weight

U, V = 2.0**-11, 2.0**-24
TINY = 2.0**-25  # half of fp16's smallest subnormal number


class Sums(Enum):
    """Where a family rounds before the end."""

    FLOAT32 = auto()
    TENSOR_CORES = auto()
    HALF_PAIRS = auto()


_UNITS = {4: 16, 8: 128}


class Bound(NamedTuple):
    """What a result is held to, both [m, n]."""

    reference: Any
    allowed: Any

    def near(self, y: Any) -> Any:
        """Which values are near enough; a NaN is not."""
        return np.abs(y.astype(np.float64) - self.reference) <= self.allowed

    def holds(self, y: Any) -> bool:
        """Whether all are."""
        return bool(self.near(y).all())


def quantised(x: Any) -> tuple[Any, Any]:
    """x as int8 codes (half to even) and the float32 scale of each row [m, 1]."""
    scale = np.abs(x).max(axis=1, keepdims=True).astype(np.float32) / np.float32(127)
    quotient = x.astype(np.float32) / np.where(scale == 0, np.float32(1), scale)
    return np.rint(quotient), scale


def bounds(weight: Weight, x: Any, sums: Sums, *, int8: bool) -> list[Bound]:
    """What y must be within, all of it."""
    x = weight.in_order(x).astype(np.float64)
    true = x @ weight.values.T
    if not int8:
        return [_bound(weight, x, true, sums, 0)]
    codes, scale = quantised(x.astype(np.float16))
    seen = codes.astype(np.float64) * scale
    step = np.broadcast_to(scale.astype(np.float64), x.shape)
    halves = (step / 2 * (1 + 2.0**-12)) @ np.abs(weight.values).T
    return [
        _bound(weight, seen, seen @ weight.values.T, sums, 0),
        _bound(weight, seen, true, sums, halves),
    ]


def _bound(weight: Weight, x: Any, reference: Any, sums: Sums, more: Any) -> Bound:
    terms = np.abs(x) @ np.abs(weight.values).T
    rounding = (weight.k + 16) * V * terms
    if sums is Sums.TENSOR_CORES:
        tiny = np.abs(x).sum(axis=1, keepdims=True) + 16 * -(-weight.k // 128)
        rounding = rounding + ((1 + U) ** 17 - 1) * terms + TINY * tiny
    if sums is Sums.HALF_PAIRS:
        scales = np.abs(weight.scales.astype(np.float64)).sum(axis=1)
        tiny = 16 * 8 * _UNITS[weight.bits] * scales
        rounding = rounding + ((1 + U) ** 16 - 1) * terms + TINY * tiny
    before = rounding + more
    return Bound(reference, before + np.maximum(U * (np.abs(reference) + before), TINY))


def equal_case(weight: Weight, m: int, seed: int, *, int8: bool) -> tuple[Weight, Any]:
    """A weight and x whose product is exact in any order: powers of two and small integers.

    In 128 k so few x are not 0 that no sum of products passes 2047 of their unit, up to which fp16
    has every integer: 30 of at most 2 16 2 units for 4 bits, 2 of at most 1 383 2 for 8. For int8,
    one column of x is 127, which makes each row's scale 1, and meets codes of 0, so that results
    stay small and fp16 shows their last bit.
    """
    rng = np.random.default_rng(seed)
    powers = np.array([-0.5, -0.25, 0.25, 0.5], np.float16)
    weight = replace(weight, scales=rng.choice(powers, weight.scales.shape))
    integers, most = ([-2, -1, 1, 2], 30) if weight.bits == 4 else ([-1, 1], 2)
    stored = rng.choice(np.array(integers, np.float16), (m, weight.k))
    for first in range(0, weight.k, 128):
        ranks = rng.random(stored[:, first : first + 128].shape).argsort(axis=1)
        stored[:, first : first + 128][ranks >= most] = 0
    if int8:
        largest = rng.integers(weight.k)
        codes = weight.codes.copy()
        codes[:, largest] = 0
        weight = replace(weight, codes=codes)
        stored[:, largest] = 127
    if weight.order is None:
        return weight, stored
    x = np.empty_like(stored)
    x[:, weight.order] = stored
    return weight, x
