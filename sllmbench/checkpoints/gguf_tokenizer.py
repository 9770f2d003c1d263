"""The tokenizer inside a GGUF file: copied from another one, or from a ``tokenizer.json``.

llama.cpp tokenises by itself. Of a byte-level BPE it knows the vocabulary, the merges and the name
of one of its own ways to split a text before; of a byte-fallback BPE (Llama 2) the scores.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sllmbench.checkpoints.gguf import GgufCheckpoint
from sllmbench.checkpoints.gguf_splits import split_name
from sllmbench.errors import InputError

if TYPE_CHECKING:
    from sllmbench.checkpoints.base import Checkpoint

_NO_VOCABULARY = "no_vocab"


def add_tokenizer(writer: Any, checkpoint: Checkpoint) -> str:
    """Write the checkpoint's tokenizer, or say in the file that there is none.

    Returns:
        What was written, in words; with the reason where it is none.
    """
    if isinstance(checkpoint, GgufCheckpoint):
        return _copy(writer, checkpoint.file)
    try:
        if checkpoint.quality_unavailable is not None:
            raise InputError(checkpoint.quality_unavailable)
        with tempfile.TemporaryDirectory() as scratch:
            checkpoint.tokenizer().save_pretrained(scratch)
            return _convert(writer, Path(scratch), checkpoint.config().vocab_size)
    except InputError as error:
        writer.add_tokenizer_model(_NO_VOCABULARY)
        return f"none: {error}"


def _copy(writer: Any, file: Path) -> str:
    """The tokenizer's keys of another GGUF file, whose header was checked when it was opened."""
    from gguf import GGUFReader, GGUFValueType

    model = _NO_VOCABULARY
    for key, field in GGUFReader(file).fields.items():
        if not key.startswith("tokenizer."):
            continue
        is_array = field.types[0] == GGUFValueType.ARRAY
        value = field.contents()
        model = value if key == "tokenizer.ggml.model" else model
        if not is_array or value:
            writer.add_key_value(key, value, field.types[0], field.types[-1] if is_array else None)
    if model == _NO_VOCABULARY:
        writer.add_key_value("tokenizer.ggml.model", model, GGUFValueType.STRING)
        return f"none: {file.name} holds none"
    return f"{model}, copied from {file.name}"


def _convert(writer: Any, folder: Path, vocab_size: int) -> str:
    """Write the tokenizer that a folder's ``tokenizer.json`` describes.

    Raises:
        InputError: it is of a kind that llama.cpp cannot be told.
    """
    from gguf import SpecialVocab

    try:
        described = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    except FileNotFoundError as error:
        raise InputError("the tokenizer has no tokenizer.json form") from error
    model = described["model"]
    if model["type"] != "BPE":
        raise InputError(f"llama.cpp has no {model['type']} tokenizer of this kind")
    byte_level = not model.get("byte_fallback")
    split = split_name(described) if byte_level else "default"
    tokens, types = _tokens(described, vocab_size)
    writer.add_tokenizer_model("gpt2" if byte_level else "llama")
    writer.add_tokenizer_pre(split)
    writer.add_token_list(tokens)
    if not byte_level:
        writer.add_token_scores(_scores(model, tokens))
        writer.add_add_space_prefix(_adds_space(described))
    writer.add_token_types(types)
    special = SpecialVocab(folder, load_merges=byte_level, n_vocab=vocab_size)
    special.add_special_token.setdefault("bos", False)
    special.add_to_gguf(writer, quiet=True)
    return f"{'gpt2' if byte_level else 'llama'}, split as {split}, from tokenizer.json"


def _tokens(described: dict[str, Any], vocab_size: int) -> tuple[list[bytes], list[int]]:
    """Every id's text and type; an id without a token is marked as unused."""
    from gguf import TokenType

    texts = {id: text for text, id in described["model"]["vocab"].items()}
    types = dict.fromkeys(texts, TokenType.NORMAL)
    for id, text in texts.items():
        if not described["model"].get("byte_fallback"):
            break
        if len(text) == 6 and text.startswith("<0x") and text.endswith(">"):
            types[id] = TokenType.BYTE
    unknown = described["model"].get("unk_token")
    for added in described.get("added_tokens", []):
        id = added["id"]
        texts[id] = added["content"]
        types[id] = TokenType.CONTROL if added["special"] else TokenType.USER_DEFINED
        if texts[id] == unknown:
            types[id] = TokenType.UNKNOWN
    if texts and max(texts) >= vocab_size:
        raise InputError(f"the tokenizer has ids beyond the model's vocabulary of {vocab_size}")
    return (
        [texts.get(id, f"[PAD{id}]").encode() for id in range(vocab_size)],
        [int(types.get(id, TokenType.UNUSED)) for id in range(vocab_size)],
    )


def _scores(model: dict[str, Any], tokens: list[bytes]) -> list[float]:
    """Scores by which llama.cpp merges in the order of the merges: the earliest scores highest."""
    rank: dict[bytes, int] = {}
    for number, merge in enumerate(model["merges"]):
        parts = merge.split(" ") if isinstance(merge, str) else merge
        rank.setdefault("".join(parts).encode(), number)
    last = float(len(model["merges"]))
    return [-float(rank.get(token, last)) for token in tokens]


def _adds_space(described: dict[str, Any]) -> bool:
    """Whether a text is read as if a space stood before it."""
    normalizer = described.get("normalizer") or {}
    steps = normalizer.get("normalizers", [normalizer])
    split = described.get("pre_tokenizer") or {}
    return any(step.get("type") == "Prepend" for step in steps) or (
        split.get("type") == "Metaspace" and split.get("prepend_scheme") != "never"
    )
