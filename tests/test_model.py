"""A model on a path: transformers' own logits where nothing is quantised, near them where it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from sllmbench import load_model, paths
from sllmbench.checkpoints import open_checkpoint
from sllmbench.errors import InputError
from sllmbench.model import TiedEmbedding, describe, estimate_bytes, required_tensors

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

IDS = torch.arange(24).reshape(1, -1) * 7 % 512


def plain_logits(folder: Path, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    from transformers import AutoModelForCausalLM, __version__

    # Not .to(dtype): that would round the rotary tables too.
    key = "torch_dtype" if __version__.startswith("4.") else "dtype"
    model = AutoModelForCausalLM.from_pretrained(folder, **{key: dtype}).eval()
    with torch.inference_mode():
        return model(IDS).logits.float()


def path_logits(folder: Path, path: str, arithmetic: str = "int8") -> torch.Tensor:
    with torch.inference_mode():
        return load_model(str(folder), path, arithmetic=arithmetic)(IDS).logits.float()


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_fp32_gives_transformers_own_logits(
    make_llama: Callable[..., Path], tied: bool, bias: bool
) -> None:
    folder = make_llama(tied=tied, bias=bias)
    assert torch.equal(path_logits(folder, "fp32"), plain_logits(folder))


@pytest.mark.parametrize(("path", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_half_precision_gives_transformers_own_logits(
    tiny_llama: Path, path: str, dtype: torch.dtype
) -> None:
    torch.testing.assert_close(path_logits(tiny_llama, path), plain_logits(tiny_llama, dtype))


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("path", ["int8", "int8-g128", "int4-g32", "int4-row-asym", "unfused-int4"])
def test_quantised_paths_equal_a_model_of_their_dequantised_weights(
    make_llama: Callable[..., Path], path: str, tied: bool
) -> None:
    """The reference holds quantize(...).dequantize() in plain torch, so only arithmetic differs."""
    folder = make_llama(tied=tied, bias=True)
    reference = _dequantised_reference(folder, path)
    exact = path_logits(folder, path, "exact")
    torch.testing.assert_close(exact, reference, rtol=1e-4, atol=1e-4 * reference.abs().max())
    rounded = path_logits(folder, path, "int8")
    relative = (rounded - reference).norm() / reference.norm()
    # Rounding to 127 steps costs about 0.7% a layer and 14 layers add up; a wrong scale, 100%.
    assert relative < 0.1
    if path != "unfused-int4":
        assert relative > 1e-5, "int8 activations cannot be this exact: did they run?"


def _dequantised_reference(folder: Path, path: str) -> torch.Tensor:
    from transformers import AutoModelForCausalLM

    from sllmbench import quantize

    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    layer_format = "int4-g32" if path == "unfused-int4" else path
    for name, linear in model.named_modules():
        if not isinstance(linear, torch.nn.Linear):
            continue
        if name == "lm_head" and path == "unfused-int4":
            continue
        form = "int8" if name == "lm_head" else layer_format
        linear.weight.data.copy_(torch.from_numpy(quantize(linear.weight, form).dequantize()))
    with torch.inference_mode():
        return model(IDS).logits


def test_a_tied_embedding_is_held_once(make_llama: Callable[..., Path]) -> None:
    tied = load_model(str(make_llama(tied=True)), "int4-g32")
    untied = load_model(str(make_llama(tied=False)), "int4-g32")
    assert isinstance(tied.get_input_embeddings(), TiedEmbedding)
    with torch.inference_mode():
        tied(IDS), untied(IDS)
    assert describe(tied).lm_head == "int8, tied to the embedding"
    assert describe(untied).lm_head == "int8; embedding float32"
    assert describe(untied).weights_bytes - describe(tied).weights_bytes == 512 * 96 * 4
    assert describe(untied).n_params - describe(tied).n_params == 512 * 96


def test_describe_names_what_ran_layer_by_layer(tiny_llama: Path) -> None:
    model = load_model(str(tiny_llama), "int4-g32")
    with pytest.raises(ValueError, match="no layer has run"):
        describe(model).summary()
    with torch.inference_mode():
        model(IDS)
        model(IDS[:, :1])
    facts = describe(model)
    heads = [names for use, names in facts.layers.items() if use.format == "int8"]
    assert heads
    assert all(names == ("lm_head",) for names in heads)
    assert facts.summary().kernel == "fused-gemm+fused-gemv"
    assert facts.summary().format == "int4-g32"


def test_it_generates(tiny_llama: Path) -> None:
    model = load_model(str(tiny_llama), "int8", arithmetic="exact")
    with torch.inference_mode():
        out = model.generate(IDS[:, :5], max_new_tokens=4, do_sample=False)
    assert out.shape == (1, 9)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("path", ["fp32", "bf16", "int8", "int4-g32", "unfused-int4"])
def test_the_estimate_is_near_what_is_held(
    make_llama: Callable[..., Path], path: str, tied: bool
) -> None:
    checkpoint = open_checkpoint(str(make_llama(tied=tied)))
    held = describe(load_model(checkpoint, path)).weights_bytes
    assert 0.7 * held < estimate_bytes(checkpoint, paths.resolve(path)) < 1.3 * held


@pytest.mark.parametrize(
    ("path", "says"),
    [("fp64", "unknown path 'fp64'"), ("gguf", "not a GGUF file"), ("int4-g16", "unknown path")],
)
def test_paths_that_cannot_run_are_refused(tiny_llama: Path, path: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        load_model(str(tiny_llama), path)


def test_torch_int4pack_says_which_shape_does_not_fit(tiny_llama: Path) -> None:
    with pytest.raises(
        InputError, match=r"torch:int4pack-g64 needs model\.layers\.0.*groups of 64"
    ):
        load_model(str(tiny_llama), "torch:int4pack-g64")


def test_a_missing_tensor_and_a_wrong_shape_are_named(make_llama: Callable[..., Path]) -> None:
    from safetensors.torch import load_file, save_file

    folder = make_llama()
    tensors = load_file(folder / "model.safetensors")
    norm = "model.norm.weight"
    save_file({k: v for k, v in tensors.items() if k != norm}, folder / "model.safetensors")
    with pytest.raises(InputError, match=r"lacks the tensor model\.norm\.weight"):
        load_model(str(folder))
    save_file(tensors | {norm: torch.ones(95)}, folder / "model.safetensors")
    with pytest.raises(InputError, match=r"model\.norm\.weight is \[95\].*asks for \[96\]"):
        load_model(str(folder))


def test_a_model_whose_matrices_are_in_no_linear_layer_is_not_called_quantised(
    tmp_path: Path,
) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(vocab_size=64, n_positions=32, n_embd=32, n_layer=1, n_head=2)
    GPT2LMHeadModel(config).save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"c_attn\.weight is not in a linear layer"):
        load_model(str(tmp_path), "int4-g32")
    ids = torch.arange(8)[None]
    with torch.inference_mode():
        reference = GPT2LMHeadModel.from_pretrained(tmp_path).eval()(ids).logits
        assert torch.equal(load_model(str(tmp_path), "fp32")(ids).logits, reference)


def test_a_model_that_is_no_causal_language_model_is_refused_in_one_line(tmp_path: Path) -> None:
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(vocab_size=64, d_model=32, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
    T5ForConditionalGeneration(config).save_pretrained(tmp_path)
    with pytest.raises(InputError, match="is no causal language model") as caught:
        required_tensors(open_checkpoint(str(tmp_path)), ["fp32"])
    assert "\n" not in str(caught.value)


def test_what_loading_reads_is_known_without_reading(make_llama: Callable[..., Path]) -> None:
    from safetensors.torch import load_file, save_file

    folder = make_llama(tied=True)
    tensors = load_file(folder / "model.safetensors")
    extra = {"model.position_ids": torch.arange(4)}
    save_file(tensors | extra, folder / "model.safetensors")
    checkpoint = open_checkpoint(str(folder))
    assert set(required_tensors(checkpoint, ["int8"])) == set(tensors)
    with torch.inference_mode():
        load_model(checkpoint, "int8")(IDS)


def test_zero_threads_are_refused(tiny_llama: Path) -> None:
    with pytest.raises(InputError, match="threads must be at least 1"):
        load_model(str(tiny_llama), threads=0)
