"""Small GGUF files, written with the gguf library from Hugging Face folders."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

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
RandomBlocks = Callable[..., "NDArray[np.uint8]"]
_HALVES = {
    "Q4_0": (0,),
    "Q4_1": (0, 2),
    "Q5_0": (0,),
    "Q5_1": (0, 2),
    "Q8_0": (0,),
    "Q2_K": (80, 82),
    "Q3_K": (108,),
    "Q4_K": (0, 2),
    "Q5_K": (0, 2),
    "Q6_K": (208,),
}
"""Where a block holds its float16s; any other bytes are valid."""


def _random_blocks(
    kind: gguf.GGMLQuantizationType, n: int, k: int, seed: int = 0
) -> NDArray[np.uint8]:
    """Random bytes [n, bytes of a row], but finite scales that make weights near 0.1."""
    rng = np.random.default_rng(seed)
    length, size = gguf.GGML_QUANT_SIZES[kind]
    blocks = rng.integers(0, 256, (n, k // length, size)).astype(np.uint8)
    for at in _HALVES[kind.name]:
        halves = rng.normal(size=(n, k // length, 1)) * (2e-4 if length == 256 else 2e-2)
        blocks[..., at : at + 2] = halves.astype(np.float16).view(np.uint8)
    return blocks.reshape(n, -1)


def gguf_name(name: str) -> str:
    """llama.cpp's name of a tensor, written out here rather than asked of the library."""
    stem, suffix = name.rsplit(".", 1)
    if stem in _OUTER:
        return f"{_OUTER[stem]}.{suffix}"
    layer, inner = stem.removeprefix("model.layers.").split(".", 1)
    return f"blk.{layer}.{_INNER[inner]}.{suffix}"


def _interleave(weight: NDArray[Any], heads: int) -> NDArray[Any]:
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
        blocks = (replace or {}).get(name)
        if blocks is None:
            if kind.name.endswith("_K"):  # the library cannot quantise to these
                blocks = _random_blocks(kind, *weight.shape, seed=len(weights))
            else:
                blocks = gguf.quantize(weight, kind)
            weights[name] = gguf.dequantize(blocks, kind)
            if config["model_type"] == "llama" and (".q_proj." in name or ".k_proj." in name):
                blocks = _interleave(blocks, heads if ".q_proj." in name else kv_heads)
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


@pytest.fixture(scope="session")
def random_blocks() -> RandomBlocks:
    """Makes valid blocks of any type that has a kernel here."""
    return _random_blocks


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
