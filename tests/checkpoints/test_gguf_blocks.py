"""Every block type against the gguf library's own dequantisation, value for value."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import gguf
import numpy as np
import pytest

from sllmbench.checkpoints import gguf_blocks
from sllmbench.checkpoints.gguf_blocks import BLOCK_TYPES, pack_blocks, read_blocks
from sllmbench.checkpoints.gguf_header import GgufTensor
from sllmbench.errors import InputError
from sllmbench.quantizers import quantize

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from tests.checkpoints.conftest import RandomBlocks

N, K, BEFORE = 13, 768, 40  # bytes before the tensor


def test_these_types_have_kernels() -> None:
    one_level = ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"]
    assert list(BLOCK_TYPES) == [*one_level, "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"]


def written(folder: Path, name: str, blocks: NDArray[np.uint8]) -> tuple[Path, GgufTensor]:
    file = folder / "blocks"
    file.write_bytes(bytes(BEFORE) + blocks.tobytes() + b"more")
    return file, GgufTensor(name, name, (N, K), BEFORE, blocks.nbytes)


@pytest.mark.parametrize("name", BLOCK_TYPES)
@pytest.mark.parametrize("chunk", [1, 4000, 4 << 20])
def test_blocks_stand_for_what_the_library_says(
    name: str,
    chunk: int,
    random_blocks: RandomBlocks,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gguf_blocks, "_CHUNK_BYTES", chunk)
    kind = gguf.GGMLQuantizationType[name]
    blocks = random_blocks(kind, N, K)
    expected = gguf.dequantize(blocks, kind)
    file, stored = written(tmp_path, name, blocks)
    weight = read_blocks(file, stored, None)
    assert weight.format.name == name.lower()
    assert weight.nbytes == blocks.nbytes
    assert weight.format.bits_per_weight(K) == 8 * blocks.nbytes / (N * K)
    np.testing.assert_array_equal(weight.dequantize(), expected)
    np.testing.assert_array_equal(weight.native.dequantize_rows(np.arange(N)), expected)
    places = np.random.default_rng(1).permutation(N)
    np.testing.assert_array_equal(read_blocks(file, stored, places).dequantize()[places], expected)
    np.testing.assert_array_equal(pack_blocks(weight), blocks)


@pytest.mark.parametrize("name", BLOCK_TYPES)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_scales_that_are_not_finite_are_refused(
    name: str, value: float, random_blocks: RandomBlocks, tmp_path: Path
) -> None:
    at = {"Q2_K": 80, "Q3_K": 108, "Q6_K": 208}.get(name, 0)
    blocks = random_blocks(gguf.GGMLQuantizationType[name], N, K)
    blocks[N - 1, at : at + 2] = np.frombuffer(np.float16(value).tobytes(), np.uint8)
    with pytest.raises(InputError, match="scales hold NaN or infinite values"):
        read_blocks(*written(tmp_path, name, blocks), None)


def test_a_file_that_has_become_shorter(random_blocks: RandomBlocks, tmp_path: Path) -> None:
    blocks = random_blocks(gguf.GGMLQuantizationType["Q6_K"], N, K)
    file, stored = written(tmp_path, "Q6_K", blocks)
    file.write_bytes(file.read_bytes()[:-5])
    with pytest.raises(InputError, match="has become shorter since it was opened"):
        read_blocks(file, stored, None)


def test_what_is_no_block_type_is_not_packed() -> None:
    weight = np.ones((2, 96), np.float32)
    with pytest.raises(InputError, match="GGUF has no blocks of int4-g32"):
        pack_blocks(quantize(weight, "int4-g32"))
    with pytest.raises(InputError, match="q4_0 blocks hold 32 values; k is 40"):
        pack_blocks(quantize(weight[:, :40], "q4_0"))
    ordered = replace(quantize(weight, "q8_0"), order=np.arange(96, dtype=np.int32))
    with pytest.raises(InputError, match="q8_0 in an order of its own"):
        pack_blocks(ordered)
