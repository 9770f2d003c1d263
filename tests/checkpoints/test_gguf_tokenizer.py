"""Tokenizers in GGUF files: llama.cpp and we tokenise as the one that was written does."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from sllmbench.checkpoints import open_checkpoint
from sllmbench.checkpoints.gguf_splits import PATTERNS, apply_split
from sllmbench.convert.gguf import write_gguf
from sllmbench.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

TEXT = (
    "It's 1234567 o'clock, isn't it?  Two  spaces, a\ttab,\n\na newline; naïve café, 東京 and 🙂!\n"
    "WE'LL see: x = y[3] * 2.5e10 // done... <|end|>and on\r\n   indented "
    "end.\n\n\n\n7. one    8"  # where digits are words apart, the blanks before them stay together
)
SAMPLE = [TEXT, "the cat sat on the mat 12 345 6789 times", "it's what they'll do, isn't it"] * 3


def byte_level(*before: Any) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not _splits(before))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*before, bytes_]) if before else bytes_
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=420, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(SAMPLE, trainer)
    tokenizer.add_special_tokens([AddedToken("<|end|>", special=True)])
    return tokenizer


def _splits(before: tuple[Any, ...]) -> bool:
    return any(isinstance(step, pre_tokenizers.Split) for step in before)


def split_on(name: str) -> Tokenizer:
    return byte_level(pre_tokenizers.Split(Regex(PATTERNS[name]), "isolated"))


def byte_fallback() -> Tokenizer:
    """As Llama 2 has it."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    specials = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=420, special_tokens=specials, show_progress=False)
    tokenizer.train_from_iterator(SAMPLE, trainer)
    described = json.loads(tokenizer.to_str())
    described["added_tokens"] = described["added_tokens"][:3]  # bytes are plain tokens
    return Tokenizer.from_str(json.dumps(described))


@pytest.fixture(
    params=[
        ("gpt2, split as gpt-2", byte_level),
        ("gpt2, split as smollm", lambda: byte_level(pre_tokenizers.Digits(True))),
        ("gpt2, split as qwen2", lambda: split_on("qwen2")),
        ("gpt2, split as llama-bpe", lambda: split_on("llama-bpe")),
        ("llama, split as default", byte_fallback),
    ],
    ids=lambda param: param[0],
)
def written(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A folder with a tokenizer, and beside it a GGUF file of it."""
    name, make = request.param
    tokenizer = make()
    size = tokenizer.get_vocab_size() + 5  # models often have more rows than tokens
    config = LlamaConfig(
        vocab_size=size, hidden_size=32, intermediate_size=32, num_hidden_layers=1,
        num_attention_heads=1, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    folder = tmp_path / "folder"
    LlamaForCausalLM(config).save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(folder)
    summary = write_gguf(open_checkpoint(str(folder)), tmp_path / "model.gguf", "F16")
    assert summary.tokenizer == f"{name}, from tokenizer.json"
    return folder


def ids(checkpoint: Path, text: str) -> list[int]:
    return open_checkpoint(str(checkpoint)).tokenizer()(text, add_special_tokens=False)["input_ids"]


def test_llama_cpp_tokenises_alike(written: Path) -> None:
    llama_cpp = pytest.importorskip("llama_cpp")
    model = llama_cpp.Llama(str(written.parent / "model.gguf"), vocab_only=True, verbose=False)
    for text in SAMPLE[:3]:
        assert model.tokenize(text.encode(), add_bos=False, special=True) == ids(written, text)
    model.close()


def test_the_file_is_read_alike(written: Path) -> None:
    for text in SAMPLE[:3]:
        assert ids(written.parent / "model.gguf", text) == ids(written, text)


def test_a_split_of_an_unknown_name_is_refused_unless_transformers_knew_it() -> None:
    with pytest.raises(InputError, match=r"splits a text \('viking'\) is not known"):
        apply_split(byte_level(), "viking")
    known = split_on("llama-bpe")
    before = known.to_str()
    apply_split(known, "gpt-4o")
    assert known.to_str() == before


@pytest.mark.parametrize(("name", "tokens"), [("llama3", ["abc"]), ("qwen2", ["a", "b", "c"])])
def test_a_whole_word_needs_no_merges_in_llama_3(name: str, tokens: list[str]) -> None:
    vocabulary = {text: id for id, text in enumerate(("a", "b", "c", "abc"))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    apply_split(tokenizer, name)
    assert tokenizer.encode("abc").tokens == tokens


def test_a_split_that_llama_cpp_has_no_name_for_is_told(tmp_path: Path, tiny_llama: Path) -> None:
    summary = write_gguf(open_checkpoint(str(tiny_llama)), tmp_path / "out.gguf", "F16")
    assert summary.tokenizer == "none: llama.cpp has no WordLevel tokenizer of this kind"
