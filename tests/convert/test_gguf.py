"""GGUF files written: against llama-quantize's types, llama.cpp's logits and transformers."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from sllmbench.checkpoints import open_checkpoint
from sllmbench.checkpoints.gguf_header import read_header
from sllmbench.convert.gguf import GgufSummary, plan, write_gguf
from sllmbench.convert.gguf_mixes import FILE_TYPES, file_type_number
from sllmbench.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

llama_cpp = pytest.importorskip("llama_cpp")

SIZES = {
    "vocab_size": 512,
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.1,
}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
MODELS: dict[str, dict[str, Any]] = {
    "tied, with biases": {"attention_bias": True, "tie_word_embeddings": True},
    "wide heads": {"head_dim": 64},
    "llama3": {"rope_theta": 500000.0, "rope_scaling": LLAMA3},
    "linear": {"rope_scaling": {"rope_type": "linear", "factor": 4.0}},
    "qwen2": {"tie_word_embeddings": True},
}


def save(folder: Path, kind: str = "llama", **changed: Any) -> Path:
    torch.manual_seed(3)
    config: Any = (Qwen2Config if kind == "qwen2" else LlamaConfig)(**(SIZES | changed))
    net = (Qwen2ForCausalLM if kind == "qwen2" else LlamaForCausalLM)(config)
    for name, value in net.named_parameters():
        if name.endswith(".bias"):  # they begin as zeros, which any order equals
            torch.nn.init.normal_(value, std=0.3)
    net.save_pretrained(folder)
    return folder


def logits(file: Path, ids: list[int]) -> NDArray[np.float32]:
    """llama.cpp's, its cache in float32."""
    model = llama_cpp.Llama(
        str(file), n_ctx=256, logits_all=True, verbose=False, type_k=0, type_v=0, flash_attn=False
    )
    try:
        model.eval(ids)
        return model.scores[: len(ids)].copy()
    finally:
        model.close()


@pytest.fixture(scope="module")
def model_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    return lambda *kind, **changed: save(tmp_path_factory.mktemp("model"), *kind, **changed)


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLLMBENCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.mark.parametrize("name", MODELS)
def test_llama_cpp_gives_transformers_logits(
    name: str, model_of: Callable[..., Path], tmp_path: Path
) -> None:
    folder = model_of(name, **MODELS[name])
    out = tmp_path / "model.gguf"
    summary = write_gguf(open_checkpoint(str(folder)), out, "F32")
    assert summary.tokenizer.startswith("none: ")
    ids = np.random.default_rng(0).integers(0, 512, 200).tolist()
    with torch.inference_mode():
        net = AutoModelForCausalLM.from_pretrained(folder)
        expected = net(torch.tensor([ids])).logits[0].numpy()
    np.testing.assert_allclose(logits(out, ids), expected, atol=1e-3)


@pytest.mark.parametrize("name", ["tied, with biases", "qwen2"])
def test_what_is_written_is_read_back(
    name: str, model_of: Callable[..., Path], tmp_path: Path
) -> None:
    source = open_checkpoint(str(model_of(name, **MODELS[name])))
    out = tmp_path / "model.gguf"
    summary = write_gguf(source, out, "q4_k_m")
    again = open_checkpoint(str(out))
    assert again.quantized_unavailable is None
    errors = {tensor.name: tensor.relative_error for tensor in summary.tensors}
    assert set(errors) == set(again.shapes()) == set(source.shapes())
    for tensor, error in errors.items():
        weight, values = source.tensor(tensor).astype(np.float64), again.tensor(tensor)
        assert np.linalg.norm(values - weight) == pytest.approx(
            error * np.linalg.norm(weight), rel=1e-4, abs=1e-12
        )
        stored = again.quantized(tensor)
        if stored is not None:
            np.testing.assert_array_equal(stored.dequantize(), values)
    assert summary.nbytes == sum(t.nbytes for t in read_header(out).tensors.values())
    assert summary.worst(1)[0].relative_error == max(errors.values())


def llama_quantize(source: Path, out: Path, mix: str) -> dict[str, str]:
    """The block types of llama.cpp's own quantisation of a file."""
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = file_type_number(mix)
    assert llama_cpp.llama_model_quantize(str(source).encode(), str(out).encode(), params) == 0
    return {name: tensor.block_type for name, tensor in read_header(out).tensors.items()}


@pytest.mark.parametrize(
    "changed",
    [
        pytest.param({"num_hidden_layers": 16}, marks=pytest.mark.slow),
        pytest.param(
            {"num_hidden_layers": 16, "num_key_value_heads": 4, "tie_word_embeddings": True},
            marks=pytest.mark.slow,
        ),
        # Rows of 96 are in no whole block of 256.
        {"num_hidden_layers": 9, "hidden_size": 96, "tie_word_embeddings": True},
    ],
    ids=["untied", "tied", "odd"],
)
def test_types_are_llama_quantizes(
    changed: dict[str, Any], model_of: Callable[..., Path], tmp_path: Path
) -> None:
    small = {"intermediate_size": changed.get("hidden_size", 256), "vocab_size": 64}
    checkpoint = open_checkpoint(str(model_of(**small, **changed)))
    floats = tmp_path / "f32.gguf"
    write_gguf(checkpoint, floats, "F32")
    for mix in FILE_TYPES:
        expected = llama_quantize(floats, tmp_path / "theirs.gguf", mix)
        found = {
            tensor.stored: tensor.block_type for tensor, _ in plan(checkpoint, mix, weighted=False)
        }
        # The one type of llama.cpp's choice that is not written here; Q4_0 has its size.
        expected = {name: "Q4_0" if kind == "IQ4_NL" else kind for name, kind in expected.items()}
        assert found == expected, mix
        assert read_header(tmp_path / "theirs.gguf").metadata["general.file_type"] == (
            file_type_number(mix)
        )


def test_replaced_types_are_told(model_of: Callable[..., Path], tmp_path: Path) -> None:
    checkpoint = open_checkpoint(
        str(model_of(hidden_size=96, intermediate_size=200, tie_word_embeddings=True))
    )
    summary = write_gguf(checkpoint, tmp_path / "out.gguf", "Q4_K_M")
    # 200 is in no block of 32 either; the second layer of two is among the favoured.
    assert summary.replaced == {
        "Q4_K → Q5_0": 11,
        "Q6_K → Q8_0": 2,
        "Q4_K → F16": 1,
        "Q6_K → F16": 1,
    }
    assert summary.counts == {"Q5_0": 11, "F32": 5, "Q8_0": 2, "F16": 2}


def test_importance_is_used(model_of: Callable[..., Path], tmp_path: Path) -> None:
    checkpoint = open_checkpoint(str(model_of(tie_word_embeddings=True)))
    name = "model.layers.0.mlp.down_proj.weight"
    rng = np.random.default_rng(1)
    importance = {
        name: rng.lognormal(0, 2, 512).astype(np.float32),
        "lm_head.weight": np.ones(256, np.float32),
    }

    def error(summary: GgufSummary, out: Path) -> float:
        wrong = open_checkpoint(str(out)).tensor(name) - checkpoint.tensor(name)
        return float((np.square(wrong.astype(np.float64)) @ importance[name]).sum())

    plain, weighed = tmp_path / "plain.gguf", tmp_path / "weighed.gguf"
    without = error(write_gguf(checkpoint, plain, "Q3_K_S"), plain)
    summary = write_gguf(checkpoint, weighed, "Q3_K_S", importance)
    assert summary.weighted
    assert error(summary, weighed) < 0.8 * without


def test_what_is_refused(model_of: Callable[..., Path], tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    checkpoint = open_checkpoint(str(model_of()))
    for arguments, message in (
        (("Q9_K",), "unknown GGUF type 'Q9_K'; the types are F32, F16"),
        (("Q4_0", {"nothing": np.ones(3, np.float32)}), "no tensor of this model"),
        (
            ("Q4_0", {"lm_head.weight": np.ones(3, np.float32)}),
            r"importance of lm_head.weight is \[3\], its weight \[512, 256\]",
        ),
    ):
        with pytest.raises(InputError, match=message):
            write_gguf(checkpoint, out, *arguments)
    with pytest.raises(InputError, match="gemma3_text models cannot be written as GGUF"):
        write_gguf(open_checkpoint("random:gemma-3-1b"), out, "Q4_0")
    yarn = {"rope_type": "yarn", "factor": 4.0}
    stretched = open_checkpoint(str(model_of(rope_scaling=yarn)))
    with pytest.raises(InputError, match="rotary embedding of type 'yarn' cannot be written"):
        write_gguf(stretched, out, "Q4_0")
    with pytest.raises(InputError, match="cannot write"):
        write_gguf(checkpoint, tmp_path / "no folder" / "out.gguf", "F32")
    assert not list(tmp_path.iterdir())


def test_a_file_that_was_there_stays_until_the_new_one_is_whole(
    model_of: Callable[..., Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(model_of(), tmp_path / "model"))
    checkpoint = open_checkpoint(str(folder))
    out = tmp_path / "out.gguf"
    out.write_bytes(b"before")
    weights = folder / "model.safetensors"
    checkpoint.shapes()
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(InputError):
        write_gguf(checkpoint, out, "F16")
    assert out.read_bytes() == b"before"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "out.gguf"]
