"""ggml's mul_mat against float64 of the blocks that ggml itself made."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

import numpy as np
import psutil
import pytest

from sllmbench.errors import InputError
from sllmbench.matmuls import ggml, ggml_library, resolve

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sllmbench.matmuls.base import Operands

_missing = resolve("ggml:q8_0").unavailable()
needs_library = pytest.mark.skipif(_missing is not None, reason=_missing or "")


@needs_library
@pytest.mark.parametrize("n", [77, 96])  # in eights some types are repacked
@pytest.mark.parametrize("m", [1, 4, 17])
@pytest.mark.parametrize("name", ggml.NAMES)
def test_the_product_is_within_the_arithmetics_bound(
    name: str,
    m: int,
    n: int,
    make_operands: Callable[..., Operands],
    check_product: Callable[..., None],
) -> None:
    given = make_operands(n, 512, m)
    bound = resolve(name).bind(given)
    check_product(bound, given.x, 256 if name.endswith("_k") else 32, scale_rounding=2.0**-11)
    assert bound.use().arithmetic == "int8"
    assert bound.weight_bytes * 8 == resolve(name).bits_per_weight(512) * n * 512


@needs_library
@pytest.mark.parametrize("type", ["q4_0", "q6_k"])
def test_copies_are_the_weight_with_its_rows_moved(
    type: str, make_operands: Callable[..., Operands], capfd: pytest.CaptureFixture[str]
) -> None:
    given = make_operands(96, 256, 2, copies=3)
    bound = resolve(f"ggml:{type}").bind(given)
    assert [call() for call in bound.calls] == [0, 0, 0]
    products = ggml._Products(
        ggml_library.library(), type, ggml_library.quantize_blocks(given.weight, type), given
    )
    first = products.product(0)
    np.testing.assert_array_equal(bound.product(), first)
    for copy in (1, 2):
        np.testing.assert_array_equal(products.product(copy), np.roll(first, copy, axis=1))
    assert capfd.readouterr() == ("", "")  # ggml would tell of every tensor


@needs_library
def test_memory_goes_with_the_last_call(make_operands: Callable[..., Operands]) -> None:
    given, stored_bytes = make_operands(1024, 1024, 1, copies=32), 32 * 1024 * 1024 * 34 // 32
    process, resident = psutil.Process(), []
    for _ in range(4):
        kept = resolve("ggml:q8_0").bind(given).calls[0]  # everything but a call is dropped
        gc.collect()
        assert kept() == 0
        del kept
        gc.collect()
        resident.append(process.memory_info().rss)
    assert resident[-1] - resident[0] < stored_bytes


@needs_library
def test_blocks_are_those_that_gguf_files_hold(make_operands: Callable[..., Operands]) -> None:
    from gguf import GGMLQuantizationType
    from gguf.quants import quantize

    weight = make_operands(5, 256, 1).weight
    blocks = ggml_library.quantize_blocks(weight, "q8_0")
    np.testing.assert_array_equal(blocks, quantize(weight, GGMLQuantizationType.Q8_0))
    with pytest.raises(InputError, match="q4_k needs k in whole blocks of 256, not 100"):
        ggml_library.quantize_blocks(weight[:, :100], "q4_k")


@pytest.mark.parametrize(("k", "reason"), [(1536, None), (77, "needs k in whole blocks of 256")])
def test_a_shape_needs_whole_blocks(k: int, reason: str | None) -> None:
    assert resolve("ggml:q4_k").unsupported_shape(10, k) == reason


def test_missing_libraries_name_their_remedy(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = resolve("ggml:q4_0")
    monkeypatch.delenv(ggml_library.FOLDER_VARIABLE, raising=False)
    monkeypatch.setattr(ggml_library, "find_spec", lambda _: None)
    assert path.unavailable() == (
        "llama-cpp-python, which brings ggml, is not installed; pip install 'sllmbench[llama-cpp]'"
    )
    monkeypatch.setenv(ggml_library.FOLDER_VARIABLE, str(tmp_path))
    assert str(path.unavailable()).startswith(f"{tmp_path} has no libggml-base.so; name the ")
    for file in ("libggml-base.so", "libggml-cpu.so"):
        (tmp_path / file).write_bytes(b"no library")
    assert "cannot be used" in str(path.unavailable())
