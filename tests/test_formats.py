from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from sllmbench.errors import InputError
from sllmbench.formats import (
    FORMAT_NAMES,
    ROW,
    QuantFormat,
    QuantTensor,
    matmul_float64,
    pack_nibbles,
    parse_format,
    unpack_nibbles,
)

shapes = st.tuples(st.integers(0, 9), st.integers(1, 40))


@given(shapes.flatmap(lambda shape: arrays(np.uint8, shape, elements=st.integers(0, 15))))
@settings(deadline=None)
def test_nibbles_come_back(codes: np.ndarray[Any, Any]) -> None:
    packed = pack_nibbles(codes)
    n, k = codes.shape
    assert packed.dtype == np.uint8
    assert packed.shape == (n, (k + 1) // 2)
    np.testing.assert_array_equal(unpack_nibbles(packed, k), codes)


def test_the_lower_column_lies_in_the_low_nibble() -> None:
    packed = pack_nibbles(np.array([[1, 2, 3]], np.uint8))
    np.testing.assert_array_equal(packed, [[0x21, 0x03]])


@pytest.mark.parametrize("name", FORMAT_NAMES)
def test_every_name_parses_to_a_format_of_that_name(name: str) -> None:
    assert parse_format(name).name == name


@pytest.mark.parametrize(
    ("name", "bits", "group", "offset"),
    [
        ("int8", 8, ROW, "symmetric"),
        ("q8_0", 8, 32, "symmetric"),
        ("q4_1", 4, 32, "minimum"),
        ("int4-g64", 4, 64, "symmetric"),
        ("int4-row-asym", 4, ROW, "zero_point"),
    ],
)
def test_what_names_mean(name: str, bits: int, group: int, offset: str) -> None:
    fmt = parse_format(name)
    assert (fmt.bits, fmt.group_size, fmt.offset) == (bits, group, offset)


@pytest.mark.parametrize(
    "name", ["", "int4", "int4-g16", "int8-g32", "INT8", "int4-g32-sym", "fp8"]
)
def test_unknown_names(name: str) -> None:
    with pytest.raises(InputError, match=f"unknown format '{name}'; the formats are int8, q4_1"):
        parse_format(name)


@pytest.mark.parametrize(
    ("name", "k", "bits"),
    [
        ("int8", 2048, 8 + 16 / 2048),
        ("q8_0", 2048, 8.5),
        ("q4_1", 2048, 5.0),
        ("int4-g32", 2048, 4.5),
        ("int4-g128", 2048, 4.125),
        ("int4-g128-asym", 2048, 4 + 24 / 128),
        ("int4-row", 2048, 4 + 16 / 2048),
        ("int4-g128", 130, 4 + 2 * 16 / 130),  # a short last group has a scale of its own
        ("int4-g128", 77, 4 + 16 / 77),
    ],
)
def test_bits_per_weight(name: str, k: int, bits: float) -> None:
    assert parse_format(name).bits_per_weight(k) == pytest.approx(bits, rel=1e-12)


@pytest.mark.parametrize(
    "arguments", [("x", 3, 32), ("x", 8, 32, "minimum"), ("x", 4, 0), ("x", 4, -2)]
)
def test_formats_that_no_kernel_has(arguments: tuple[Any, ...]) -> None:
    with pytest.raises(InputError):
        QuantFormat(*arguments)


def tensor(name: str, n: int = 3, k: int = 70, **changed: Any) -> QuantTensor:
    """Codes 1, 2, 3 ... along k, scale 0.5 in the first group, 0.25 in the next, and so on."""
    fmt = parse_format(name)
    codes = np.tile(np.arange(1, k + 1), (n, 1))
    scales = np.tile(0.5 ** np.arange(1, fmt.groups(k) + 1), (n, 1)).astype(np.float16)
    offsets = {
        "symmetric": None,
        "zero_point": np.full(scales.shape, 3, np.uint8),
        "minimum": np.full(scales.shape, -1.5, np.float16),
    }[fmt.offset]
    parts = {
        "codes": pack_nibbles((codes % 16).astype(np.uint8))
        if fmt.bits == 4
        else codes.astype(np.int8),
        "scales": scales,
        "offsets": offsets,
    }
    return QuantTensor(fmt, n, k, **(parts | changed))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("int8", [0.5 * 1, 0.5 * 40, 0.5 * 70]),
        ("q8_0", [0.5 * 1, 0.25 * 40, 0.125 * 70]),
        ("q4_1", [0.5 * 1 - 1.5, 0.25 * 8 - 1.5, 0.125 * 6 - 1.5]),
        ("int4-g32", [0.5 * (1 - 8), 0.25 * (8 - 8), 0.125 * (6 - 8)]),
        ("int4-g64-asym", [0.5 * (1 - 3), 0.5 * (8 - 3), 0.25 * (6 - 3)]),
    ],
)
def test_dequantised_values(name: str, expected: list[float]) -> None:
    values = tensor(name).dequantize()
    assert values.dtype == np.float32
    assert values.shape == (3, 70)
    np.testing.assert_array_equal(values[1, [0, 39, 69]], np.float32(expected))


@pytest.mark.parametrize("name", FORMAT_NAMES)
def test_the_oracle_multiplies_dequantised_weights(name: str) -> None:
    weight = tensor(name)
    x = np.linspace(-1, 1, 2 * 70).reshape(2, 70)
    expected = np.einsum("mk,nk->mn", x, weight.dequantize().astype(np.float64))
    np.testing.assert_allclose(matmul_float64(x, weight), expected, rtol=1e-12)


def test_nbytes_counts_codes_scales_and_offsets() -> None:
    assert tensor("int4-g32", k=64).nbytes == 3 * (32 + 2 * 2)
    assert tensor("q4_1", k=64).nbytes == 3 * (32 + 2 * 2 + 2 * 2)
    assert tensor("int4-g32-asym", k=64).nbytes == 3 * (32 + 2 * 2 + 2)


@pytest.mark.parametrize(
    ("name", "changed", "message"),
    [
        ("int8", {"codes": np.zeros((3, 71), np.int8)}, r"codes must be int8 \[3, 70\]"),
        ("int8", {"codes": np.zeros((3, 70), np.uint8)}, r"codes must be int8 \[3, 70\]"),
        ("int4-g32", {"codes": np.zeros((3, 70), np.uint8)}, r"codes must be uint8 \[3, 35\]"),
        ("int4-g32", {"scales": np.ones((3, 2), np.float16)}, r"scales must be float16 \[3, 3\]"),
        ("int4-g32", {"scales": np.ones((3, 3), np.float32)}, r"scales must be float16 \[3, 3\]"),
        ("int4-g32", {"scales": np.full((3, 3), np.nan, np.float16)}, "scales hold NaN"),
        ("int4-g32", {"scales": np.full((3, 3), np.inf, np.float16)}, "scales hold NaN"),
        ("int4-g32", {"offsets": np.zeros((3, 3), np.uint8)}, "takes no offsets"),
        ("int4-g32-asym", {"offsets": None}, "needs offsets"),
        ("int4-g32-asym", {"offsets": np.zeros((3, 3), np.float16)}, "offsets must be uint8"),
        ("q4_1", {"offsets": np.full((3, 3), np.inf, np.float16)}, "offsets hold NaN"),
    ],
)
def test_tensors_that_do_not_fit_their_format(
    name: str, changed: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        tensor(name, **changed)


def test_the_packed_weight_is_made_once() -> None:
    weight = tensor("int4-g32")
    assert weight.native is weight.native
    assert (weight.native.n, weight.native.k) == (3, 70)
