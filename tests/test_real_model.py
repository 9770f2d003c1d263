"""SmolLM2-135M on the packaged text: what the paths promise of its quality."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from sllmbench import assets, load_model
from sllmbench.checkpoints import open_checkpoint
from sllmbench.measure.quality.perplexity import evaluate
from sllmbench.runners.transformers import TransformersRunner

pytestmark = pytest.mark.slow

N_TOKENS, CONTEXT = 8192, 1024


@pytest.fixture(scope="module")
def checkpoint() -> Any:
    return open_checkpoint("smollm2-135m")


@pytest.fixture(scope="module")
def ids(checkpoint: Any) -> torch.Tensor:
    tokens = checkpoint.tokenizer()(
        assets.text("openwebtext"), add_special_tokens=False, verbose=False
    )
    return torch.tensor(tokens["input_ids"][:N_TOKENS])


@pytest.fixture(scope="module")
def plain_perplexity(checkpoint: Any, ids: torch.Tensor) -> float:
    """transformers alone: its own model of the same floats, its own loss."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_config(checkpoint.config()).eval()
    weights = {name: torch.from_numpy(checkpoint.tensor(name)) for name in checkpoint.shapes()}
    left = model.load_state_dict(weights, strict=False)
    assert left.missing_keys == ["lm_head.weight"]  # tied
    assert not left.unexpected_keys
    with torch.inference_mode():
        losses = [model(w[None], labels=w[None]).loss.double() for w in ids.split(CONTEXT)]
    return float(torch.stack(losses).mean().exp())


@pytest.mark.parametrize(
    ("path", "relative"), [("fp32", 1e-3), ("int8", 1e-2), ("gguf", 5e-3), ("bf16", 5e-3)]
)
def test_perplexity_is_near_plain_transformers(
    checkpoint: Any, ids: torch.Tensor, plain_perplexity: float, path: str, relative: float
) -> None:
    model = load_model(checkpoint, path)
    quality = evaluate(TransformersRunner(model), ids, text_name="openwebtext", context=CONTEXT)
    assert quality.perplexity == pytest.approx(plain_perplexity, rel=relative)
    assert quality.n_tokens == N_TOKENS - N_TOKENS // CONTEXT


def test_exact_arithmetic_on_stored_blocks_is_the_float_model(
    checkpoint: Any, ids: torch.Tensor, plain_perplexity: float
) -> None:
    """Nothing is quantised again: the stored blocks stand for the very same weights."""
    model = load_model(checkpoint, "gguf", arithmetic="exact")
    quality = evaluate(TransformersRunner(model), ids, text_name="openwebtext", context=CONTEXT)
    assert quality.perplexity == pytest.approx(plain_perplexity, rel=1e-5)
