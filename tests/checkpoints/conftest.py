"""Small GGUF files, written with the gguf library from Hugging Face folders."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import gguf
import numpy as np
import pytest
from safetensors.numpy import load_file

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

Q4_1, Q8_0 = gguf.GGMLQuantizationType.Q4_1, gguf.GGMLQuantizationType.Q8_0
F32 = gguf.GGMLQuantizationType.F32
_USERS_CACHE = os.environ.get("SLLMBENCH_CACHE")
_OUTER = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
}
_INNER = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


@dataclass(frozen=True)
class WrittenGguf:
    """A file, and the float32 weights that its blocks stand for, in transformers' row order."""

    file: Path
    weights: dict[str, NDArray[np.float32]]
    block_types: dict[str, gguf.GGMLQuantizationType]


WriteGguf = Callable[..., WrittenGguf]


def gguf_name(name: str) -> str:
    """llama.cpp's name of a tensor, written out here rather than asked of the library."""
    stem, suffix = name.rsplit(".", 1)
    if stem in _OUTER:
        return f"{_OUTER[stem]}.{suffix}"
    layer, inner = stem.removeprefix("model.layers.").split(".", 1)
    return f"blk.{layer}.{_INNER[inner]}.{suffix}"


def _interleave(weight: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """llama.cpp's row order: the two halves of each head interleaved."""
    rows = []
    for head in np.split(weight, heads):
        first, second = np.split(head, 2)
        rows += [row for pair in zip(first, second, strict=True) for row in pair]
    return np.stack(rows)


def _write(
    folder: Path,
    file: Path,
    *,
    block_types: Mapping[str, gguf.GGMLQuantizationType] | None = None,
    replace: Mapping[str, NDArray[np.uint8] | NDArray[np.float32]] | None = None,
    leave_out: str | None = None,
) -> WrittenGguf:
    config = json.loads((folder / "config.json").read_text())
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    writer = gguf.GGUFWriter(file, config["model_type"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_block_count(config["num_hidden_layers"])
    if "head_dim" in config:
        writer.add_key_length(config["head_dim"])
        writer.add_value_length(config["head_dim"])
    if leave_out != "head_count":
        writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(10000.0)
    types, weights = dict(block_types or {}), {}
    for name, weight in load_file(folder / "model.safetensors").items():
        kind = types.setdefault(
            name, F32 if weight.ndim == 1 else Q8_0 if "embed" in name else Q4_1
        )
        stored = weight
        if config["model_type"] == "llama" and (".q_proj." in name or ".k_proj." in name):
            stored = _interleave(weight, heads if ".q_proj." in name else kv_heads)
        blocks = (replace or {}).get(name)
        if blocks is None:
            blocks = gguf.quantize(stored, kind)
            weights[name] = gguf.dequantize(gguf.quantize(weight, kind), kind)
        if name != leave_out:
            writer.add_tensor(gguf_name(name), blocks, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return WrittenGguf(file, weights, types)


@pytest.fixture(scope="session")
def write_gguf() -> WriteGguf:
    """Writes a Hugging Face folder as a GGUF: matrices Q4_1, the embedding Q8_0, the rest F32."""
    return _write


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache of the module's own, so that conversions of test files do not fill the user's."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("SLLMBENCH_CACHE", str(folder))
        yield folder


@pytest.fixture
def users_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """The user's own cache after all, for the real model: so that it is downloaded once."""
    if _USERS_CACHE is None:
        monkeypatch.delenv("SLLMBENCH_CACHE")
    else:
        monkeypatch.setenv("SLLMBENCH_CACHE", _USERS_CACHE)
