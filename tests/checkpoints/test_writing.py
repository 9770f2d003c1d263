"""Folders that are written: bit for bit what was given, and read by the libraries they are for."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from sllmbench import load_model, quantize
from sllmbench.checkpoints import Checkpoint, open_checkpoint
from sllmbench.checkpoints.packed import PackedTensors, from_packed, to_packed
from sllmbench.checkpoints.random import RandomCheckpoint
from sllmbench.checkpoints.writing import write_folder
from sllmbench.errors import InputError
from sllmbench.formats import QuantTensor

if TYPE_CHECKING:
    from pathlib import Path

Tensors = Iterator[tuple[str, Any]]
UP = "model.layers.0.mlp.up_proj.weight"


@pytest.fixture(scope="module")
def source(tiny_llama: Path) -> Checkpoint:
    return open_checkpoint(str(tiny_llama))


def tensors(source: Checkpoint, layout: str | None, act_order: bool = False) -> Tensors:
    """The model's, its linears as ``layout``."""
    rng = np.random.default_rng(5)
    for name in source.shapes():
        weight = source.tensor(name)
        if layout is None or "_proj" not in name or weight.ndim == 1:
            yield name, weight
            continue
        quantised = quantize(weight, layout)
        order = np.sort(rng.permutation(quantised.k).reshape(-1, 32), axis=1)  # as it is read
        yield (
            name,
            replace(quantised, order=order.reshape(-1).astype(np.int32))
            if (act_order)
            else quantised,
        )


def written(folder: Path, source: Checkpoint, kind: Any, layout: str | None, **how: Any) -> Path:
    write_folder(folder, source, tensors(source, layout), kind, {}, **how)
    return folder


CASES = [
    ("gptq", "int4-g32", "GPTQ 4-bit g32"),
    ("gptq", "int4-g64", "GPTQ 4-bit g64"),
    ("gptq", "int4-row-asym", "GPTQ 4-bit row asymmetric"),
    ("gptq_v2", "int4-g32-asym", "GPTQ 4-bit g32 asymmetric v2"),
    ("gptq", "int8-g128", "GPTQ 8-bit g128"),
    ("awq", "int4-g32-asym", "AWQ 4-bit g32"),
    ("awq", "int4-row-asym", "AWQ 4-bit row"),
    ("compressed-tensors", "int4-g32", "compressed-tensors 4-bit g32"),
    ("compressed-tensors", "int4-g32-asym", "compressed-tensors 4-bit g32 asymmetric"),
    ("compressed-tensors", "int8", "compressed-tensors 8-bit row"),
]


@pytest.mark.parametrize(("kind", "layout", "said"), CASES)
@pytest.mark.parametrize("shard_bytes", [1 << 30, 40_000])
def test_what_was_written_comes_back_bit_for_bit(
    tmp_path: Path, source: Checkpoint, kind: Any, layout: str, said: str, shard_bytes: int
) -> None:
    folder = written(tmp_path / "out", source, kind, layout, shard_bytes=shard_bytes)
    assert (folder / "model.safetensors").exists() == (shard_bytes > 40_000)
    back = open_checkpoint(str(folder))
    assert back.shapes() == source.shapes()
    assert back.provenance == f"{said}, dequantised"
    for name, tensor in tensors(source, layout):
        stored = back.quantized(name)
        if not isinstance(tensor, QuantTensor):
            assert stored is None
            np.testing.assert_array_equal(back.tensor(name), tensor)
            continue
        assert stored is not None
        assert stored.format == tensor.format == back.stored_format(name)
        for what in ("codes", "scales", "offsets"):
            np.testing.assert_array_equal(getattr(stored, what), getattr(tensor, what), what)
        values = tensor._values().astype(np.float32)  # the float64 oracle
        np.testing.assert_array_equal(back.tensor(name), values)
        np.testing.assert_array_equal(back.rows(name, 3, 7), values[3:7])
        assert back.rows(name, 2, 2).shape == (0, tensor.k)


@pytest.mark.parametrize(
    ("kind", "layout"),
    [
        ("gptq", "int2-g64"),
        ("gptq", "int3-g32-asym"),
        ("gptq_v2", "int3-row"),
        ("gptq", "int8-g64-asym"),
        ("compressed-tensors", "int2-g32-asym"),
        ("compressed-tensors", "int3-g32"),
    ],
)
def test_other_widths_come_back(
    tmp_path: Path, make_llama: Callable[..., Path], kind: Any, layout: str
) -> None:
    source = open_checkpoint(str(make_llama(hidden=128)))
    back = open_checkpoint(str(written(tmp_path / "out", source, kind, layout)))
    for name, tensor in tensors(source, layout):
        if isinstance(tensor, QuantTensor):
            stored = back.quantized(name)
            assert stored is not None
            assert stored.format == tensor.format
            np.testing.assert_array_equal(stored.codes, tensor.codes)
            np.testing.assert_array_equal(back.tensor(name), tensor.dequantize())
    assert (back.quantized_unavailable is None) == (layout != "int8-g64-asym")


def test_act_order_comes_back_and_every_path_follows_it(tmp_path: Path, source: Checkpoint) -> None:
    import torch

    folder = tmp_path / "out"
    ordered = tensors(source, "int4-g32", act_order=True)
    write_folder(folder, source, ordered, "gptq", {"desc_act": True, "damp_percent": 0.05})
    back = open_checkpoint(str(folder))
    assert back.provenance == "GPTQ 4-bit g32 desc_act, dequantised"
    for name, tensor in tensors(source, "int4-g32", act_order=True):
        if isinstance(tensor, QuantTensor):
            np.testing.assert_array_equal(back.quantized(name).order, tensor.order)  # type: ignore[union-attr]
            np.testing.assert_array_equal(back.tensor(name), tensor.dequantize())
    config = json.loads((folder / "quantize_config.json").read_text())
    assert (config["desc_act"], config["damp_percent"], config["bits"]) == (True, 0.05, 4)
    ids = torch.arange(1, 30)[None]
    with torch.no_grad():
        expected = load_model(back, "fp32")(ids).logits
        close = ("gptq", "unfused-gptq", "unfused-int4")
        for path, tolerance in (*((name, 1e-4) for name in close), ("int4-g32", 0.5)):
            got = load_model(back, path, arithmetic="exact")(ids).logits
            assert (got - expected).abs().max() < tolerance, path


@pytest.mark.parametrize(("kind", "layout"), [("gptq", "int4-g64"), ("awq", "int4-g32-asym")])
def test_paths_multiply_what_is_stored(
    tmp_path: Path, source: Checkpoint, kind: Any, layout: str
) -> None:
    from sllmbench.paths import default_paths, resolve

    back = open_checkpoint(str(written(tmp_path / "out", source, kind, layout)))
    expected = back.quantized(UP)
    assert expected is not None
    for path in (kind, layout):
        layer = resolve(path).linear(back, UP, None)
        rows = layer._weight.dequantize_rows(np.arange(layer.out_features))  # type: ignore[attr-defined]
        np.testing.assert_array_equal(rows, expected.dequantize())
    unfused = resolve(f"unfused-{kind}").linear(back, UP, None)
    np.testing.assert_allclose(unfused._expanded().numpy(), expected.dequantize(), rtol=1e-6)  # type: ignore[attr-defined]
    assert kind in default_paths(back)
    other = {"gptq": "awq", "awq": "gptq"}[kind]
    assert f"not a {other.upper()} folder" in str(resolve(f"unfused-{other}").unsupported(back))
    assert f"not a {other.upper()} folder" in str(resolve(other).unsupported(back))
    assert "not a GGUF file" in str(resolve("gguf").unsupported(back))


@pytest.mark.parametrize("kind", ["gptq", "awq", "compressed-tensors", "hf"])
def test_transformers_reads_the_configuration_and_the_tokenizer(
    tmp_path: Path, source: Checkpoint, kind: str
) -> None:
    from transformers import AutoConfig, AutoTokenizer

    layout = None if kind == "hf" else "int4-g32-asym"
    folder = written(tmp_path / "out", source, kind, layout)
    config = AutoConfig.from_pretrained(folder)
    said = getattr(config, "quantization_config", {"quant_method": "hf"})
    assert said["quant_method"] == kind
    for key in ("hidden_size", "rope_parameters", "tie_word_embeddings", "vocab_size"):
        assert getattr(config, key) == getattr(source.config(), key)
    raw = json.loads((folder / "config.json").read_text())
    assert (raw["rope_theta"], raw["rope_scaling"], raw["torch_dtype"]) == (1e4, None, "float32")
    assert raw["architectures"] == ["LlamaForCausalLM"]
    assert AutoTokenizer.from_pretrained(folder)("w5 w7")["input_ids"] == [5, 7]
    assert (folder / "generation_config.json").exists()


@pytest.mark.filterwarnings("ignore")  # transformers' and the library's own
@pytest.mark.parametrize("layout", ["int4-g32", "int4-g32-asym", "int8"])
def test_the_compressed_tensors_library_reads_its_folder(
    tmp_path: Path, source: Checkpoint, layout: str
) -> None:
    pytest.importorskip("compressed_tensors")
    from transformers import AutoModelForCausalLM, CompressedTensorsConfig

    folder = written(tmp_path / "out", source, "compressed-tensors", layout)
    net = AutoModelForCausalLM.from_pretrained(
        folder, quantization_config=CompressedTensorsConfig(dequantize=True), dtype="float32"
    )
    back = open_checkpoint(str(folder))
    # It multiplies in the scales' type, float16.
    got = net.get_parameter(UP).detach().numpy()
    np.testing.assert_allclose(got, back.tensor(UP), rtol=2.0**-10, atol=1e-7)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("n", [40, 37])
def test_packed_words_are_the_compressed_tensors_librarys(bits: int, n: int) -> None:
    pytest.importorskip("compressed_tensors")
    import torch
    from compressed_tensors.compressors.pack_quantized.helpers import unpack_from_int32

    k, middle = 90, 1 << (bits - 1)  # a last word that is partly empty
    weight = quantize(np.random.default_rng(1).normal(size=(n, k)), f"int{bits}-g30-asym")
    stored = to_packed(weight)
    codes = unpack_from_int32(torch.from_numpy(stored.packed), bits, torch.Size([n, k]))
    np.testing.assert_array_equal(codes.numpy().astype(int) + middle, weight.plain_codes())
    assert stored.zero_point is not None
    packed_zeros = torch.from_numpy(stored.zero_point)
    zeros = unpack_from_int32(packed_zeros, bits, torch.Size([n, 3]), packed_dim=0)
    np.testing.assert_array_equal(zeros.numpy().astype(int) + middle, weight.offsets)
    np.testing.assert_array_equal(from_packed(stored, bits).dequantize(), weight.dequantize())


@pytest.mark.parametrize("float_type", [None, "bfloat16", "float16"])
@pytest.mark.parametrize("tied", [True, False])
def test_plain_floats_are_what_transformers_loads(
    tmp_path: Path, make_llama: Callable[..., Path], float_type: Any, tied: bool
) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    source = open_checkpoint(str(make_llama(tied=tied, bias=True)))
    folder = written(tmp_path, source, "hf", None, float_type=float_type, shard_bytes=100_000)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    assert ("lm_head.weight" in index["weight_map"]) == (not tied)
    shards = sorted(folder.glob("*.safetensors"))
    assert len(shards) > 2
    assert set(index["weight_map"].values()) == {shard.name for shard in shards}
    # A shard that is longer holds one tensor alone.
    assert all(s.stat().st_size < 110_000 or s.read_bytes().count(b"dtype") == 1 for s in shards)
    state = AutoModelForCausalLM.from_pretrained(folder, dtype="auto").state_dict()
    for name in source.shapes():
        assert str(state[name].dtype) == f"torch.{float_type or 'float32'}"
        given = torch.from_numpy(source.tensor(name)).to(state[name].dtype)
        assert torch.equal(state[name], given)


def test_random_weights_make_a_folder_without_a_tokenizer(tmp_path: Path) -> None:
    class Small(RandomCheckpoint):
        def config(self) -> Any:
            config = super().config()
            config.update({"num_hidden_layers": 1, "vocab_size": 64, "hidden_size": 64})
            config.update({"intermediate_size": 96, "head_dim": 16})
            config.layer_types = config.layer_types[:1]
            return config

    source = Small("qwen2.5-0.5b")
    folder = written(tmp_path / "out", source, "gptq", "int4-g32")
    back = open_checkpoint(str(folder))
    assert back.shapes() == source.shapes()
    assert "no tokenizer" in str(back.quality_unavailable)
    assert json.loads((folder / "config.json").read_text())["architectures"] == ["Qwen2ForCausalLM"]


@pytest.mark.slow
def test_a_gguf_files_tokenizer_comes_along(
    tmp_path: Path, tiny_llama: Path, write_gguf: Callable[..., Any]
) -> None:
    source = open_checkpoint(str(write_gguf(tiny_llama, tmp_path / "m.gguf").file))
    assert source.companions() == []  # the small file holds no tokenizer
    back = open_checkpoint(str(written(tmp_path / "out", source, "hf", None)))
    assert back.shapes() == source.shapes()


def broken_off(source: Checkpoint) -> Tensors:
    yield from list(tensors(source, "int4-g32"))[:5]
    raise KeyboardInterrupt


def test_what_is_broken_off_leaves_nothing(tmp_path: Path, source: Checkpoint) -> None:
    with pytest.raises(KeyboardInterrupt):
        write_folder(tmp_path / "out", source, broken_off(source), "gptq", {})
    assert list(tmp_path.iterdir()) == []


def changed(source: Checkpoint, **changes: Any) -> Tensors:
    """The model's tensors with that of ``UP`` changed, left out or followed by another."""
    for name, tensor in tensors(source, "int4-g32"):
        if name == UP and "instead" in changes:
            yield from changes["instead"](name, tensor)
        else:
            yield name, tensor


@pytest.mark.parametrize(
    ("kind", "instead", "message"),
    [
        ("gptq", lambda name, t: [], f"{UP} of .* is missing"),
        ("gptq", lambda name, t: [(name, t), (name, t)], f"{UP} is written twice"),
        ("gptq", lambda name, t: [(name, t), ("x.weight", t)], r"x\.weight is unknown"),
        (
            "gptq",
            lambda name, t: [(name, np.ones((2, 3), np.float32))],
            r"must be \[160, 96\]",
        ),
        (
            "gptq",
            lambda name, t: [(name, quantize(np.ones((160, 96)), "int8"))],
            "one folder",
        ),
        (
            "gptq",
            lambda name, t: [(name, quantize(np.ones((160, 96)), "q4_1"))],
            "one folder",
        ),
        ("awq", lambda name, t: [(name, t)], "AWQ has no int4-g32: 4 bits with zero points"),
        ("hf", lambda name, t: [(name, t)], "is quantised, but a folder of kind hf holds floats"),
        ("gguf", lambda name, t: [(name, t)], "no kind of checkpoint is called 'gguf'"),
        (
            "gptq",
            lambda name, t: [(name, replace(t, order=np.arange(96, dtype=np.int32)[::-1]))],
            "desc_act must be said",
        ),
    ],
)
def test_tensors_that_cannot_be_written(
    tmp_path: Path, source: Checkpoint, kind: Any, instead: Any, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        write_folder(tmp_path / "out", source, changed(source, instead=instead), kind, {})
    assert list(tmp_path.iterdir()) == []


def test_settings_that_contradict_the_tensors(tmp_path: Path, source: Checkpoint) -> None:
    for settings in ({"bits": 3}, {"group_size": 64}, {"sym": False}, {"checkpoint_format": "x"}):
        with pytest.raises(InputError, match=f"{next(iter(settings))} is said to be"):
            write_folder(tmp_path / "o", source, tensors(source, "int4-g32"), "gptq", settings)
    with pytest.raises(InputError, match="needs quantised tensors; none came"):
        write_folder(tmp_path / "o", source, tensors(source, None), "gptq", {})
    big = ((n, t * np.float32(1e6)) for n, t in tensors(source, None))
    with pytest.raises(InputError, match="float16 cannot hold"):
        write_folder(tmp_path / "o", source, big, "hf", {}, float_type="float16")


def test_a_folder_that_holds_something_is_left_alone(tmp_path: Path, source: Checkpoint) -> None:
    (tmp_path / "mine").write_text("x")
    with pytest.raises(InputError, match="exists already; name another folder"):
        written(tmp_path, source, "gptq", "int4-g32")
    assert [file.name for file in tmp_path.iterdir()] == ["mine"]
    with pytest.raises(InputError, match=r"cannot write .*: (File exists|Not a directory)"):
        written(tmp_path / "mine" / "out", source, "gptq", "int4-g32")


def test_the_files_are_what_auto_gptq_looks_for(tmp_path: Path, source: Checkpoint) -> None:
    folder = written(tmp_path / "out", source, "gptq", "int4-g32")
    stem = UP.removesuffix("weight")
    stored = load_file(folder / "model.safetensors")
    assert {n.removeprefix(stem): (a.dtype, a.shape) for n, a in stored.items() if stem in n} == {
        "qweight": (np.int32, (12, 160)),
        "qzeros": (np.int32, (3, 20)),
        "scales": (np.float16, (3, 160)),
        "g_idx": (np.int32, (96,)),
    }
    config = json.loads((folder / "quantize_config.json").read_text())
    assert config == json.loads((folder / "config.json").read_text())["quantization_config"]
    assert {
        "bits", "group_size", "desc_act", "sym", "damp_percent", "static_groups",
        "true_sequential", "lm_head", "quant_method", "checkpoint_format",
    } <= config.keys()  # fmt: skip


def test_scales_that_float16_cannot_hold_are_refused() -> None:
    stored = to_packed(quantize(np.ones((8, 32)), "int4-g32"))
    scale = np.full((8, 1), 1e-9, np.float32)
    with pytest.raises(InputError, match="weight_scale hold float32 values that float16 cannot"):
        from_packed(PackedTensors(stored.packed, scale, stored.shape), 4)
