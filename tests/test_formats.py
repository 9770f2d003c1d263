from __future__ import annotations

import re
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
    integer_format,
    matmul_float64,
    pack_nibbles,
    parse_format,
    stack_rows,
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
        ("int8-g128", 8, 128, "symmetric"),
        ("int2-g16", 2, 16, "symmetric"),
        ("int3-row", 3, ROW, "symmetric"),
        ("int3-g96-asym", 3, 96, "zero_point"),
        ("int8-row-asym", 8, ROW, "zero_point"),
        ("q4_0", 4, 32, "symmetric"),
        ("q5_0", 5, 32, "symmetric"),
        ("q5_1", 5, 32, "minimum"),
        ("q2_k", 2, 16, "minimum"),
        ("q3_k", 3, 16, "symmetric"),
        ("q4_k", 4, 32, "minimum"),
        ("q5_k", 5, 32, "minimum"),
        ("q6_k", 6, 16, "symmetric"),
    ],
)
def test_what_names_mean(name: str, bits: int, group: int, offset: str) -> None:
    fmt = parse_format(name)
    assert (fmt.bits, fmt.group_size, fmt.offset) == (bits, group, offset)
    assert fmt.two_level == name.endswith("_k")


@pytest.mark.parametrize(
    "name",
    [
        *("", "int4", "int4-g0", "int4-g064", "int5-g32", "INT8", "int4-g32-sym", "fp8"),
        *("int8-asym", "int4-g9999999999", "int3-g64-asym\n", "int3-g3٢"),
    ],
)
def test_unknown_names(name: str) -> None:
    with pytest.raises(InputError, match=re.escape(f"unknown format {name!r}; the formats are")):
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
        ("int8-g128", 2048, 8.125),
        ("int2-g64", 2048, 2.25),
        ("int3-g64-asym", 2048, 3.375),
        ("int3-g50", 130, 3 + 3 * 16 / 130),
        ("int8-g128-asym", 2048, 8 + 24 / 128),
        ("q4_0", 2048, 4.5),
        ("q5_0", 2048, 5.5),
        ("q5_1", 2048, 6.0),
        ("q2_k", 2048, 2.625),
        ("q3_k", 2048, 3.4375),
        ("q4_k", 2048, 4.5),
        ("q5_k", 2048, 5.5),
        ("q6_k", 2048, 6.5625),
    ],
)
def test_bits_per_weight(name: str, k: int, bits: float) -> None:
    assert parse_format(name).bits_per_weight(k) == pytest.approx(bits, rel=1e-12)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("x", 7, 32), "no 7-bit symmetric format"),
        (("x", 3, 32, "minimum"), "no 3-bit minimum format"),
        (("x", 8, 32, "minimum"), "no 8-bit minimum format"),
        (("x", 6, 32, "zero_point"), "no 6-bit zero_point format"),
        (("x", 4, 32, "zero_point", True), "no two-level 4-bit zero_point format"),
        (("x", 4, 0), "group_size must be positive"),
        (("x", 4, -2), "group_size must be positive"),
        (("x", 4, ROW, "minimum", True), "must divide 256"),
        (("x", 4, 48, "minimum", True), "must divide 256"),
    ],
)
def test_formats_that_no_kernel_has(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        QuantFormat(*arguments)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("group_size", [1, 32, 100, ROW])
@pytest.mark.parametrize("asymmetric", [False, True])
def test_integer_formats_are_named_as_they_parse(
    bits: Any, group_size: int, asymmetric: bool
) -> None:
    fmt = integer_format(bits, group_size, asymmetric)
    assert fmt == parse_format(fmt.name)
    offset = "zero_point" if asymmetric else "symmetric"
    assert (fmt.bits, fmt.group_size, fmt.offset) == (bits, group_size, offset)


@pytest.mark.parametrize("name", ["q4_k", "q5_k", "q6_k"])
def test_a_short_super_group_is_refused(name: str) -> None:
    with pytest.raises(InputError, match=f"{name} needs k to be a multiple of 256, not 300"):
        parse_format(name).super_groups(300)
    with pytest.raises(InputError, match=f"{name} needs k to be a multiple of 256, not 300"):
        tensor(name, k=300)
    assert (parse_format(name).super_groups(768), parse_format("q4_0").super_groups(300)) == (3, 0)


def tensor(name: str, n: int = 3, k: int = 70, **changed: Any) -> QuantTensor:
    """Codes 1, 2, 3 ... along k, scale 0.5 in the first group, 0.25 in the next, and so on.

    Two levels: super scales 0.5, 0.25 ..., factors 1, 2, 3 ... along the groups, from 0 again
    after the largest, minima's 3.
    """
    fmt = parse_format(name)
    codes = np.tile(np.arange(1, k + 1) % (1 << fmt.bits), (n, 1)).astype(np.uint8)
    halves = 0.5 ** np.arange(1, fmt.groups(k) + 1)
    scales = np.tile(halves, (n, 1)).astype(np.float16)
    offsets = {
        "symmetric": None,
        "zero_point": np.full(scales.shape, 3, np.uint8),
        "minimum": np.full(scales.shape, -1.5, np.float16),
    }[fmt.offset]
    parts: dict[str, Any] = {"scales": scales, "offsets": offsets}
    if fmt.two_level:
        factors = np.arange(1, fmt.groups(k) + 1)
        supers = scales[:, : fmt.super_groups(k)]
        parts = {
            "scales": np.tile(factors % (fmt.factor_max + 1), (n, 1)).astype(np.int8),
            "super_scales": supers,
        }
        if fmt.offset == "minimum":
            parts["offsets"] = np.full(parts["scales"].shape, 3, np.uint8)
            parts["super_minima"] = supers / np.float16(4)
    parts["codes"] = {4: pack_nibbles, 8: lambda codes: codes.view(np.int8)}.get(
        fmt.bits, lambda codes: codes
    )(codes)
    if fmt.offset == "zero_point":
        parts["codes"] = parts["codes"].view(np.uint8)
    return QuantTensor(fmt, n, k, **(parts | changed))


def columns(name: str, k: int = 70) -> int:
    """``k``, or what a two-level format has instead."""
    return 512 if parse_format(name).two_level else k


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("int8", [0.5 * 1, 0.5 * 40, 0.5 * 70]),
        ("q8_0", [0.5 * 1, 0.25 * 40, 0.125 * 70]),
        ("q4_1", [0.5 * 1 - 1.5, 0.25 * 8 - 1.5, 0.125 * 6 - 1.5]),
        ("int4-g32", [0.5 * (1 - 8), 0.25 * (8 - 8), 0.125 * (6 - 8)]),
        ("int4-g64-asym", [0.5 * (1 - 3), 0.5 * (8 - 3), 0.25 * (6 - 3)]),
        ("int2-g32", [0.5 * (1 - 2), 0.25 * (0 - 2), 0.125 * (2 - 2)]),
        ("int3-g64", [0.5 * (1 - 4), 0.5 * (0 - 4), 0.25 * (6 - 4)]),
        ("int3-g64-asym", [0.5 * (1 - 3), 0.5 * (0 - 3), 0.25 * (6 - 3)]),
        ("int8-g64-asym", [0.5 * (1 - 3), 0.5 * (40 - 3), 0.25 * (70 - 3)]),
    ],
)
def test_dequantised_values(name: str, expected: list[float]) -> None:
    values = tensor(name).dequantize()
    assert values.dtype == np.float32
    assert values.shape == (3, 70)
    np.testing.assert_array_equal(values[1, [0, 39, 69]], np.float32(expected))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # Columns 0, 39 and 300 lie in groups 0, 1 and 9 (of 16 values: 0, 2 and 18).
        ("q2_k", [0.5 * 1 - 0.375, 0.5 * 3 * 0 - 0.375, 0.25 * 3 * 1 - 0.1875]),
        ("q3_k", [0.5 * (1 - 4), 0.5 * 3 * (0 - 4), 0.25 * 19 * (5 - 4)]),
        ("q4_k", [0.5 * 1 - 0.375, 0.5 * 2 * 8 - 0.375, 0.25 * 10 * 13 - 0.1875]),
        ("q5_k", [0.5 * 1 - 0.375, 0.5 * 2 * 8 - 0.375, 0.25 * 10 * 13 - 0.1875]),
        ("q6_k", [0.5 * (1 - 32), 0.5 * 3 * (40 - 32), 0.25 * 19 * (45 - 32)]),
    ],
)
def test_dequantised_values_of_two_levels(name: str, expected: list[float]) -> None:
    values = tensor(name, k=512).dequantize()
    np.testing.assert_array_equal(values[1, [0, 39, 300]], np.float32(expected))


@given(st.sampled_from(FORMAT_NAMES), st.integers(0, 2**32 - 1))
@settings(deadline=None)
def test_order_says_which_channel_a_column_belongs_to(name: str, seed: int) -> None:
    k = columns(name, 40)
    order = np.random.default_rng(seed).permutation(k).astype(np.int32)
    plain, ordered = tensor(name, k=k), tensor(name, k=k, order=order)
    for column, channel in enumerate(order):
        np.testing.assert_array_equal(
            ordered.dequantize()[:, channel], plain.dequantize()[:, column]
        )
    x = np.random.default_rng(seed).normal(size=(2, k))
    np.testing.assert_allclose(
        matmul_float64(x, ordered), matmul_float64(x[:, order], plain), rtol=1e-9, atol=1e-9
    )


@pytest.mark.parametrize("name", FORMAT_NAMES)
def test_stacked_rows(name: str) -> None:
    parts = [tensor(name, n=n, k=columns(name)) for n in (2, 3)]
    whole = stack_rows(parts)
    assert (whole.n, whole.format) == (5, parts[0].format)
    np.testing.assert_array_equal(
        whole.dequantize(), np.concatenate([part.dequantize() for part in parts])
    )


@pytest.mark.parametrize("name", FORMAT_NAMES)
def test_the_oracle_multiplies_dequantised_weights(name: str) -> None:
    k = columns(name)
    weight = tensor(name, k=k)
    x = np.linspace(-1, 1, 2 * k).reshape(2, k)
    expected = np.einsum("mk,nk->mn", x, weight.dequantize().astype(np.float64))
    np.testing.assert_allclose(matmul_float64(x, weight), expected, rtol=1e-12)


def test_nbytes_counts_codes_scales_and_offsets() -> None:
    assert tensor("int4-g32", k=64).nbytes == 3 * (32 + 2 * 2)
    assert tensor("q4_1", k=64).nbytes == 3 * (32 + 2 * 2 + 2 * 2)
    assert tensor("int4-g32-asym", k=64).nbytes == 3 * (32 + 2 * 2 + 2)
    assert tensor("int4-g32", k=7).nbytes == 3 * (4 + 2)
    assert tensor("q5_0", k=64).nbytes == 3 * (40 + 2 * 2)
    assert tensor("q4_k", k=512).nbytes == 3 * 2 * 144  # as GGUF's blocks
    assert tensor("q5_k", k=512).nbytes == 3 * 2 * 176
    assert tensor("q6_k", k=512).nbytes == 3 * 2 * 210
    order = np.arange(64, dtype=np.int32)
    assert tensor("int4-g32", k=64, order=order).nbytes == 3 * (32 + 2 * 2) + 4 * 64


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
        ("q5_0", {"codes": np.zeros((3, 35), np.uint8)}, r"codes must be uint8 \[3, 70\]"),
        ("q5_0", {"codes": np.full((3, 70), 32, np.uint8)}, "codes of 5 bits must be below 32"),
        ("int2-g32", {"codes": np.full((3, 70), 4, np.uint8)}, "codes of 2 bits must be below 4"),
        ("int3-g32", {"codes": np.zeros((3, 35), np.uint8)}, r"codes must be uint8 \[3, 70\]"),
        ("int8-g32-asym", {"codes": np.zeros((3, 70), np.int8)}, r"codes must be uint8 \[3, 70\]"),
        ("int4-g32", {"super_scales": np.ones((3, 0), np.float16)}, "takes no super_scales"),
        ("q4_1", {"super_minima": np.ones((3, 0), np.float16)}, "takes no super_minima"),
        ("int8", {"order": np.arange(70)}, r"order must be int32 \[70\]"),
        ("int8", {"order": np.arange(69, dtype=np.int32)}, r"order must be int32 \[70\]"),
        ("int8", {"order": np.arange(1, 71, dtype=np.int32)}, "order must hold each of 0 to 69"),
        ("int8", {"order": np.zeros(70, np.int32)}, "order must hold each of 0 to 69 once"),
    ],
)
def test_tensors_that_do_not_fit_their_format(
    name: str, changed: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        tensor(name, **changed)


@pytest.mark.parametrize(
    ("name", "changed", "message"),
    [
        ("q6_k", {"codes": np.full((3, 512), 64, np.uint8)}, "codes of 6 bits must be below 64"),
        ("q6_k", {"scales": np.ones((3, 32), np.float16)}, r"scales must be int8 \[3, 32\]"),
        ("q6_k", {"super_scales": None}, "q6_k needs super_scales"),
        ("q6_k", {"super_scales": np.full((3, 2), np.nan, np.float16)}, "super_scales hold NaN"),
        ("q6_k", {"super_minima": np.ones((3, 2), np.float16)}, "takes no super_minima"),
        ("q2_k", {"codes": np.full((3, 512), 4, np.uint8)}, "codes of 2 bits must be below 4"),
        ("q2_k", {"scales": np.full((3, 32), 16, np.int8)}, "scales of q2_k must be 0 to 15"),
        ("q3_k", {"scales": np.full((3, 32), -33, np.int8)}, "scales of q3_k must be -32 to 31"),
        ("q4_k", {"scales": np.full((3, 16), 64, np.int8)}, "scales of q4_k must be 0 to 63"),
        ("q4_k", {"scales": np.full((3, 16), -1, np.int8)}, "scales of q4_k must be 0 to 63"),
        ("q4_k", {"offsets": np.full((3, 16), 64, np.uint8)}, "offsets of q4_k must be 0 to 63"),
        ("q4_k", {"offsets": np.ones((3, 16), np.float16)}, r"offsets must be uint8 \[3, 16\]"),
        ("q4_k", {"super_scales": np.ones((3, 1), np.float16)}, "super_scales must be float16"),
        ("q5_k", {"super_minima": None}, "q5_k needs super_minima"),
        ("q5_k", {"super_minima": np.full((3, 2), np.inf, np.float16)}, "super_minima hold NaN"),
    ],
)
def test_two_level_tensors_that_do_not_fit_their_format(
    name: str, changed: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        tensor(name, k=512, **changed)


def test_the_packed_weight_is_made_once() -> None:
    weight = tensor("int4-g32")
    assert weight.native is weight.native
    assert (weight.native.n, weight.native.k) == (3, 70)


def test_no_kernel_multiplies_8_bits_with_zero_points() -> None:
    with pytest.raises(InputError, match="no kernel multiplies int8-g32-asym"):
        _ = tensor("int8-g32-asym").native
