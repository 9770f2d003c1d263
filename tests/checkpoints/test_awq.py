"""AWQ's tensors against a float64 dequantisation written from the format's definition."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sllmbench import quantize
from sllmbench.checkpoints.awq import AwqTensors, from_awq, to_awq
from sllmbench.errors import InputError
from sllmbench.formats import parse_format

NIBBLE_OF_OUTPUT = [0, 4, 1, 5, 2, 6, 3, 7]  # where output 8 c + r lies in word c


def stored(k: int = 64, n: int = 16, groups: int = 2, seed: int = 0) -> AwqTensors:
    rng = np.random.default_rng(seed)
    whole = np.iinfo(np.int32)
    return AwqTensors(
        rng.integers(whole.min, whole.max, (k, n // 8), np.int32, endpoint=True),
        rng.integers(whole.min, whole.max, (groups, n // 8), np.int32, endpoint=True),
        (rng.normal(size=(groups, n)) / 8).astype(np.float16),
    )


def dequantised(tensors: AwqTensors) -> np.ndarray[Any, Any]:
    """Float64 [n, k], one value at a time."""
    qweight, qzeros = tensors.qweight.view(np.uint32), tensors.qzeros.view(np.uint32)
    (groups, n), k = tensors.scales.shape, len(qweight)
    weight = np.empty((n, k))
    for i in range(k):
        g = i // (k // groups)
        for j in range(n):
            shift = 4 * NIBBLE_OF_OUTPUT[j % 8]
            code = int(qweight[i, j // 8]) >> shift & 15
            zero = int(qzeros[g, j // 8]) >> shift & 15
            weight[j, i] = float(tensors.scales[g, j]) * (code - zero)
    return weight


@pytest.mark.parametrize(
    ("k", "groups", "name"),
    [(64, 2, "int4-g32-asym"), (256, 2, "int4-g128-asym"), (33, 1, "int4-row-asym")],
)
def test_what_the_tensors_stand_for(k: int, groups: int, name: str) -> None:
    tensors = stored(k, 24, groups)
    weight = from_awq(tensors)
    assert weight.format == parse_format(name)
    np.testing.assert_array_equal(weight.dequantize(), dequantised(tensors).astype(np.float32))
    rows = weight.native.dequantize_rows(np.arange(weight.n))
    np.testing.assert_array_equal(rows, weight.dequantize())


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 40), st.integers(1, 3), st.integers(1, 3), st.integers(0, 2**32 - 1))
def test_tensors_come_back(length: int, groups: int, eights: int, seed: int) -> None:
    tensors = stored(length * groups, 8 * eights, groups, seed)
    written = to_awq(from_awq(tensors))
    for name, array in tensors._asdict().items():
        np.testing.assert_array_equal(getattr(written, name), array, err_msg=name)
        assert getattr(written, name).dtype == array.dtype


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"qweight": np.zeros((64, 16), np.int32)}, r"qweight must be int32 \[64, 2\], not"),
        ({"qweight": np.zeros((64, 2), np.uint32)}, r"qweight must be int32 \[64, 2\], not uint32"),
        ({"qweight": np.zeros(64, np.int32)}, r"qweight must be int32 \[k, n / 8\], not \[64\]"),
        ({"qweight": np.zeros((0, 2), np.int32)}, r"qweight must be int32 \[k, n / 8\]"),
        ({"qweight": np.zeros((65, 2), np.int32)}, "k = 65 cannot be shared by 2 groups"),
        ({"qzeros": np.zeros((3, 2), np.int32)}, r"qzeros must be int32 \[2, 2\], not"),
        ({"scales": np.ones((2, 16), np.float32)}, r"scales must be float16 \[groups, n\]"),
        ({"scales": np.full((2, 16), np.nan, np.float16)}, "scales hold NaN or infinite"),
        ({"scales": np.ones((2, 12), np.float16)}, "n must be a multiple of 8, not 12"),
    ],
)
def test_tensors_that_do_not_fit(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        from_awq(stored()._replace(**changed))
    assert "\n" not in str(caught.value)


def test_what_cannot_be_written() -> None:
    ones = np.ones((8, 256), np.float32)
    for name in ("int4-g32", "q4_1", "int8"):
        with pytest.raises(InputError, match=f"AWQ has no {name}"):
            to_awq(quantize(ones, name))
    with pytest.raises(InputError, match="n must be a multiple of 8, not 7"):
        to_awq(quantize(ones[:7], "int4-g32-asym"))
    with pytest.raises(InputError, match="AWQ has no short group: k = 48, groups of 32"):
        to_awq(quantize(ones[:, :48], "int4-g32-asym"))
    weight = quantize(ones, "int4-g32-asym")
    with pytest.raises(InputError, match="zero points of 0 to 15 only"):
        to_awq(replace(weight, offsets=np.full((8, 8), 16, np.uint8)))
    with pytest.raises(InputError, match="AWQ has no act-order"):
        to_awq(replace(weight, order=np.arange(256, dtype=np.int32)))
