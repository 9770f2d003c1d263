"""Groups of linears and their producers, in architectures that share no names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
import transformers

from sllmbench.convert.structure import Group, Producer, decoder_layers, input_groups
from sllmbench.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

SMALL = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "head_dim": 8,
}


def first_layer(config: Any) -> tuple[torch.nn.Module, Callable[[], torch.Tensor]]:
    """A model's first layer with random norms too, and a run of it as the model makes one."""
    torch.manual_seed(1)
    net = transformers.AutoModelForCausalLM.from_config(config).eval()
    for parameter in net.parameters():
        parameter.data = torch.randn_like(parameter) * 0.2 + (parameter.ndim == 1)
    layer = decoder_layers(net, "a model")[1][0]
    given: list[Any] = []
    handle = layer.register_forward_pre_hook(
        lambda _, args, kwargs: given.append((args, kwargs)), with_kwargs=True
    )
    with torch.inference_mode():
        net(torch.arange(12)[None], use_cache=False)
    handle.remove()
    [(args, kwargs)] = given

    def run() -> torch.Tensor:
        with torch.inference_mode():
            out = layer(*args, **kwargs)
            return (out[0] if isinstance(out, tuple) else out) - args[0]

    return layer, run


def groups_of(config: Any) -> tuple[Group, ...]:
    layer, run = first_layer(config)
    with torch.inference_mode():
        return input_groups(layer, run, "a model")


ATTENTION = tuple(f"self_attn.{part}_proj" for part in "qkv")
MLP = ("mlp.gate_proj", "mlp.up_proj")


def test_llama_scales_values_where_every_head_has_its_own() -> None:
    assert groups_of(transformers.LlamaConfig(**SMALL)) == (
        Group(ATTENTION, Producer("input_layernorm", 0.0)),
        Group(("self_attn.o_proj",), Producer("self_attn.v_proj", 0.0)),
        Group(MLP, Producer("post_attention_layernorm", 0.0)),
        Group(("mlp.down_proj",), Producer("mlp.up_proj", 0.0)),
    )


def test_shared_heads_leave_the_output_projection_without_a_producer() -> None:
    config = transformers.Qwen2Config(**{**SMALL, "num_key_value_heads": 2})
    assert groups_of(config)[1] == Group(("self_attn.o_proj",), None)


def test_gemmas_norms_add_one_to_their_weights() -> None:
    config = transformers.Gemma3TextConfig(**SMALL, layer_types=["full_attention"] * 2)
    first, _, third, fourth = groups_of(config)
    assert first == Group(ATTENTION, Producer("input_layernorm", 1.0))
    assert third == Group(MLP, Producer("pre_feedforward_layernorm", 1.0))
    assert fourth.producer == Producer("mlp.up_proj", 0.0)


def test_opt_has_layer_norms_with_biases_and_a_relu() -> None:
    config = transformers.OPTConfig(
        vocab_size=64, hidden_size=32, ffn_dim=48, num_hidden_layers=2, num_attention_heads=4,
        word_embed_proj_dim=32, max_position_embeddings=32,
    )  # fmt: skip
    assert [(set(group.linears), group.producer) for group in groups_of(config)] == [
        (set(ATTENTION), Producer("self_attn_layer_norm", 0.0)),
        ({"self_attn.out_proj"}, Producer("self_attn.v_proj", 0.0)),
        ({"fc1"}, Producer("final_layer_norm", 0.0)),
        ({"fc2"}, Producer("fc1", 0.0)),
    ]


def test_a_norm_that_feeds_the_residual_too_is_no_producer() -> None:
    config = transformers.OPTConfig(
        vocab_size=64, hidden_size=32, ffn_dim=48, num_hidden_layers=2, num_attention_heads=4,
        word_embed_proj_dim=32, max_position_embeddings=32, do_layer_norm_before=False,
    )  # fmt: skip
    producers = {group.linears[0]: group.producer for group in groups_of(config)}
    assert producers["fc1"] is None
    assert producers["fc2"] == Producer("fc1", 0.0)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (transformers.GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=2), "one list of"),
        (
            transformers.MixtralConfig(**SMALL, num_local_experts=4, num_experts_per_tok=2),
            r"mlp\..* is not in a linear layer",
        ),
    ],
)
def test_layers_without_linears_are_refused(config: Any, says: str) -> None:
    with pytest.raises(InputError, match=says):
        groups_of(config)


def test_a_linear_that_runs_twice_is_refused() -> None:
    layer, run = first_layer(transformers.LlamaConfig(**SMALL))
    twice: Any = layer.mlp
    twice.gate_proj, twice.up_proj = twice.up_proj, twice.up_proj
    with pytest.raises(InputError, match=r"up_proj is called 2 times|gate_proj is called 2 times"):
        input_groups(layer, run, "a model")
