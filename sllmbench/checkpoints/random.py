"""Seeded random weights in the shapes of published models, for speed, memory and energy alone.

Each number stands in the ``config.json`` that the model's authors published with its weights.
"""

from __future__ import annotations

import hashlib
from functools import cache, cached_property
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np

from sllmbench.checkpoints.base import Checkpoint
from sllmbench.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SEED = 0
_STANDARD_DEVIATION = 0.02
_BLOCK = 1 << 18
"""Weights that one generator makes. Chunks of any size see the same blocks; 512 KB of random bits
stay in the L2 cache until they are looked up."""


def _llama3_rope(factor: float) -> dict[str, Any]:
    return {
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }


_CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    # meta-llama/Llama-3.2-1B
    "llama-3.2-1b": (
        "LlamaConfig",
        {
            "vocab_size": 128256,
            "hidden_size": 2048,
            "intermediate_size": 8192,
            "num_hidden_layers": 16,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "head_dim": 64,
            "max_position_embeddings": 131072,
            "rms_norm_eps": 1e-5,
            "rope_theta": 500000.0,
            "rope_scaling": _llama3_rope(32.0),
            "bos_token_id": 128000,
            "eos_token_id": 128001,
        },
    ),
    # google/gemma-3-1b-it
    "gemma-3-1b": (
        "Gemma3TextConfig",
        {
            "vocab_size": 262144,
            "hidden_size": 1152,
            "intermediate_size": 6912,
            "num_hidden_layers": 26,
            "num_attention_heads": 4,
            "num_key_value_heads": 1,
            "head_dim": 256,
            "max_position_embeddings": 32768,
            "query_pre_attn_scalar": 256,
            "sliding_window": 512,
            "rms_norm_eps": 1e-6,
        },
    ),
    # LGAI-EXAONE/EXAONE-3.5-2.4B-Instruct. Its own code is not in transformers; the layers are
    # Llama's (RMSNorm, rotary attention with grouped heads, SwiGLU, no biases) under other names.
    "exaone-3.5-2.4b": (
        "LlamaConfig",
        {
            "vocab_size": 102400,
            "hidden_size": 2560,
            "intermediate_size": 7168,
            "num_hidden_layers": 30,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "head_dim": 80,
            "max_position_embeddings": 32768,
            "rms_norm_eps": 1e-5,
            "rope_theta": 1000000.0,
            "rope_scaling": _llama3_rope(8.0),
        },
    ),
    # Qwen/Qwen2.5-0.5B
    "qwen2.5-0.5b": (
        "Qwen2Config",
        {
            "vocab_size": 151936,
            "hidden_size": 896,
            "intermediate_size": 4864,
            "num_hidden_layers": 24,
            "num_attention_heads": 14,
            "num_key_value_heads": 2,
            "max_position_embeddings": 32768,
            "rms_norm_eps": 1e-6,
            "rope_theta": 1000000.0,
        },
    ),
}
PARAMETERS = {
    "llama-3.2-1b": 1_235_814_400,
    "gemma-3-1b": 999_885_952,
    "exaone-3.5-2.4b": 2_405_327_360,
    "qwen2.5-0.5b": 494_032_768,
}
"""Weights of each shape, the tied embedding counted once: what its authors publish."""


class RandomCheckpoint(Checkpoint):
    """Random weights in the shape called ``shape``, e.g. ``llama-3.2-1b``; no tokenizer.

    Weights and biases are normal with a standard deviation of 0.02 (drawn from 65,536 quantiles,
    so none lies beyond 4.3 deviations), norms multiply by one. A weight depends on its tensor's
    name and its place alone: any chunking gives the same values.
    """

    quality_unavailable = "random weights: no quality to measure"

    def __init__(self, shape: str) -> None:
        """Open the shape.

        Raises:
            InputError: no such shape, or the installed transformers lacks its architecture.
        """
        if shape not in _CONFIGS:
            raise InputError(f"unknown shape {shape!r}; the shapes are {', '.join(_CONFIGS)}")
        self.name = f"random:{shape}"
        self.provenance = f"random, seed {_SEED}"
        self._shape = shape
        self.config()  # an old transformers is refused here, not in the middle of a run

    def config(self) -> Any:
        """Return the published configuration as transformers' class."""
        import transformers

        kind, values = _CONFIGS[self._shape]
        if not hasattr(transformers, kind):
            raise InputError(
                f"random:{self._shape} needs {kind}, which transformers {transformers.__version__} "
                "lacks; install transformers 4.50 or newer, or choose another shape"
            )
        return getattr(transformers, kind)(**values, tie_word_embeddings=True)

    def tokenizer(self) -> Any:
        """Refuse: random weights have no text.

        Raises:
            InputError: always.
        """
        raise InputError(f"{self.name} has random weights and no tokenizer")

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Every tensor's name and shape; a tied lm_head is not listed apart from the embedding."""
        return dict(self._shapes)

    @cached_property
    def _shapes(self) -> dict[str, tuple[int, ...]]:
        import torch
        from transformers import AutoModelForCausalLM

        models: Any = AutoModelForCausalLM  # its methods carry no types
        with torch.device("meta"):
            state = models.from_config(self.config()).state_dict()
        return {
            name: tuple(value.shape) for name, value in state.items() if name != "lm_head.weight"
        }

    def rows(self, name: str, start: int, stop: int) -> NDArray[np.float32]:
        """Rows ``start`` to ``stop`` of a tensor, made anew at every call.

        Raises:
            InputError: no such tensor or rows.
        """
        shape = self._checked_shape(name, start, stop)
        width = int(np.prod(shape[1:]))
        first, last = start * width, stop * width
        values = np.empty(last - first, np.float32)
        if "norm" in name:
            # Gemma's norms multiply by one plus the weight.
            values.fill(0.0 if self._shape.startswith("gemma") else 1.0)
        else:
            for block in range(first // _BLOCK, -(-last // _BLOCK)):
                a, b = max(first, block * _BLOCK), min(last, (block + 1) * _BLOCK)
                bits = _random_bits(name, block)[a - block * _BLOCK : b - block * _BLOCK]
                # "wrap" never applies to 16 bits; it spares the bounds check that buffers `out`.
                np.take(_quantiles(), bits, out=values[a - first : b - first], mode="wrap")
        return values.reshape(stop - start, *shape[1:])


def _random_bits(name: str, block: int) -> NDArray[np.uint16]:
    """The 16-bit draws of one block, from a generator of its own."""
    key = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
    seed = np.random.SeedSequence([_SEED, key, block])
    return np.random.SFC64(seed).random_raw(_BLOCK // 4).view(np.uint16)


@cache
def _quantiles() -> NDArray[np.float32]:
    """Normal quantiles at the midpoints of 65,536 equal probabilities.

    A look-up makes 400 M weights/s on one core where numpy's ziggurat makes 110 M.
    """
    normal = NormalDist(0.0, _STANDARD_DEVIATION)
    upper = [normal.inv_cdf((i + 0.5) / 65536) for i in range(32768, 65536)]
    return np.array([*(-value for value in reversed(upper)), *upper], np.float32)
