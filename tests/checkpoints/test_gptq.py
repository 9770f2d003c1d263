"""GPTQ's tensors against a float64 dequantisation written from the format's definition."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sllmbench import quantize
from sllmbench.checkpoints.gptq import GptqTensors, from_gptq, to_gptq
from sllmbench.checkpoints.words import codes_of, words_of
from sllmbench.errors import InputError
from sllmbench.formats import QuantTensor, matmul_float64, parse_format


def stored(
    k: int = 64,
    n: int = 16,
    group: int = 32,
    bits: int = 4,
    seed: int = 0,
    zero: int | None = None,
    act_order: bool = False,
) -> GptqTensors:
    """Random tensors; ``zero`` is every zero point as it is stored."""
    rng = np.random.default_rng(seed)
    groups = -(-k // group)
    mask, each = (1 << bits) - 1, 32 // bits
    zeros = rng.integers(0, mask + 1, (groups, n)) if zero is None else np.full((groups, n), zero)
    g_idx = (np.arange(k) // group).astype(np.int32)
    return GptqTensors(
        words(rng.integers(0, mask + 1, (k, n)).reshape(k // each, each, n), bits, axis=1),
        words(zeros.reshape(groups, n // each, each), bits, axis=2),
        (rng.normal(size=(groups, n)) / 8).astype(np.float16),
        rng.permutation(g_idx) if act_order else g_idx,
    )


def words(codes: np.ndarray[Any, Any], bits: int, axis: int) -> np.ndarray[Any, Any]:
    """Codes joined along ``axis``, the first in the lowest bits."""
    parts = np.moveaxis(codes.astype(np.uint32), axis, 0)
    joined = sum(part << np.uint32(bits * i) for i, part in enumerate(parts))
    return joined.astype(np.uint32).view(np.int32)


def dequantised(tensors: GptqTensors, bits: int, below: int) -> np.ndarray[Any, Any]:
    """Float64 [n, k], one value at a time."""
    qweight, qzeros = tensors.qweight.view(np.uint32), tensors.qzeros.view(np.uint32)
    (_, n), (k,) = tensors.scales.shape, tensors.g_idx.shape
    mask, each = (1 << bits) - 1, 32 // bits
    weight = np.empty((n, k))
    for i in range(k):
        g = tensors.g_idx[i]
        for j in range(n):
            code = int(qweight[i // each, j]) >> bits * (i % each) & mask
            zero = (int(qzeros[g, j // each]) >> bits * (j % each)) + below & mask
            weight[j, i] = float(tensors.scales[g, j]) * (code - zero)
    return weight


CASES = [
    {},
    {"group": 64},
    {"k": 128, "group": 128},
    {"k": 200, "group": 64},  # a short last group
    {"k": 96, "group": 24},
    {"zero": 7},
    {"bits": 8, "zero": 127},
    {"bits": 8, "zero": 127, "k": 256, "group": 128},
]


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("act_order", [False, True])
@pytest.mark.parametrize(("version", "below"), [("gptq", 1), ("gptq_v2", 0)])
def test_what_the_tensors_stand_for(
    case: dict[str, int], act_order: bool, version: Any, below: int
) -> None:
    bits = case.get("bits", 4)
    if "zero" in case:
        case = case | {"zero": case["zero"] + 1 - below}
    tensors = stored(**case, act_order=act_order)
    weight = from_gptq(tensors, bits, version)
    expected = dequantised(tensors, bits, below)
    np.testing.assert_array_equal(weight.dequantize(), expected.astype(np.float32))
    rows = weight.native.dequantize_rows(np.arange(weight.n))
    np.testing.assert_array_equal(rows, weight.dequantize())
    one_group = len(tensors.scales) == 1
    assert (weight.order is None) == (not act_order or one_group)
    x = np.random.default_rng(1).normal(size=(3, weight.k))
    np.testing.assert_allclose(matmul_float64(x, weight), x @ expected.T, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("case", "version", "name"),
    [
        ({"zero": 7}, "gptq", "int4-g32"),
        ({"zero": 8}, "gptq_v2", "int4-g32"),
        ({"zero": 8}, "gptq", "int4-g32-asym"),
        ({}, "gptq", "int4-g32-asym"),
        ({"k": 256, "group": 128}, "gptq", "int4-g128-asym"),
        ({"zero": 7, "group": 64}, "gptq", "int4-row"),
        ({"zero": 127, "bits": 8, "group": 64}, "gptq", "int8"),
        ({"zero": 128, "bits": 8, "k": 256, "group": 128}, "gptq_v2", "int8-g128"),
    ],
)
def test_the_format_that_comes_out(case: dict[str, int], version: Any, name: str) -> None:
    weight = from_gptq(stored(**case), case.get("bits", 4), version)
    assert weight.format == parse_format(name)


def test_a_group_size_without_a_name_of_its_own() -> None:
    fmt = from_gptq(stored(k=96, group=24)).format
    assert (fmt.name, fmt.group_size, fmt.offset) == ("int4-g24-asym", 24, "zero_point")


def test_the_order_keeps_channels_of_a_group_in_sequence() -> None:
    tensors = stored(act_order=True)
    order = from_gptq(tensors).order
    assert order is not None
    np.testing.assert_array_equal(tensors.g_idx[order], np.arange(64) // 32)
    assert (np.diff(order.reshape(2, 32)) > 0).all()


@settings(deadline=None, max_examples=60)
@given(
    st.integers(1, 5),
    st.integers(1, 3),
    st.sampled_from([8, 24, 32, 128]),
    st.booleans(),
    st.sampled_from(["gptq", "gptq_v2"]),
    st.integers(0, 2**32 - 1),
)
def test_tensors_come_back(
    eights_k: int, eights_n: int, group: int, act_order: bool, version: Any, seed: int
) -> None:
    tensors = stored(8 * eights_k, 8 * eights_n, group, seed=seed, act_order=act_order)
    written = to_gptq(from_gptq(tensors, 4, version), version)
    for name, array in tensors._asdict().items():
        np.testing.assert_array_equal(getattr(written, name), array, err_msg=name)
        assert getattr(written, name).dtype == array.dtype


@pytest.mark.parametrize("name", ["int4-g32", "int4-g64-asym", "int4-row", "int8", "int8-g128"])
def test_quantised_weights_come_back(name: str) -> None:
    fmt = parse_format(name)
    weight = quantize(np.random.default_rng(2).normal(size=(16, 256)), fmt)
    back = from_gptq(to_gptq(weight, "gptq_v2"), fmt.bits, "gptq_v2")
    assert back.format == fmt
    np.testing.assert_array_equal(back.dequantize(), weight.dequantize())


def changed(**arrays: Any) -> GptqTensors:
    return stored()._replace(**arrays)


SHORT = np.r_[np.zeros(40), np.ones(24)].astype(np.int32)  # g_idx


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (changed(qweight=np.zeros((9, 16), np.int32)), r"qweight must be int32 \[8, 16\], not"),
        (changed(qweight=np.zeros((8, 16), np.int64)), r"qweight must be int32 \[8, 16\], not"),
        (changed(qzeros=np.zeros((2, 16), np.int32)), r"qzeros must be int32 \[2, 2\], not"),
        (changed(scales=np.ones((2, 16), np.float32)), r"scales must be float16 \[groups, n\]"),
        (changed(scales=np.ones(16, np.float16)), r"scales must be float16 \[groups, n\]"),
        (changed(scales=np.ones((0, 16), np.float16)), r"scales must be float16 \[groups, n\]"),
        (changed(scales=np.full((2, 16), np.inf, np.float16)), "scales hold NaN or infinite"),
        (changed(scales=np.ones((2, 15), np.float16)), r"qweight must be int32 \[8, 15\]"),
        (changed(g_idx=np.zeros((64, 1), np.int32)), r"g_idx must be int32 \[k\], not"),
        (changed(g_idx=np.zeros(64)), r"g_idx must be int32 \[64\], not float64"),
        (changed(g_idx=np.zeros(0, np.int32)), r"g_idx must be int32 \[k\], not \[0\]"),
        (changed(g_idx=np.zeros(63, np.int32)), "k must be a multiple of 8, not 63"),
        (changed(g_idx=np.arange(64, dtype=np.int32) // 31), "g_idx must lie in 0 to 1, .* 0 to 2"),
        (changed(g_idx=np.arange(-1, 63, dtype=np.int32) // 32), "not in -1 to 1"),
        (changed(g_idx=SHORT[::-1] * 0), "as many channels .* not 0 to 64"),
        (changed(g_idx=1 - SHORT), "as many channels .* not 24 to 40"),
    ],
)
def test_tensors_that_do_not_fit(tensors: GptqTensors, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        from_gptq(tensors)
    assert "\n" not in str(caught.value)


def test_a_middle_group_may_not_be_shorter() -> None:
    tensors = stored(k=96)
    g_idx = np.repeat(np.arange(3, dtype=np.int32), [36, 24, 36])
    with pytest.raises(InputError, match="as many channels"):
        from_gptq(tensors._replace(g_idx=g_idx))


def test_n_that_leaves_a_word_of_zero_points_partly_empty() -> None:
    tensors = changed(scales=np.ones((2, 15), np.float16), qweight=np.zeros((8, 15), np.int32))
    with pytest.raises(InputError, match="n must be a multiple of 8, not 15"):
        from_gptq(tensors)


def test_what_has_no_kernel_is_said() -> None:
    with pytest.raises(InputError, match="codes of 5 bits cannot be read"):
        from_gptq(stored(), 5)
    with pytest.raises(InputError, match="must be gptq or gptq_v2, not 'marlin'"):
        from_gptq(stored(), 4, "marlin")  # type: ignore[arg-type]


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_codes_are_one_stream_of_bits(bits: int) -> None:
    """3 bits straddle words: 32 codes fill 3 of them."""
    codes = np.random.default_rng(bits).integers(0, 1 << bits, (3, 64)).astype(np.uint8)
    packed = words_of(codes, bits)
    for row, stored in zip(codes, packed, strict=True):
        stream = sum(int(code) << bits * i for i, code in enumerate(row))
        assert stream == sum(int(w) << 32 * i for i, w in enumerate(stored.view(np.uint32)))
    np.testing.assert_array_equal(codes_of(packed, bits), codes)


def test_v1_stores_a_zero_point_of_0_as_the_bits_below_it() -> None:
    """auto-gptq's kernels add one and keep the bits: 15 comes back as 0, not as 16."""
    zeros = quantize(np.abs(np.random.default_rng(0).normal(size=(8, 32))), "int4-g32-asym")
    assert zeros.offsets is not None
    assert not zeros.offsets.any()
    written = to_gptq(zeros, "gptq")
    assert (written.qzeros.view(np.uint32) == 0xFFFFFFFF).all()
    np.testing.assert_array_equal(from_gptq(written).dequantize(), zeros.dequantize())


def test_what_cannot_be_written() -> None:
    weight = from_gptq(stored(zero=0), 4, "gptq_v2")
    beyond = replace(weight, offsets=np.full((16, 2), 16, np.uint8))
    with pytest.raises(InputError, match="GPTQ stores zero points of 0 to 15 only"):
        to_gptq(beyond)
    ones = np.ones((8, 256), np.float32)
    for name in ("q4_1", "q5_0", "q4_k", "q6_k"):
        with pytest.raises(InputError, match=f"GPTQ has no {name}"):
            to_gptq(quantize(ones, name))
    with pytest.raises(InputError, match="k must be a multiple of 8, not 12"):
        to_gptq(quantize(ones[:, :12], "int4-g32"))
    with pytest.raises(InputError, match="n must be a multiple of 8, not 7"):
        to_gptq(quantize(ones[:7], "int4-g32"))


def test_the_kernels_multiply_with_act_order() -> None:
    from sllmbench import matmul

    weight: QuantTensor = from_gptq(stored(k=512, n=40, group=128, act_order=True))
    x = np.random.default_rng(3).normal(size=(5, 512)).astype(np.float32)
    expected = (
        x.astype(np.float64) @ dequantised(stored(k=512, n=40, group=128, act_order=True), 4, 1).T
    )
    got = matmul(x, weight, kernel="generic.exact")
    # float32 sums of 512 products and of the terms that a zero point adds
    bound = 520 * 2.0**-24 * (np.abs(x) @ np.full((512, 40), 32 * np.abs(weight.scales).max()))
    assert (np.abs(got - expected) <= bound).all()
