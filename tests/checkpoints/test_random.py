"""Random weights: the published shapes, and values that no chunking changes."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest

from sllmbench.checkpoints import open_checkpoint
from sllmbench.checkpoints.random import PARAMETERS, RandomCheckpoint
from sllmbench.errors import InputError

UP, EMBEDDING = "model.layers.3.mlp.up_proj.weight", "model.embed_tokens.weight"


@pytest.fixture(scope="module")
def qwen() -> RandomCheckpoint:
    return RandomCheckpoint("qwen2.5-0.5b")


def open_or_skip(shape: str) -> RandomCheckpoint:
    import transformers

    if shape.startswith("gemma") and not hasattr(transformers, "Gemma3TextConfig"):
        pytest.skip("this transformers has no Gemma 3")
    return RandomCheckpoint(shape)


@pytest.mark.parametrize("shape", PARAMETERS)
def test_a_shape_has_the_published_number_of_parameters(shape: str) -> None:
    checkpoint = open_or_skip(shape)
    shapes = checkpoint.shapes()
    assert sum(math.prod(size) for size in shapes.values()) == PARAMETERS[shape]
    assert "lm_head.weight" not in shapes
    assert checkpoint.config().tie_word_embeddings
    assert checkpoint.provenance == "random, seed 0"
    assert checkpoint.quality_unavailable == "random weights: no quality to measure"
    with pytest.raises(InputError, match="no tokenizer"):
        checkpoint.tokenizer()


def test_published_numbers_that_the_count_does_not_pin() -> None:
    llama = RandomCheckpoint("llama-3.2-1b").config()
    assert (llama.num_attention_heads, llama.num_key_value_heads, llama.head_dim) == (32, 8, 64)
    exaone = RandomCheckpoint("exaone-3.5-2.4b").config()
    assert (exaone.num_attention_heads, exaone.num_key_value_heads, exaone.head_dim) == (32, 8, 80)
    rope = getattr(llama, "rope_parameters", None) or llama.rope_scaling | {
        "rope_theta": llama.rope_theta
    }
    assert (rope["rope_theta"], rope["factor"], rope["rope_type"]) == (500000.0, 32.0, "llama3")


@pytest.mark.parametrize("name", [UP, "model.layers.0.self_attn.q_proj.bias", EMBEDDING])
def test_chunks_of_any_size_hold_the_same_values(qwen: RandomCheckpoint, name: str) -> None:
    stop = min(qwen.shapes()[name][0], 1500)
    whole = qwen.rows(name, 0, stop)
    for step in (1, 7, 292, 293, 1024):  # 292.57 rows of 896 make a block
        starts = range(0, stop, step) if step > 1 else [0, 291, 292, 293, 585, stop - 1]
        for start in starts:
            end = min(start + step, stop)
            np.testing.assert_array_equal(qwen.rows(name, start, end), whole[start:end])


def test_weights_are_normal_with_the_stated_deviation(qwen: RandomCheckpoint) -> None:
    weight = qwen.tensor(UP)
    assert weight.dtype == np.float32
    n = weight.size
    assert abs(weight.mean()) < 5 * 0.02 / math.sqrt(n)
    assert abs(weight.std() / 0.02 - 1) < 5 / math.sqrt(2 * n)
    for deviations, inside in [(0.5, 0.38292), (1, 0.68269), (2, 0.95450), (3, 0.99730)]:
        share = (np.abs(weight) < 0.02 * deviations).mean()
        assert abs(share - inside) < 5 * math.sqrt(inside * (1 - inside) / n) + 1 / 65536
    assert np.abs(weight).max() < 0.02 * 4.35


def test_tensors_and_blocks_differ(qwen: RandomCheckpoint) -> None:
    weight = qwen.tensor(UP)
    other = qwen.tensor(UP.replace("layers.3", "layers.4"))
    flat = weight.reshape(-1)
    block = 1 << 18
    for a, b in [(weight.reshape(-1), other.reshape(-1)), (flat[:block], flat[block : 2 * block])]:
        assert abs(np.corrcoef(a, b)[0, 1]) < 5 / math.sqrt(a.size)


def test_norms_multiply_by_one(qwen: RandomCheckpoint) -> None:
    assert (qwen.tensor("model.norm.weight") == 1).all()
    assert (open_or_skip("gemma-3-1b").tensor("model.norm.weight") == 0).all()


def test_another_process_makes_the_same_values(qwen: RandomCheckpoint) -> None:
    code = (
        "from sllmbench.checkpoints.random import _quantiles, _random_bits\n"
        f"print(_quantiles()[_random_bits({UP!r}, 0)[:896]].tobytes().hex())\n"
    )
    shown = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True
    )
    assert bytes.fromhex(shown.stdout) == qwen.rows(UP, 0, 1).tobytes()


def test_unknown_shapes_and_rows_are_refused(qwen: RandomCheckpoint) -> None:
    with pytest.raises(InputError, match=r"unknown model 'random:llama-3\.2-1'; did you mean"):
        open_checkpoint("random:llama-3.2-1")
    with pytest.raises(InputError, match="the shapes are llama"):
        RandomCheckpoint("nosuch")
    with pytest.raises(InputError, match="has no rows"):
        qwen.rows(UP, 0, 4865)


def test_a_transformers_without_the_architecture_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """What transformers 4.46 answers for Gemma 3: an older module that lacks the class."""
    import types

    import transformers

    old = types.ModuleType("transformers")
    old.__version__ = "4.46.3"  # type: ignore[attr-defined]
    old.LlamaConfig = transformers.LlamaConfig  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "transformers", old)
    RandomCheckpoint("llama-3.2-1b")
    with pytest.raises(
        InputError, match=r"needs Gemma3TextConfig, which transformers 4\.46\.3 lacks"
    ):
        open_checkpoint("random:gemma-3-1b")
