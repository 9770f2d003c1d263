"""How a byte-level BPE splits a text before it merges: llama.cpp's names and tokenizers' steps.

A GGUF file says which split its tokenizer has only by name (``tokenizer.ggml.pre``), and what a
name means is in llama.cpp. transformers' loader knows some of them, and splits as GPT-2 does where
it does not, "smollm" among them.
"""

from __future__ import annotations

from typing import Any

from sllmbench.errors import InputError

_DIGITS = "\\p{N}"
_QWEN2 = (
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|%s|"
    " ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
)
PATTERNS = {"qwen2": _QWEN2 % _DIGITS, "llama-bpe": _QWEN2 % f"{_DIGITS}{{1,3}}"}
"""What a ``Split`` before the bytes matches, as published, by llama.cpp's name."""
_NAMES = {
    "gpt-2": {"gpt-2", "exaone4", "mellum", "modern-bert", "mpt", "olmo", "phi-2", "roberta-bpe"},
    "smollm": {"smollm", "codeshell", "command-r", "exaone", "minerva-7b", "refact", "starcoder"},
    "qwen2": {"qwen2", "deepseek-r1-qwen", "megrez"},
    "llama-bpe": {"llama-bpe", "falcon3", "llama-v3", "llama3", "pixtral"},
}
"""The one that is written here, and all that mean the same."""
_WHOLE_WORDS = "llama-bpe"
"""A word that is a token is not made up of merges."""


def split_name(described: dict[str, Any]) -> str:
    """Return llama.cpp's name for the split that a ``tokenizer.json`` describes.

    Raises:
        InputError: it has none.
    """
    outer = described.get("pre_tokenizer") or {}
    steps = outer.get("pretokenizers", [outer])
    kinds = [step.get("type") for step in steps]
    if described.get("normalizer") not in (None, {"type": "NFC"}):
        raise InputError("llama.cpp cannot be told this tokenizer's normalizer")
    if kinds == ["ByteLevel"] and steps[0].get("use_regex", True):
        return "gpt-2"
    if kinds == ["Digits", "ByteLevel"] and steps[0].get("individual_digits"):
        return "smollm"
    if kinds == ["Split", "ByteLevel"]:
        pattern = (steps[0].get("pattern") or {}).get("Regex")
        for name, known in PATTERNS.items():
            if pattern == known:
                return name
    raise InputError(
        f"llama.cpp's name for this tokenizer's split ({', '.join(map(str, kinds))}) is not known "
        "here"
    )


def apply_split(tokenizer: Any, name: str) -> None:
    """Let a ``tokenizers.Tokenizer``, a byte-level BPE, split as llama.cpp does by this name.

    Left as it is where the name is not known here, but was to transformers.

    Raises:
        InputError: a name that neither knows.
    """
    from tokenizers import Regex, pre_tokenizers

    split = next((split for split, names in _NAMES.items() if name in names), None)
    if split is None:
        if isinstance(tokenizer.pre_tokenizer, pre_tokenizers.ByteLevel):  # as GPT-2's
            raise InputError(f"how its tokenizer splits a text ({name!r}) is not known here")
        return
    before: list[Any] = []
    if split == "smollm":
        before = [pre_tokenizers.Digits(individual_digits=True)]
    elif split in PATTERNS:
        before = [pre_tokenizers.Split(Regex(PATTERNS[split]), "isolated")]
    octets = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=split not in PATTERNS)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*before, octets]) if before else octets
    tokenizer.model.ignore_merges = split == _WHOLE_WORDS
