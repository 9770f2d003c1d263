"""Quantised folders whose parts do not fit each other, and older ways to say what a folder is."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from sllmbench import quantize
from sllmbench.checkpoints import open_checkpoint
from sllmbench.checkpoints.writing import write_folder
from sllmbench.errors import InputError
from sllmbench.model import required_tensors

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

STEM = "model.layers.0.mlp.up_proj."
LAYOUTS = {"gptq": "int4-g32", "awq": "int4-g32-asym", "compressed-tensors": "int4-g32-asym"}


@pytest.fixture(scope="module")
def sound(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder of each kind."""
    source = open_checkpoint(str(tiny_llama))
    folders = {}
    for kind, layout in LAYOUTS.items():
        folders[kind] = tmp_path_factory.mktemp("sound") / kind
        tensors = (
            (
                name,
                quantize(source.tensor(name), layout) if "_proj" in name else source.tensor(name),
            )
            for name in source.shapes()
        )
        write_folder(folders[kind], source, tensors, kind, {})  # type: ignore[arg-type]
    return folders


def edited(
    folder: Path,
    target: Path,
    change: Callable[[dict[str, Any]], Any] = lambda tensors: None,
    **settings: Any,
) -> Path:
    """A copy with its tensors changed in place, and its quantization_config."""
    shutil.copytree(folder, target)
    tensors = load_file(target / "model.safetensors")
    change(tensors)
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((target / "config.json").read_text())
    config["quantization_config"] |= settings
    (target / "config.json").write_text(json.dumps(config))
    return target


def put(part: str, array: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda tensors: tensors.__setitem__(f"{STEM}{part}", array)


def drop(part: str) -> Callable[[dict[str, Any]], Any]:
    return lambda tensors: tensors.pop(f"{STEM}{part}")


SHUFFLED = np.random.default_rng(0).permutation(np.repeat(np.arange(3, dtype=np.int32), 32))


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        ("gptq", drop("g_idx"), f"lacks {STEM}g_idx"),
        ("gptq", drop("scales"), f"lacks {STEM}scales"),
        ("gptq", put("qweight", np.zeros((11, 160), np.int32)), r"qweight must be \[12, 160\]"),
        ("gptq", put("qzeros", np.zeros((3, 19), np.int32)), r"qzeros must be \[3, 20\]"),
        ("gptq", put("scales", np.ones((2, 160), np.float16)), r"scales must be \[3, 160\]"),
        ("gptq", put("scales", np.ones((3, 160), np.int32)), "scales of .* is stored as I32, not"),
        ("gptq", put("g_idx", np.zeros((2, 48), np.int32)), r"g_idx must be \[k\]"),
        ("gptq", put("weight", np.zeros((160, 96), np.float32)), "twice: in floats and quantised"),
        ("gptq", put("codes", np.zeros(3, np.int32)), "I32, which GPTQ has no place for"),
        ("awq", put("scales", np.ones((3, 152), np.float16)), r"scales must be \[3, 160\]"),
        ("awq", drop("qzeros"), f"lacks {STEM}qzeros"),
        ("compressed-tensors", drop("weight_shape"), f"lacks {STEM}weight_shape"),
        ("compressed-tensors", drop("weight_zero_point"), f"lacks {STEM}weight_zero_point"),
        ("compressed-tensors", put("weight_shape", np.array([160, 97])), "k = 97, but a row is of"),
        ("compressed-tensors", put("weight_shape", np.array([160, 2**60])), "but a row is of 12"),
        ("compressed-tensors", put("weight_shape", np.array([160, -1])), "two positive integers"),
    ],
)
def test_parts_that_do_not_fit_are_seen_on_opening(
    tmp_path: Path, sound: dict[str, Path], kind: str, change: Any, message: str
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        open_checkpoint(str(edited(sound[kind], tmp_path / "m", change)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put("g_idx", SHUFFLED), "configuration says no desc_act"),
        (put("g_idx", np.arange(96, dtype=np.int32)), "g_idx must lie in 0 to 2"),
        (put("g_idx", np.zeros(96, np.int32)), "g_idx must give every group as many channels"),
        (put("qzeros", np.zeros((3, 20), np.int32)), "qzeros hold other zero points than 8"),
        (put("scales", np.full((3, 160), np.nan, np.float16)), "scales .* NaN or infinite"),
    ],
)
def test_values_that_do_not_fit_are_seen_on_reading(
    tmp_path: Path, sound: dict[str, Path], change: Any, message: str
) -> None:
    checkpoint = open_checkpoint(str(edited(sound["gptq"], tmp_path / "m", change)))
    for read in (checkpoint.quantized, checkpoint.tensor):
        with pytest.raises(InputError, match=message):
            read(f"{STEM}weight")


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        ("gptq", {"bits": 5}, "codes of 5 bits cannot be read"),
        ("gptq", {"bits": 8}, "qweight must be"),
        ("gptq", {"group_size": 64}, "scales must be"),
        ("gptq", {"group_size": 0}, "its group_size is 0"),
        ("gptq", {"group_size": True}, "must be a whole number"),
        ("gptq", {"sym": "yes"}, "its sym is 'yes': must be true or false"),
        ("gptq", {"checkpoint_format": "marlin"}, "its checkpoint_format is 'marlin'"),
        ("gptq", {"dynamic": {"x": {"bits": 8}}}, "layers are quantised differently"),
        ("gptq", {"quant_method": "awq"}, "g_idx, I32, which AWQ has no place for"),
        ("awq", {"version": "gemv"}, "its AWQ version is 'gemv': only gemm"),
        ("awq", {"zero_point": False}, "it has no zero points"),
        ("awq", {"bits": 8}, "AWQ of 8 bits"),
        ("compressed-tensors", {"format": "marlin-24"}, "its format is 'marlin-24'"),
        ("compressed-tensors", {"config_groups": {}}, "must hold one group"),
        ("compressed-tensors", {"config_groups": {"a": 1}}, "do not say how weights"),
    ],
)
def test_settings_that_do_not_fit(
    tmp_path: Path, sound: dict[str, Path], kind: str, settings: Any, message: str
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        open_checkpoint(str(edited(sound[kind], tmp_path / "m", **settings)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "file", "settings"),
    [
        ("gptq", "quantize_config.json", {"bits": 4, "group_size": 32, "sym": True}),
        ("awq", "quant_config.json", {"w_bit": 4, "q_group_size": 32, "zero_point": True}),
    ],
)
def test_older_folders_say_it_in_a_file_of_its_own(
    tmp_path: Path, sound: dict[str, Path], kind: str, file: str, settings: Any
) -> None:
    folder = shutil.copytree(sound[kind], tmp_path / "m")
    config = json.loads((folder / "config.json").read_text())
    del config["quantization_config"]
    (folder / "config.json").write_text(json.dumps(config))
    (folder / file).write_text(json.dumps(settings))
    assert open_checkpoint(str(folder)).stored_as == kind


def test_a_weight_that_the_model_has_no_place_for(tmp_path: Path, sound: dict[str, Path]) -> None:
    bias = put("bias", np.ones(160, np.float32))
    checkpoint = open_checkpoint(str(edited(sound["gptq"], tmp_path / "m", bias)))
    with pytest.raises(InputError, match=f"holds {STEM}bias, which its configuration has no place"):
        required_tensors(checkpoint, ["fp32"])


def test_sizes_that_no_tensor_bears_out(tmp_path: Path, sound: dict[str, Path]) -> None:
    folder = shutil.copytree(sound["gptq"], tmp_path / "m")
    config = json.loads((folder / "config.json").read_text())
    for key in ("num_hidden_layers", "head_dim"):
        (folder / "config.json").write_text(json.dumps(config | {key: 10**9}))
        with pytest.raises(InputError, match=f"says {key} = 1000000000, which no tensor"):
            open_checkpoint(str(folder))


def test_a_header_that_gives_a_name_twice(tmp_path: Path, sound: dict[str, Path]) -> None:
    folder = shutil.copytree(sound["gptq"], tmp_path / "m")
    data = (folder / "model.safetensors").read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    twin = json.dumps({"model.norm.weight": header["model.norm.weight"]}).encode()
    said = json.dumps(header).encode()[:-1] + b"," + twin[1:]
    (folder / "model.safetensors").write_bytes(
        len(said).to_bytes(8, "little") + said + data[8 + length :]
    )
    with pytest.raises(InputError, match=r"gives a name twice|not a whole safetensors file"):
        open_checkpoint(str(folder))
