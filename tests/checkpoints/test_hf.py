"""Hugging Face folders as transformers saves them, their damage, and the hub's cache."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
import pytest
from safetensors.numpy import load_file, save_file

from sllmbench.checkpoints import open_checkpoint
from sllmbench.checkpoints.hf import FolderCheckpoint
from sllmbench.checkpoints.safetensors_file import read_header
from sllmbench.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

UP, NORM = "model.layers.0.mlp.up_proj.weight", "model.norm.weight"
MIB = 1 << 20


@pytest.fixture
def folder(tiny_llama: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return shutil.copytree(tiny_llama, tmp_path / "model")


def edit_weights(folder: Path, **changes: Any) -> None:
    """Save the folder's weights again, with the tensors in ``changes`` replaced or added."""
    weights = load_file(folder / "model.safetensors") | changes
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def edit_config(folder: Path, **changes: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.mark.parametrize("tied", [True, False])
def test_names_and_rows_are_those_of_transformers_state_dict(
    make_llama: Callable[..., Path], tied: bool
) -> None:
    from transformers import AutoModelForCausalLM

    folder = make_llama(tied=tied, bias=True)
    state = AutoModelForCausalLM.from_pretrained(folder).state_dict()
    if tied:
        del state["lm_head.weight"]
    checkpoint = open_checkpoint(str(folder))
    assert checkpoint.shapes() == {name: tuple(value.shape) for name, value in state.items()}
    for name, value in state.items():
        np.testing.assert_array_equal(checkpoint.tensor(name), value.numpy())
        np.testing.assert_array_equal(checkpoint.rows(name, 2, 5), value.numpy()[2:5])
        assert checkpoint.quantized(name) is None
    assert checkpoint.provenance == "float32 safetensors"
    assert checkpoint.quality_unavailable is None
    assert checkpoint.tokenizer()("w5 w7")["input_ids"] == [5, 7]
    assert checkpoint.config().hidden_size == 96


@pytest.mark.parametrize(("name", "said"), [("bfloat16", "bfloat16"), ("float16", "float16")])
def test_half_precision_shards_read_as_float32(
    tiny_llama: Path, tmp_path: Path, name: str, said: str
) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_llama).to(getattr(torch, name))
    model.save_pretrained(tmp_path, max_shard_size="100KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    checkpoint = open_checkpoint(str(tmp_path))
    assert checkpoint.provenance == f"{said} safetensors"
    for tensor in checkpoint.shapes():
        expected = model.state_dict()[tensor].float().numpy()
        np.testing.assert_array_equal(checkpoint.tensor(tensor), expected)
    assert "no tokenizer" in str(checkpoint.quality_unavailable)
    with pytest.raises(InputError, match="no tokenizer"):
        checkpoint.tokenizer()


def test_an_lm_head_stored_beside_its_tied_embedding_is_not_listed(folder: Path) -> None:
    embedding = load_file(folder / "model.safetensors")["model.embed_tokens.weight"]
    edit_weights(folder, **{"lm_head.weight": embedding})
    assert "lm_head.weight" not in open_checkpoint(str(folder)).shapes()
    edit_config(folder, tie_word_embeddings=False)
    assert "lm_head.weight" in open_checkpoint(str(folder)).shapes()


@pytest.mark.parametrize("stored", [np.float32, np.float16])
def test_reading_leaves_nothing_but_the_rows_in_memory(
    folder: Path, stored: type[np.floating[Any]]
) -> None:
    """Rows of a tensor of 200 MB, 8 MB at a time: a mapping would grow by the whole tensor."""
    rows, width = 200 * MIB // np.dtype(stored).itemsize // 4096, 4096
    save_file({"big": np.ones((rows, width), stored)}, folder / "model.safetensors")
    checkpoint = open_checkpoint(str(folder))
    checkpoint.rows("big", 0, 1)
    process = psutil.Process()
    before, growth = process.memory_info().rss, 0
    for start in range(0, rows, 512):
        chunk = checkpoint.rows("big", start, min(start + 512, rows))
        growth = max(growth, process.memory_info().rss - before)
        assert chunk[0, 0] == 1.0
    assert growth < 40 * MIB


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused_by_name(folder: Path, value: float) -> None:
    weight = load_file(folder / "model.safetensors")[UP]
    weight[7, 3] = value
    edit_weights(folder, **{UP: weight})
    checkpoint = open_checkpoint(str(folder))
    checkpoint.rows(UP, 0, 7)
    with pytest.raises(InputError, match=f"{UP} in .* holds NaN or infinite values"):
        checkpoint.rows(UP, 7, 8)


def test_truncation_anywhere_is_one_line(folder: Path) -> None:
    file = folder / "model.safetensors"
    whole = file.read_bytes()
    for length in [*range(0, 4096, 97), *range(4096, len(whole), 50_021), len(whole) - 1]:
        file.write_bytes(whole[:length])
        with pytest.raises(InputError, match="is not a whole safetensors file") as caught:
            open_checkpoint(str(folder))
        assert "\n" not in str(caught.value)


def test_a_damaged_header_never_gives_rows_of_another_shape_or_place(folder: Path) -> None:
    """Every third byte of the header flipped: refused, or the flip was in a name or metadata."""
    file = folder / "model.safetensors"
    whole = bytearray(file.read_bytes())
    sound = {(t.shape, t.offset, t.stored_type) for t in read_header(file).values()}
    length, refused = int.from_bytes(whole[:8], "little"), 0
    for place in range(0, 8 + length, 3):
        whole[place] ^= 0x01
        file.write_bytes(whole)
        try:
            found = {(t.shape, t.offset, t.stored_type) for t in read_header(file).values()}
        except InputError:
            refused += 1
        else:
            assert found == sound
        whole[place] ^= 0x01
    assert refused > length // 9


def test_a_file_that_shrinks_under_us_is_one_line(folder: Path) -> None:
    checkpoint = open_checkpoint(str(folder))
    os.truncate(folder / "model.safetensors", 5000)
    with pytest.raises(InputError, match="has become shorter"):
        checkpoint.tensor(NORM)


def test_a_missing_shard_and_a_wrong_index_are_named(tiny_llama: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    AutoModelForCausalLM.from_pretrained(tiny_llama).save_pretrained(
        tmp_path, max_shard_size="100KB"
    )
    index = tmp_path / "model.safetensors.index.json"
    sound = index.read_text()
    content = json.loads(sound)
    shard = tmp_path / content["weight_map"][NORM]
    content["weight_map"]["model.extra.weight"] = shard.name
    index.write_text(json.dumps(content))
    with pytest.raises(InputError, match=f"{shard.name} lacks model.extra.weight"):
        open_checkpoint(str(tmp_path))
    index.write_text(sound[:-20])
    with pytest.raises(InputError, match=r"cannot read .*index\.json"):
        open_checkpoint(str(tmp_path))
    index.write_text(sound)
    shard.unlink()
    with pytest.raises(InputError, match=f"lacks {shard.name}"):
        open_checkpoint(str(tmp_path))


def test_pickles_are_never_read(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"pickled weights only.*never read; convert them with"):
        open_checkpoint(str(folder))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("{", "cannot read .*config.json"),
        ("[]", "cannot read .*config.json"),
        ('{"quantization_config": {"quant_method": "eetq"}}', r"is quantised already \(eetq\)"),
        ('{"quantization_config": {"quant_method": "gptq"}}', "its bits is None: must be a whole"),
        ('{"quantization_config": {}}', r"is quantised already \(None\)"),
        ('{"quantization_config": 4}', "its quantization_config is no object"),
    ],
)
def test_a_config_that_cannot_serve_is_one_line(folder: Path, config: str, message: str) -> None:
    (folder / "config.json").write_text(config)
    with pytest.raises(InputError, match=message):
        open_checkpoint(str(folder))


def test_a_config_of_no_known_model_is_one_line(folder: Path) -> None:
    edit_config(folder, model_type="nosuch", architectures=["NoSuch"])
    with pytest.raises(
        InputError, match=r"transformers cannot read .*config.json: .*nosuch"
    ) as caught:
        open_checkpoint(str(folder)).config()
    assert "\n" not in str(caught.value)


def test_code_in_a_checkpoint_is_not_run(folder: Path) -> None:
    (folder / "own.py").write_text(f"open({str(folder / 'ran')!r}, 'w')\n")
    edit_config(folder, model_type="nosuch", auto_map={"AutoConfig": "own.Config"})
    with pytest.raises(InputError, match="transformers cannot read"):
        open_checkpoint(str(folder)).config()
    assert not (folder / "ran").exists()


def test_a_broken_tokenizer_is_one_line(folder: Path) -> None:
    (folder / "tokenizer.json").write_text('{"model": 7}')
    with pytest.raises(InputError, match="transformers cannot read the tokenizer") as caught:
        open_checkpoint(str(folder)).tokenizer()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("left", [(), ("config.json",)])
def test_a_folder_without_a_checkpoint_says_what_it_lacks(
    folder: Path, left: tuple[str, ...]
) -> None:
    for file in folder.iterdir():
        if file.name not in left:
            file.unlink()
    with pytest.raises(InputError, match=r"holds no config\.json|holds neither model\.safe"):
        open_checkpoint(str(folder))


def test_integers_are_refused_when_read(folder: Path) -> None:
    edit_weights(folder, **{UP: np.ones((160, 96), np.int8)})
    with pytest.raises(InputError, match=f"{UP} in .* is stored as I8; only float32"):
        open_checkpoint(str(folder)).tensor(UP)


def test_unknown_names_and_rows_are_refused(tiny_llama: Path) -> None:
    checkpoint = FolderCheckpoint(tiny_llama, "tiny")
    with pytest.raises(InputError, match="tiny has no tensor 'nosuch'"):
        checkpoint.tensor("nosuch")
    with pytest.raises(InputError, match="tiny has no tensor 'nosuch'"):
        checkpoint.rows("nosuch", 0, 1)
    for start, stop in [(-1, 2), (3, 2), (0, 161)]:
        with pytest.raises(InputError, match="has no rows"):
            checkpoint.rows(UP, start, stop)


def open_in_a_process(model: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Open a model where the hub's client reads ``environment`` anew."""
    code = (
        "import sys\n"
        "from sllmbench.checkpoints import open_checkpoint\n"
        "from sllmbench.errors import InputError\n"
        "try:\n"
        "    print(open_checkpoint(sys.argv[1]).provenance)\n"
        "except InputError as error:\n"
        "    print('InputError', error)\n"
    )
    return subprocess.run(
        [sys.executable, "-P", "-c", code, model],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=True,
    )


def test_an_unreachable_hub_is_one_line(tmp_path: Path) -> None:
    shown = open_in_a_process(
        "some-org/some-model", HF_HOME=str(tmp_path), HF_ENDPOINT="http://127.0.0.1:9"
    )
    assert shown.stdout.startswith("InputError cannot get some-org/some-model: ")
    assert "cannot be reached" in shown.stdout
    assert shown.stdout.count("\n") == 1


def test_a_repository_in_the_hubs_cache_opens_offline(tiny_llama: Path, tmp_path: Path) -> None:
    repository = tmp_path / "hub" / "models--some-org--some-model"
    commit = "0123456789abcdef0123456789abcdef01234567"
    shutil.copytree(tiny_llama, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    shown = open_in_a_process("some-org/some-model", HF_HOME=str(tmp_path), HF_HUB_OFFLINE="1")
    assert shown.stdout == "float32 safetensors, revision 0123456789ab\n"
