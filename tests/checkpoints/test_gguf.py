"""GGUF files, written by the gguf library: float rows, stored blocks, and damage."""

from __future__ import annotations

import os
import shutil
import struct
import time
import tracemalloc
from pathlib import Path
from typing import TYPE_CHECKING

import gguf
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from sllmbench import load_model
from sllmbench.checkpoints import open_checkpoint
from sllmbench.checkpoints.gguf import GgufCheckpoint, _identity
from sllmbench.checkpoints.gguf_convert import convert
from sllmbench.checkpoints.gguf_header import read_header
from sllmbench.errors import InputError
from sllmbench.paths import default_paths

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.checkpoints.conftest import WriteGguf, WrittenGguf

IQ4_XS = gguf.GGMLQuantizationType.IQ4_XS
BF16 = gguf.GGMLQuantizationType.BF16
UP, DOWN = "model.layers.1.mlp.up_proj.weight", "model.layers.0.mlp.down_proj.weight"
NORM = "model.layers.1.input_layernorm.weight"


@pytest.fixture(scope="module")
def llama(
    tiny_llama: Path, write_gguf: WriteGguf, tmp_path_factory: pytest.TempPathFactory
) -> WrittenGguf:
    """A llama with tied embeddings, as it comes: Q4_1, Q8_0, F32."""
    return write_gguf(tiny_llama, tmp_path_factory.mktemp("gguf") / "tiny-llama.Q4_1.gguf")


@pytest.fixture(scope="module")
def llama_checkpoint(llama: WrittenGguf, own_cache: Path) -> GgufCheckpoint:
    return open_checkpoint(str(llama.file))


@pytest.fixture(scope="module")
def qwen_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    folder = tmp_path_factory.mktemp("qwen")
    torch.manual_seed(3)
    config = Qwen2Config(
        vocab_size=256,
        hidden_size=64,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        tie_word_embeddings=False,
        initializer_range=0.2,
    )
    net = Qwen2ForCausalLM(config)
    for name, value in net.named_parameters():
        if name.endswith(".bias"):  # they begin as zeros, which any order equals
            torch.nn.init.normal_(value)
    net.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def qwen(
    qwen_folder: Path, write_gguf: WriteGguf, tmp_path_factory: pytest.TempPathFactory
) -> WrittenGguf:
    """A qwen2 with its own lm_head, a BF16 and an IQ4_XS matrix, NaN in a norm and in a scale."""
    q4_1 = gguf.GGMLQuantizationType.Q4_1
    blocks = gguf.quantize(np.ones((256, 64), np.float32), q4_1)
    blocks[5, 0:2] = np.frombuffer(np.float16(np.nan).tobytes(), np.uint8)
    norm = np.ones(64, np.float32)
    norm[63] = np.nan
    return write_gguf(
        qwen_folder,
        tmp_path_factory.mktemp("gguf") / "tiny-qwen.gguf",
        block_types={DOWN: IQ4_XS, "model.layers.0.mlp.gate_proj.weight": BF16},
        replace={UP: blocks, NORM: norm, DOWN: np.zeros((64, 136), np.uint8)},
    )


@pytest.fixture(scope="module")
def qwen_checkpoint(qwen: WrittenGguf, own_cache: Path) -> GgufCheckpoint:
    return open_checkpoint(str(qwen.file))


@pytest.mark.parametrize("model", ["llama", "qwen"])
def test_rows_are_the_dequantised_weights_in_transformers_order(
    model: str, request: pytest.FixtureRequest
) -> None:
    written = request.getfixturevalue(model)
    checkpoint = request.getfixturevalue(f"{model}_checkpoint")
    assert set(checkpoint.shapes()) == set(written.block_types)
    for name, weight in written.weights.items():
        assert checkpoint.shapes()[name] == weight.shape
        np.testing.assert_array_equal(checkpoint.tensor(name), weight, err_msg=name)
        np.testing.assert_array_equal(checkpoint.rows(name, 3, 9), weight[3:9], err_msg=name)


@pytest.mark.parametrize("model", ["llama", "qwen"])
def test_stored_blocks_stand_for_the_same_weights(
    model: str, request: pytest.FixtureRequest
) -> None:
    written = request.getfixturevalue(model)
    checkpoint = request.getfixturevalue(f"{model}_checkpoint")
    formats = set()
    for name, weight in written.weights.items():
        stored = checkpoint.quantized(name)
        if written.block_types[name] in (gguf.GGMLQuantizationType.F32, BF16):
            assert stored is None
        else:
            formats.add(stored.format.name)
            np.testing.assert_array_equal(stored.dequantize(), weight, err_msg=name)
    assert formats == {"q4_1", "q8_0"}


MIX = {
    "self_attn.q_proj": "Q4_K",
    "self_attn.k_proj": "Q5_K",
    "self_attn.v_proj": "Q6_K",
    "self_attn.o_proj": "Q4_0",
    "mlp.gate_proj": "Q4_K",
    "mlp.up_proj": "Q4_K",
    "mlp.down_proj": "Q5_0",  # its k is no multiple of 256: llama.cpp falls back so as well
    "model.embed_tokens": "Q6_K",
}


@pytest.fixture(scope="module")
def mix(
    make_llama: Callable[..., Path],
    write_gguf: WriteGguf,
    tmp_path_factory: pytest.TempPathFactory,
) -> WrittenGguf:
    """A llama in a mix of block types, as Q4_K_M files are."""
    folder = make_llama(hidden=256)
    types = {
        name: gguf.GGMLQuantizationType[MIX[part]]
        for name in load_file(folder / "model.safetensors")
        for part in MIX
        if part in name
    }
    file = tmp_path_factory.mktemp("gguf") / "tiny-llama.Q4_K_M.gguf"
    return write_gguf(folder, file, block_types=types)


def test_a_mix_of_block_types_runs_as_it_is_stored(mix: WrittenGguf, own_cache: Path) -> None:
    checkpoint = open_checkpoint(str(mix.file))
    assert checkpoint.quantized_unavailable is None
    assert checkpoint.provenance == (
        "dequantised Q4_K of tiny-llama (GGUF); "
        "its weights lie on a 4-bit asymmetric group-32 grid with integer scales"
    )
    formats = set()
    for name, weight in mix.weights.items():
        np.testing.assert_array_equal(checkpoint.tensor(name), weight, err_msg=name)
        if weight.ndim == 2:
            stored = checkpoint.quantized(name)
            formats.add(stored.format.name)
            np.testing.assert_array_equal(stored.dequantize(), weight, err_msg=name)
    assert formats == {kind.lower() for kind in MIX.values()}
    ids = torch.arange(24).reshape(1, -1) * 7 % 512
    logits = {}
    for path in ("fp32", "gguf"):
        with torch.inference_mode():
            logits[path] = load_model(checkpoint, path, arithmetic="exact")(ids).logits
    # Two layers of float32 products in another order: far below what one wrong block would do.
    torch.testing.assert_close(logits["gguf"], logits["fp32"], rtol=1e-4, atol=1e-4)


def test_provenance_says_the_grid_and_the_missing_tokenizer_is_explained(
    llama_checkpoint: GgufCheckpoint,
) -> None:
    assert llama_checkpoint.provenance == (
        "dequantised Q4_1 of tiny-llama (GGUF); its weights lie on a 4-bit asymmetric group-32 grid"
    )
    assert "the file holds none" in llama_checkpoint.quality_unavailable
    with pytest.raises(InputError, match="has no tokenizer: the file holds none"):
        llama_checkpoint.tokenizer()
    assert llama_checkpoint.config().tie_word_embeddings


def _conversion(own_cache: Path) -> Path:
    (folder,) = (own_cache / "converted").glob("tiny-llama.Q4_1-*")
    return folder


def test_a_conversion_is_made_once_for_a_file_and_anew_for_its_next_version(
    llama: WrittenGguf, llama_checkpoint: GgufCheckpoint, own_cache: Path, tmp_path: Path
) -> None:
    made = _conversion(own_cache).stat().st_mtime_ns
    said: list[str] = []
    open_checkpoint(str(llama.file), lambda what, fraction: said.append(what))
    assert not said
    assert _conversion(own_cache).stat().st_mtime_ns == made
    copy = Path(shutil.copy(llama.file, tmp_path))
    before = _identity(copy)
    os.utime(copy, (0, 0))
    assert _identity(copy) != before != _identity(llama.file)


@pytest.mark.slow
def test_a_damaged_conversion_is_made_again(
    llama: WrittenGguf, llama_checkpoint: GgufCheckpoint, own_cache: Path
) -> None:
    folder = _conversion(own_cache)
    weights = folder / "model.safetensors"
    # A run killed while it converted, and a copy that lost its end.
    leftover = folder.with_name(f"partial-{folder.name}-x")
    leftover.mkdir()
    weights.write_bytes(weights.read_bytes()[:-7])
    checkpoint = open_checkpoint(str(llama.file))
    np.testing.assert_array_equal(checkpoint.tensor(DOWN), llama.weights[DOWN])
    assert not leftover.exists()


def test_block_types_without_a_kernel_are_named(qwen_checkpoint: GgufCheckpoint) -> None:
    with pytest.raises(
        InputError, match=r"down_proj.weight is stored as IQ4_XS, which has no kernel"
    ):
        qwen_checkpoint.quantized(DOWN)
    assert not qwen_checkpoint.tensor(DOWN).any()


def test_what_cannot_run_as_stored_is_known_before_loading(
    qwen_checkpoint: GgufCheckpoint, llama_checkpoint: GgufCheckpoint
) -> None:
    assert llama_checkpoint.quantized_unavailable is None
    assert "gguf" in default_paths(llama_checkpoint)
    assert "IQ4_XS blocks have no kernel here" in str(qwen_checkpoint.quantized_unavailable)
    assert default_paths(qwen_checkpoint)[0] == "fp32"
    assert "gguf" not in default_paths(qwen_checkpoint)


def test_nan_is_refused_with_the_tensors_name(qwen_checkpoint: GgufCheckpoint) -> None:
    with pytest.raises(InputError, match=rf"{NORM} .*NaN"):
        qwen_checkpoint.tensor(NORM)
    with pytest.raises(InputError, match=rf"{UP} .*NaN"):
        qwen_checkpoint.quantized(UP)
    with pytest.raises(InputError, match=rf"{UP} .*NaN"):
        qwen_checkpoint.rows(UP, 5, 6)
    assert np.isfinite(qwen_checkpoint.rows(UP, 6, 9)).all()


def test_unknown_tensors_and_rows_are_refused(llama_checkpoint: GgufCheckpoint) -> None:
    with pytest.raises(InputError, match=r"has no tensor 'lm_head\.weight'"):
        llama_checkpoint.quantized("lm_head.weight")
    with pytest.raises(InputError, match="has no rows 90 to 97"):
        llama_checkpoint.rows(DOWN, 90, 97)


def test_a_model_that_lacks_a_tensor_is_not_made_up(
    tiny_llama: Path, write_gguf: WriteGguf, tmp_path: Path
) -> None:
    written = write_gguf(tiny_llama, tmp_path / "part.gguf", leave_out=NORM)
    with pytest.raises(ValueError, match=f"the converted model lacks {NORM}"):
        convert(written.file, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("leave_out", "message"), [(NORM, f"the converted model lacks {NORM}"), ("head_count", "")]
)
def test_a_failed_conversion_is_one_line(
    tiny_llama: Path, write_gguf: WriteGguf, tmp_path: Path, leave_out: str, message: str
) -> None:
    written = write_gguf(tiny_llama, tmp_path / "part.gguf", leave_out=leave_out)
    with pytest.raises(InputError, match=f"transformers cannot convert .*{message}") as caught:
        open_checkpoint(str(written.file))
    assert "\n" not in str(caught.value)


def _is_refused(file: Path) -> bool:
    try:
        read_header(file)
    except InputError as error:
        return "\n" not in str(error)
    return False


def test_truncation_anywhere_is_one_line(llama: WrittenGguf, tmp_path: Path) -> None:
    whole = llama.file.read_bytes()
    header = read_header(llama.file)
    begin = min(tensor.offset for tensor in header.tensors.values())
    end = max(tensor.offset + tensor.nbytes for tensor in header.tensors.values())
    cut = tmp_path / "cut.gguf"
    lengths = [*range(0, begin, 7), *range(begin, end, 1009), end - 1]
    for length in lengths:
        cut.write_bytes(whole[:length])
        with pytest.raises(InputError) as caught:
            open_checkpoint(str(cut))
        assert "\n" not in str(caught.value)
    cut.write_bytes(whole[:end])
    assert read_header(cut).tensors.keys() == header.tensors.keys()


def test_damage_in_the_header_ends_soon_in_one_line_or_in_none(
    llama: WrittenGguf, tmp_path: Path
) -> None:
    """Every third byte of the header flipped: counts and lengths become enormous."""
    whole = bytearray(llama.file.read_bytes())
    begin = min(tensor.offset for tensor in read_header(llama.file).tensors.values())
    file, refused = tmp_path / "flipped.gguf", 0
    tracemalloc.start()
    started = time.monotonic()
    places = range(0, begin, 3)
    for place in places:
        whole[place] ^= 0xFF
        file.write_bytes(whole)
        refused += _is_refused(file)
        whole[place] ^= 0xFF
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert refused > len(places) // 2
    assert peak < 8 << 20
    assert time.monotonic() - started < 60


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot read"),
        (b"GGML" + bytes(60), "is not a GGUF file"),
        (b"GGUF" + struct.pack("<IQQ", 1, 0, 0), "has GGUF version 1"),
        (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "has GGUF version 50331648"),
        (b"GGUF" + struct.pack("<IQQ", 3, 1 << 60, 0), "does not say its general.architecture"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1 << 60), "truncated or corrupt"),
        (b"PK\x03\x04" + bytes(60), "is not a GGUF file"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "other.gguf"
    file.write_bytes(content)
    with pytest.raises(InputError, match=message):
        open_checkpoint(str(file))


@pytest.mark.slow
def test_only_the_gguf_path_refuses_an_architecture_whose_rows_it_does_not_know(
    write_gguf: WriteGguf, tmp_path: Path
) -> None:
    from transformers import Qwen3Config, Qwen3ForCausalLM

    config = Qwen3Config(
        vocab_size=256,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=128,
        max_position_embeddings=128,
        tie_word_embeddings=True,
    )
    Qwen3ForCausalLM(config).save_pretrained(tmp_path / "qwen3")
    written = write_gguf(tmp_path / "qwen3", tmp_path / "qwen3.gguf")
    checkpoint = open_checkpoint(str(written.file))
    for name, weight in written.weights.items():
        np.testing.assert_array_equal(checkpoint.tensor(name), weight, err_msg=name)
    with pytest.raises(InputError, match="row order of qwen3 models, only of llama and qwen2"):
        checkpoint.quantized(DOWN)


@pytest.mark.slow
@pytest.mark.usefixtures("users_cache")
def test_every_block_of_the_real_model_equals_its_float_conversion() -> None:
    checkpoint = open_checkpoint("smollm2-135m")
    quantised = 0
    for name in checkpoint.shapes():
        stored = checkpoint.quantized(name)
        if stored is not None:
            quantised += 1
            np.testing.assert_array_equal(stored.dequantize(), checkpoint.tensor(name), name)
    assert (quantised, len(checkpoint.shapes())) == (211, 272)
    tokenizer = checkpoint.tokenizer()
    ids = tokenizer("Hello world <|im_start|>", add_special_tokens=False)["input_ids"]
    assert ids == [19556, 905, 216, 1]
    assert checkpoint.provenance == (
        "dequantised Q4_1 of SmolLM2-135M-Instruct (GGUF); "
        "its weights lie on a 4-bit asymmetric group-32 grid"
    )
