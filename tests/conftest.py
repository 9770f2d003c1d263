"""Real parts that several tests share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture(scope="session", autouse=True)
def users_data_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Not the real one: what tests measure is no part of the user's history."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("data")
        patch.setenv("XDG_DATA_HOME", str(folder))
        yield folder


def _save_llama(folder: Path, *, tied: bool = True, bias: bool = False, hidden: int = 96) -> Path:
    """Save a small random llama with a word-level tokenizer, as a Hugging Face folder."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    torch.manual_seed(7)
    config = LlamaConfig(
        vocab_size=512,
        hidden_size=hidden,
        intermediate_size=160,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=tied,
        attention_bias=bias,
        initializer_range=0.2,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    vocabulary = {"<unk>": 0} | {f"w{i}": i for i in range(1, 512)}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>").save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def make_llama(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A maker of small llamas, for tests that need one of their own."""
    return lambda **options: _save_llama(tmp_path_factory.mktemp("llama"), **options)


@pytest.fixture(scope="session")
def tiny_llama(make_llama: Callable[..., Path]) -> Path:
    """A two-layer llama with tied embeddings; widths that are no multiple of 64 or 128."""
    return make_llama()
