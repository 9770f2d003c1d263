"""Weights in the order of ``csrc/cuda/layouts.h``, against the same layout spelled in NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sllmbench import _native
from sllmbench.formats import pack_nibbles, parse_format
from sllmbench.paths.cuda import DeviceWeight
from sllmbench.quantizers import quantize

ROWS = 16
ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
"""Of the k in a word of nibbles, from the lowest."""


def laid_out(codes: Any, bits: int, zero: Any) -> Any:
    """The tiles of codes [n, k], one a byte: 0 is what rows of padding hold, ``zero`` [n] k's."""
    n, k = codes.shape
    length = 64 if bits == 4 else 32
    blocks, along_k = -(-n // ROWS), -(-k // length)
    full = np.zeros((blocks * ROWS, along_k * length), np.uint8)
    full[:n] = zero[:, None]
    full[:n, :k] = codes
    # [block, upper row or lower, row in the lane's eight, tile, quarter, k of a quarter]
    parts = full.reshape(blocks, 2, 8, along_k, 4, length // 4)
    lanes = parts.transpose(0, 3, 2, 4, 1, 5)
    if bits == 8:
        return lanes.reshape(-1)
    words = lanes.reshape(*lanes.shape[:-1], 2, 8)[..., ORDER]
    return (words[..., 0::2] | words[..., 1::2] << 4).reshape(-1)


def grouped(values: Any) -> Any:
    """[n, groups] as [row blocks, groups, 16], rows of padding 0."""
    n, groups = values.shape
    full = np.zeros((-(-n // ROWS) * ROWS, groups), values.dtype)
    full[:n] = values
    return full.reshape(-1, ROWS, groups).transpose(0, 2, 1)


@pytest.mark.parametrize("zero_points", [False, True])
@pytest.mark.parametrize("group", [32, 64, 128, 1 << 20])
@pytest.mark.parametrize(("n", "k"), [(16, 64), (1, 1), (17, 65), (40, 200), (33, 129), (5, 7)])
def test_four_bits(n: int, k: int, group: int, zero_points: bool) -> None:
    rng = np.random.default_rng([n, k, group, zero_points])
    group = min(group, k)
    groups = -(-k // group)
    codes = rng.integers(0, 16, (n, k), np.uint8)
    scales = rng.standard_normal((n, groups)).astype(np.float16)
    zeros = rng.integers(0, 16, (n, groups)).astype(np.uint8) if zero_points else None
    tiles, packed_scales, packed_zeros = _native.pack_cuda(
        pack_nibbles(codes), scales, zeros, n=n, k=k, bits=4, group=group
    )
    zero = np.full(n, 8, np.uint8) if zeros is None else zeros[:, -1]
    assert np.array_equal(tiles, laid_out(codes, 4, zero))
    assert np.array_equal(packed_scales, grouped(scales))
    assert (packed_zeros is None) == (zeros is None)
    if zeros is not None:
        assert np.array_equal(packed_zeros, grouped(zeros))


@pytest.mark.parametrize(("n", "k"), [(16, 32), (1, 1), (17, 33), (40, 200), (3, 31)])
def test_eight_bits(n: int, k: int) -> None:
    rng = np.random.default_rng([n, k])
    codes = rng.integers(-128, 128, (n, k)).astype(np.int8)
    scales = rng.standard_normal((n, 1)).astype(np.float16)
    tiles, packed_scales, zeros = _native.pack_cuda(codes, scales, None, n=n, k=k, bits=8, group=k)
    assert np.array_equal(tiles, laid_out(codes.view(np.uint8), 8, np.zeros(n, np.uint8)))
    assert np.array_equal(packed_scales, grouped(scales))
    assert zeros is None


def test_misaligned_scales_are_read_as_they_are() -> None:
    raw = np.zeros(2 * 6 + 1, np.uint8)
    scales = raw[1:].view(np.float16).reshape(3, 2)
    scales[:] = [[1, 2], [3, 4], [5, 6]]
    codes = np.zeros((3, 32), np.uint8)
    packed = _native.pack_cuda(codes, scales, None, n=3, k=64, bits=4, group=32)[1]
    assert np.array_equal(packed, grouped(scales))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"bits": 5}, "bits must be 4 or 8, not 5"),
        ({"k": 0}, "at least 1"),
        ({"group": 16}, r"scales must be a C-contiguous float16 \[4, 4\]"),
        ({"n": 5}, r"codes must be a C-contiguous uint8 \[5, 32\]"),
        ({"bits": 8}, "codes must be a C-contiguous int8"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(change: dict[str, int], says: str) -> None:
    given = {"n": 4, "k": 64, "bits": 4, "group": 32} | change
    codes, scales = np.zeros((4, 32), np.uint8), np.zeros((4, 2), np.float16)
    with pytest.raises(ValueError, match=says):
        _native.pack_cuda(codes, scales, None, **given)


@pytest.mark.parametrize("format", ["int8", "int8-g128"])
def test_an_embedding_finds_its_rows_in_the_tiles(format: str) -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(3)
    weight = quantize(rng.standard_normal((45, 200)).astype(np.float32), parse_format(format))
    ids = torch.tensor([0, 7, 8, 15, 16, 44, 7])
    rows = DeviceWeight(weight, "exact", "cpu").rows(ids).numpy()
    expected = weight.dequantize()[ids.numpy()]
    assert np.abs(rows - expected).max() <= 2.0**-11 * np.abs(expected).max()
