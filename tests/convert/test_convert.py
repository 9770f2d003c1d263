"""Whole models quantised: what stands in the folder, errors, and kills at any moment."""

from __future__ import annotations

import fcntl
import filecmp
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from gguf import GGUFReader

from sllmbench import load_model, quantize
from sllmbench.checkpoints import open_checkpoint
from sllmbench.convert import quantize_model
from sllmbench.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sllmbench.convert import Summary

SMALL: dict[str, Any] = {"samples": 8, "sequence_length": 32}
IDS = torch.arange(24).reshape(1, -1) * 7 % 512


def convert(model: Path, out: Path, words: Path, **options: Any) -> Summary:
    return quantize_model(
        str(model), out, **{"calibration": str(words), "group_size": 32, **SMALL, **options}
    )


def logits(folder: Path) -> torch.Tensor:
    with torch.inference_mode():
        return load_model(str(folder))(IDS).logits


@pytest.mark.parametrize("calibrated", [True, False])
def test_rounding_gives_the_quantisers_own_values(
    tiny_llama: Path, words: Path, tmp_path: Path, calibrated: bool
) -> None:
    text = str(words) if calibrated else None
    told = convert(tiny_llama, tmp_path / "out", words, method="rtn", to="hf", calibration=text)
    source, made = (open_checkpoint(str(folder)) for folder in (tiny_llama, tmp_path / "out"))
    linears = {linear.name: linear for linear in told.linears}
    for name in source.shapes():
        weight, values = source.tensor(name), made.tensor(name)
        linear = linears.pop(name.removesuffix(".weight"), None)
        if linear is None:
            np.testing.assert_array_equal(values, weight)
            continue
        np.testing.assert_array_equal(values, quantize(weight, "int4-g32").dequantize())
        off = np.linalg.norm(values - weight) / np.linalg.norm(weight)
        same = linear.relative_error == pytest.approx(off, rel=1e-4)
        assert same != calibrated, "with a text the error is that of the outputs"
    assert not linears
    assert told.error_of == ("outputs" if calibrated else "weights")


@pytest.mark.parametrize("kind", ["gptq", "gptq_v2", "compressed-tensors"])
@pytest.mark.parametrize("method", ["rtn", "gptq"])
def test_every_kind_of_folder_holds_the_same_weights(
    tiny_llama: Path, words: Path, tmp_path: Path, method: str, kind: str
) -> None:
    for to in (kind, "hf"):
        convert(tiny_llama, tmp_path / to, words, method=method, to=to)
    quantised, floats = (open_checkpoint(str(tmp_path / to)) for to in (kind, "hf"))
    for name in quantised.shapes():
        np.testing.assert_array_equal(quantised.tensor(name), floats.tensor(name))
    assert quantised.quantized("model.layers.1.mlp.down_proj.weight") is not None
    assert quantised.quantized("model.embed_tokens.weight") is None


def test_gptq_with_ordered_channels_is_read_back(
    tiny_llama: Path, words: Path, tmp_path: Path
) -> None:
    for to in ("gptq", "hf"):
        convert(tiny_llama, tmp_path / to, words, to=to, desc_act=True, sym=False)
    stored = open_checkpoint(str(tmp_path / "gptq")).quantized("model.layers.0.mlp.up_proj.weight")
    assert stored is not None
    assert stored.order is not None
    torch.testing.assert_close(logits(tmp_path / "gptq"), logits(tmp_path / "hf"))


def uneven(folder: Path) -> Path:
    """Make some channels far larger than others, as they are in models that were trained."""
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    torch.manual_seed(4)
    for name, values in tensors.items():
        if "norm" in name or any(part in name for part in ("up_proj", "v_proj")):
            rows = torch.exp(torch.randn(len(values)))
            tensors[name] = values * (rows[:, None] if values.ndim == 2 else rows)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize("kv_heads", [2, 4])
def test_awq_moves_factors_without_changing_the_model(
    make_llama: Callable[..., Path], words: Path, tmp_path: Path, kv_heads: int
) -> None:
    """At 8 bits only a factor taken out and not put back could be seen in the logits."""
    folder = uneven(make_llama(kv_heads=kv_heads, bias=True))
    convert(folder, tmp_path / "awq", words, method="awq", bits=8, sym=True, to="hf")
    convert(folder, tmp_path / "rtn", words, method="rtn", bits=8, sym=True, to="hf")
    source, made = (open_checkpoint(str(one)) for one in (folder, tmp_path / "awq"))
    norm = "model.layers.0.input_layernorm.weight"
    assert not np.allclose(source.tensor(norm), made.tensor(norm), rtol=0.05)
    values = "model.layers.0.self_attn.v_proj.weight"
    rows = [np.linalg.norm(one.tensor(values) * one.tensor(norm), axis=1) for one in (source, made)]
    assert (not np.allclose(*rows, rtol=0.05)) == (kv_heads == 4)
    expected = logits(folder)
    off, off_rounded = (
        float((logits(tmp_path / one) - expected).norm() / expected.norm())
        for one in ("awq", "rtn")
    )
    assert off < 3 * off_rounded + 1e-3


def test_awqs_norms_lose_nothing_by_their_stored_type(
    make_llama: Callable[..., Path], words: Path, tmp_path: Path
) -> None:
    """A norm is rounded to its type first, and the columns take exactly what it lost."""
    from transformers import AutoModelForCausalLM

    norm, linear = "model.layers.0.input_layernorm.weight", "model.layers.0.self_attn.q_proj.weight"
    off = {}
    for stored in (torch.float32, torch.bfloat16):
        folder = uneven(make_llama())
        net = AutoModelForCausalLM.from_pretrained(folder).bfloat16().to(stored)
        net.save_pretrained(folder)
        made = tmp_path / str(stored)
        convert(folder, made, words, method="awq", bits=8, sym=True, to="gptq", group_size=8)
        before, after = (open_checkpoint(str(one)) for one in (folder, made))
        assert after.float_type(norm) == str(stored).removeprefix("torch.")
        whole = before.tensor(linear) * before.tensor(norm)
        off[stored] = np.linalg.norm(after.tensor(linear) * after.tensor(norm) - whole)
    assert off[torch.bfloat16] == pytest.approx(off[torch.float32], rel=0.03)


def test_awqs_error_is_that_of_the_scaled_layer(
    tiny_llama: Path, words: Path, tmp_path: Path
) -> None:
    told = convert(tiny_llama, tmp_path / "awq", words, method="awq")
    assert told.kind == "awq"
    assert told.settings["sym"] is False
    assert 0.02 < told.worst(1)[0].relative_error < 0.3


def test_true_sequential_gives_a_linear_what_the_quantised_ones_before_it_give(
    tiny_llama: Path, words: Path, tmp_path: Path
) -> None:
    """Of the first layer q, k and v are alike in both; all after them see other inputs."""
    for way in (True, False):
        convert(tiny_llama, tmp_path / str(way), words, to="hf", true_sequential=way, bits=3)
    one, other = (open_checkpoint(str(tmp_path / str(way))) for way in (True, False))
    for name in (name for name in one.shapes() if ".layers.0." in name and "proj" in name):
        same = np.array_equal(one.tensor(name), other.tensor(name))
        assert same == any(part in name for part in ("q_proj", "k_proj", "v_proj")), name


def test_a_gguf_weighs_errors_by_the_text(tiny_llama: Path, words: Path, tmp_path: Path) -> None:
    for name, text in (("plain", None), ("weighed", str(words))):
        told = quantize_model(
            str(tiny_llama), tmp_path / f"{name}.gguf", to="Q4_0", calibration=text, **SMALL
        )
        assert told.kind == "Q4_0"
        assert (told.calibration is None) == (text is None)
    plain, weighed = (
        {part.name: part.data for part in GGUFReader(tmp_path / f"{name}.gguf").tensors}
        for name in ("plain", "weighed")
    )
    assert not np.array_equal(plain["blk.0.ffn_up.weight"], weighed["blk.0.ffn_up.weight"])
    assert np.array_equal(plain["output_norm.weight"], weighed["output_norm.weight"])


# A process that converts and is killed as it begins to say what it is told to wait for.
KILLED = """
import os, signal, sys
from sllmbench.convert import quantize_model

model, out, text, method, threads, at, fraction = sys.argv[1:]

def progress(what, done):
    if what.startswith(at) and (done or 0) >= float(fraction):
        os.kill(os.getpid(), signal.SIGKILL)

quantize_model(
    model, out, calibration=text, method=method, group_size=32,
    samples=8, sequence_length=32, threads=int(threads), progress=progress,
)
"""


@pytest.mark.parametrize(
    ("method", "moments"),
    [("gptq", [("layer 2 of 3", 0.5, 1), ("writing", 0, 3)]), ("awq", [("layer 3 of 3", 0.7, 2)])],
)
def test_a_killed_conversion_goes_on_and_ends_bit_identical(
    make_llama: Callable[..., Path],
    words: Path,
    tmp_path: Path,
    method: str,
    moments: list[tuple[str, float, int]],
) -> None:
    folder, out, whole = make_llama(layers=3), tmp_path / "out", tmp_path / "whole"
    convert(folder, whole, words, method=method)
    threads = torch.get_num_threads()  # sums of another number of threads round otherwise
    for at, fraction, kept in moments:
        given = [str(folder), str(out), str(words), method, str(threads), at, str(fraction)]
        ran = subprocess.run([sys.executable, "-P", "-c", KILLED, *given], check=False)
        assert ran.returncode == -signal.SIGKILL
        assert not out.exists()
        assert len(list((tmp_path / "out.partial").glob("layer-*.safetensors"))) == kept
    told = convert(folder, out, words, method=method)
    assert told.resumed_layers == moments[-1][2]
    assert not (tmp_path / "out.partial").exists()
    names = sorted(file.name for file in whole.iterdir())
    assert sorted(file.name for file in out.iterdir()) == names
    assert filecmp.cmpfiles(whole, out, names, shallow=False)[0] == names


def interrupt(folder: Path, out: Path, words: Path, **options: Any) -> None:
    """Convert one layer and stop."""

    def progress(what: str, fraction: float | None) -> None:
        if what.startswith("layer 2"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(folder, out, words, progress=progress, **options)


def test_layers_of_another_conversion_are_refused_or_thrown_away_aloud(
    tiny_llama: Path, words: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    interrupt(tiny_llama, out, words, method="rtn", to="gptq")
    with pytest.raises(InputError, match=r"another conversion \(bits 4 there, 8 here\).*overwrite"):
        convert(tiny_llama, out, words, method="rtn", to="gptq", bits=8)
    told = convert(tiny_llama, out, words, method="rtn", to="gptq", bits=8, overwrite=True)
    assert (told.restarted, told.resumed_layers) == (True, 0)
    assert open_checkpoint(str(out)).stored_format("model.layers.0.mlp.up_proj.weight").bits == 8


def test_the_same_conversion_goes_on_even_to_another_kind(
    tiny_llama: Path, words: Path, tmp_path: Path
) -> None:
    interrupt(tiny_llama, tmp_path / "out", words, to="gptq")
    told = convert(tiny_llama, tmp_path / "out", words, to="compressed-tensors", overwrite=True)
    assert (told.restarted, told.resumed_layers) == (False, 1)


def test_other_weights_under_the_same_name_are_noticed(
    make_llama: Callable[..., Path], words: Path, tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    folder = make_llama()
    interrupt(folder, tmp_path / "out", words)
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.0.mlp.up_proj.weight"][0, 0] += 1
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"has changed since model\.layers\.0 was quantised"):
        convert(folder, tmp_path / "out", words)


def test_a_corrupt_layer_is_named(tiny_llama: Path, words: Path, tmp_path: Path) -> None:
    interrupt(tiny_llama, tmp_path / "out", words)
    file = tmp_path / "out.partial" / "layer-0000.safetensors"
    os.truncate(file, file.stat().st_size - 10)
    with pytest.raises(InputError, match=r"layer-0000\.safetensors is corrupt .*; delete it"):
        convert(tiny_llama, tmp_path / "out", words)


def test_two_processes_do_not_make_the_same(tiny_llama: Path, words: Path, tmp_path: Path) -> None:
    (tmp_path / "out.partial").mkdir()
    with (tmp_path / "out.partial" / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(InputError, match="another process is making"):
            convert(tiny_llama, tmp_path / "out", words)


def test_what_stands_there_is_replaced_when_it_is_asked_for_alone(
    tiny_llama: Path, words: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine").write_text("kept")
    with pytest.raises(InputError, match=r"out exists already; add --overwrite"):
        convert(tiny_llama, out, words, method="rtn")
    assert (out / "mine").exists()
    convert(tiny_llama, out, words, method="rtn", overwrite=True)
    assert not (out / "mine").exists()
    assert (out / "config.json").exists()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"to": "onnx"}, "nothing is written as 'onnx'; --to is one of gptq,"),
        ({"to": "Q4_K_M", "method": "gptq"}, "takes no method"),
        ({"to": "Q4_K_M", "bits": 3}, "takes no bits"),
        ({"method": "rtn", "desc_act": True}, "desc_act is a setting of gptq"),
        ({"method": "awq", "mse_clip": True}, "awq searches its own clipping"),
        ({"bits": 7}, "no quantiser makes 7 bits"),
        ({"damp_percent": 0.0}, "damp_percent must lie between 0 and 1"),
        ({"group_size": 0}, "group_size must be positive"),
        ({"method": "awq", "bits": 8, "sym": True}, "cannot be written as awq"),
        ({"desc_act": True, "to": "awq", "sym": False}, "cannot be written as awq"),
        ({"threads": 0}, "threads must be at least 1"),
    ],
)
def test_what_cannot_be_is_refused_before_any_layer(
    tiny_llama: Path, words: Path, tmp_path: Path, options: dict[str, Any], says: str
) -> None:
    given = {"group_size": 32, **options}
    if given.get("to") == "Q4_K_M":
        del given["group_size"]
    with pytest.raises(InputError, match=says):
        quantize_model(str(tiny_llama), tmp_path / "out", calibration=str(words), **SMALL, **given)
    assert not list(tmp_path.iterdir())


def test_random_weights_are_rounded_without_a_text(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no calibration with random:"):
        quantize_model("random:qwen2.5-0.5b", tmp_path / "out")


@pytest.mark.slow
def test_gptq_beats_rounding_at_3_bits_on_the_real_model(tmp_path: Path) -> None:
    from sllmbench import assets
    from sllmbench.measure.quality.perplexity import evaluate
    from sllmbench.runners.transformers import TransformersRunner

    checkpoint = open_checkpoint("smollm2-135m")
    tokens = checkpoint.tokenizer()(assets.text("openwebtext"), verbose=False)["input_ids"]
    perplexity = {}
    for method in ("rtn", "gptq"):
        quantize_model(
            checkpoint, tmp_path / method, method=method, bits=3, group_size=64, samples=8, to="hf"
        )
        runner = TransformersRunner(load_model(str(tmp_path / method)))
        ids = torch.tensor(tokens[:2048])
        scored = evaluate(runner, ids, text_name="openwebtext", context=512)
        perplexity[method] = scored.perplexity
    assert perplexity["gptq"] < 0.8 * perplexity["rtn"]
