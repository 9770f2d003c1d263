"""What a GGUF file says of its model: llama.cpp's keys for a transformers configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from sllmbench.checkpoints.gguf_names import INTERLEAVED
from sllmbench.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

ROPE_FACTORS = "rope_freqs.weight"
"""The tensor of what divides each rotary frequency, where a model scales them unevenly."""
QUANTIZATION_VERSION = 2
"""ggml's number for the block layouts of today."""


def check_architecture(config: Any) -> str:
    """The architecture's name in GGUF.

    Raises:
        InputError: it is none whose rows are proven to map, or has layers that llama.cpp lacks.
    """
    name = str(config.model_type)
    if name not in INTERLEAVED:
        raise InputError(
            f"{name} models cannot be written as GGUF: only {' and '.join(INTERLEAVED)} are proven "
            "to come out as llama.cpp reads them"
        )
    if getattr(config, "hidden_act", "silu") not in ("silu", "swish"):
        raise InputError(f"llama.cpp's {name} has SiLU alone, not {config.hidden_act}")
    if getattr(config, "use_sliding_window", False):
        raise InputError(f"llama.cpp's {name} has no sliding window, which this model uses")
    return name


def add_metadata(writer: Any, config: Any, name: str) -> None:
    """Write the model's sizes, norms and rotary embedding, with :func:`rope_factors` beside them.

    Raises:
        InputError: the rotary embedding is of a kind that llama.cpp would compute differently.
    """
    heads, width = config.num_attention_heads, head_width(config)
    writer.add_name(name)
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_head_count(heads)
    writer.add_head_count_kv(getattr(config, "num_key_value_heads", None) or heads)
    writer.add_key_length(width)
    writer.add_value_length(width)
    writer.add_rope_dimension_count(width)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    rope = _rope(config)
    writer.add_rope_freq_base(float(rope["rope_theta"]))
    if rope["rope_type"] == "linear":
        from gguf import RopeScalingType

        writer.add_rope_scaling_type(RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(float(rope["factor"]))


def head_width(config: Any) -> int:
    """Values of one attention head."""
    shared = config.hidden_size // config.num_attention_heads
    return int(getattr(config, "head_dim", None) or shared)


def rope_factors(config: Any) -> NDArray[np.float32] | None:
    """What llama.cpp divides each rotary frequency by, [head_width / 2], or None for all one.

    Raises:
        InputError: the rotary embedding is of a kind that llama.cpp would compute differently.
    """
    rope = _rope(config)
    if rope["rope_type"] != "llama3":
        return None
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, None)
    exponents = np.arange(0, head_width(config), 2) / head_width(config)
    plain = float(rope["rope_theta"]) ** -exponents
    factors: NDArray[np.float32] = (plain / scaled.double().numpy()).astype(np.float32)
    return factors


def _rope(config: Any) -> dict[str, Any]:
    """``rope_theta``, ``rope_type`` and what that takes, from transformers 4 or 5."""
    rope = dict(getattr(config, "rope_parameters", None) or config.rope_scaling or {})
    rope.setdefault("rope_theta", getattr(config, "rope_theta", 10000.0))
    rope["rope_type"] = rope.get("rope_type", rope.get("type", "default"))
    if rope["rope_type"] not in ("default", "linear", "llama3"):
        raise InputError(
            f"a rotary embedding of type {rope['rope_type']!r} cannot be written as GGUF here; "
            "default, linear and llama3 can"
        )
    if rope.get("partial_rotary_factor", 1.0) != 1.0:
        raise InputError("a partial rotary embedding cannot be written as GGUF here")
    return rope
