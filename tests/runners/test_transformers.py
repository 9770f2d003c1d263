"""A transformers model as a runner: against transformers itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from transformers import AutoModelForCausalLM, DynamicCache

from sllmbench.runners.transformers import TransformersRunner, cache_bytes

if TYPE_CHECKING:
    from pathlib import Path

IDS = [5, 99, 3, 411, 17, 256, 8]


@pytest.fixture(scope="module")
def llama(tiny_llama: Path) -> TransformersRunner:
    return TransformersRunner(AutoModelForCausalLM.from_pretrained(tiny_llama).eval())


def whole(llama: TransformersRunner, ids: list[int]) -> torch.Tensor:
    with torch.inference_mode():
        return llama.model(torch.tensor([ids])).logits[0]


def test_a_sequence_read_in_pieces_is_the_sequence(llama: TransformersRunner) -> None:
    expected = whole(llama, IDS)
    llama.clear(len(IDS))
    pieces = [llama.feed(IDS[:4]).clone(), *(llama.feed([token]).clone() for token in IDS[4:])]
    torch.testing.assert_close(torch.stack(pieces), expected[3:], rtol=1e-4, atol=1e-4)
    llama.clear(1)
    torch.testing.assert_close(llama.feed(IDS[:1]), expected[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("rows", [1, 3, 7, 100])
def test_slices_are_the_whole_sequences_logits(llama: TransformersRunner, rows: int) -> None:
    slices = [part.clone() for part in llama.sequence_logits(IDS, rows)]
    assert [len(part) for part in slices] == [
        min(rows, len(IDS) - start) for start in range(0, len(IDS), rows)
    ]
    torch.testing.assert_close(torch.cat(slices), whole(llama, IDS), rtol=1e-4, atol=1e-4)


def test_generation_is_greedy_and_ends_where_it_is_told(llama: TransformersRunner) -> None:
    ids = list(IDS)
    for _ in range(5):
        ids.append(int(whole(llama, ids)[-1].argmax()))
    expected = ids[len(IDS) :]
    assert llama.generate(IDS, 5, lambda found: False) == expected
    assert llama.generate(IDS, 5, lambda found: len(found) == 2) == expected[:2]


def test_a_cache_is_counted_by_its_storages(llama: TransformersRunner) -> None:
    cache = DynamicCache()
    for layer in range(3):
        block = torch.zeros(1, 2, 7, 16, dtype=torch.float16)
        cache.update(block, block.clone(), layer)
    assert cache_bytes(cache) == 3 * 2 * 7 * 2 * 16 * 2
    shared = torch.zeros(1, 2, 7, 16)
    assert cache_bytes([(shared, shared)]) == shared.nbytes
    assert cache_bytes(object()) is None
    llama.clear(7)
    llama.feed(IDS)
    assert llama.cache_bytes() == 2 * 2 * 7 * 2 * 24 * 4  # layers, k and v, tokens, heads, dim
