"""A GPTQ folder of ours as auto-gptq runs it, in an interpreter of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from sllmbench import runners
from sllmbench.bench import run
from sllmbench.checkpoints import open_checkpoint, silent
from sllmbench.checkpoints.writing import write_folder
from sllmbench.formats import parse_format
from sllmbench.quantizers import quantize

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

IDS = [1 + 7 * i % 500 for i in range(40)]
_LOGITS = """
import sys
import numpy
from sllmbench import runners
from sllmbench.checkpoints import open_checkpoint, silent
path, checkpoint = runners.resolve("auto-gptq"), open_checkpoint(sys.argv[1])
path.start_libraries(checkpoint)
runner = path.load(checkpoint, 1, silent)
ids = [int(id) for id in sys.argv[3].split(",")]
numpy.save(sys.argv[2], numpy.concatenate([x.numpy() for x in runner.sequence_logits(ids, 16)]))
"""


@pytest.fixture(scope="module")
def python() -> str:
    found = os.environ.get("SLLMBENCH_AUTO_GPTQ")
    if not found:
        pytest.skip("SLLMBENCH_AUTO_GPTQ names no interpreter")
    return found


def gptq_folder(source: str, out: Path, format: str) -> Path:
    """The model with its layers rounded to nearest, in GPTQ's layout."""
    checkpoint, layout = open_checkpoint(source), parse_format(format)
    tensors = (
        (name, quantize(weight, layout) if "_proj" in name else weight)
        for name in checkpoint.shapes()
        for weight in [checkpoint.tensor(name)]
    )
    write_folder(out, checkpoint, tensors, "gptq", {"desc_act": False})
    return out


@pytest.fixture(scope="module")
def small(make_llama: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tied llama whose widths auto-gptq can pack."""
    return gptq_folder(
        str(make_llama(hidden=128)), tmp_path_factory.mktemp("gptq") / "int4", "int4-g32"
    )


def _theirs(python: str, folder: Path, out: Path) -> np.ndarray:
    ids = ",".join(str(id) for id in IDS)
    command = [python, "-P", "-c", _LOGITS, str(folder), str(out), ids]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return np.load(out)


def _ours(folder: Path) -> np.ndarray:
    runner = runners.resolve("fp32").load(open_checkpoint(str(folder)), 1, silent)
    return torch.cat([part.clone() for part in runner.sequence_logits(IDS, 16)]).numpy()


@pytest.mark.auto_gptq
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("format", ["int4-g32", "int4-g32-asym", "int4-row", "int8"])
def test_auto_gptq_gives_our_logits(
    python: str, make_llama: Callable[..., Path], tmp_path: Path, format: str, tied: bool
) -> None:
    folder = gptq_folder(str(make_llama(hidden=128, tied=tied)), tmp_path / "out", format)
    expected = _ours(folder)
    got = _theirs(python, folder, tmp_path / "logits.npy")
    assert expected.std() > 0.1
    assert not np.abs(got - expected).max() >= 2e-3


@pytest.mark.auto_gptq
@pytest.mark.slow
def test_auto_gptq_gives_our_logits_of_a_real_model(python: str, tmp_path: Path) -> None:
    folder = gptq_folder("smollm2-135m", tmp_path / "out", "int4-g64")
    expected = _ours(folder)
    assert not np.abs(_theirs(python, folder, tmp_path / "logits.npy") - expected).max() >= 2e-3


@pytest.mark.auto_gptq
def test_its_rows_join_our_table(python: str, small: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text(" ".join(f"w{i}" for i in IDS * 10))
    result = run(
        str(small),
        ["fp32", "gptq", "auto-gptq"],
        interpreters={"auto-gptq": python},
        n_prompt=8,
        n_gen=2,
        repetitions=2,
        threads=1,
        text=str(text),
        eval_tokens=300,
        store=tmp_path / "store",
    )
    assert not result.failures
    rows = {record.path: record for record in result.records}
    theirs = rows["auto-gptq"]
    assert theirs.kernel == "auto_gptq qlinear_cuda_old.QuantLinear"
    assert theirs.format == "gptq int4-g32"
    assert theirs.lm_head == "float32, tied to the embedding"
    assert theirs.machine.libraries["auto-gptq"] == "0.7.1"
    assert theirs.machine.libraries["transformers"] == "4.46.3"
    assert rows["fp32"].machine.libraries == result.machine.libraries
    assert theirs.n_params == rows["fp32"].n_params
    assert theirs.weights_bytes < rows["fp32"].weights_bytes
    assert theirs.kl_divergence is not None
    assert theirs.kl_divergence < 1e-6
    assert theirs.perplexity == pytest.approx(rows["fp32"].perplexity, rel=1e-4)


def test_a_tied_output_layer_that_is_not_stored(small: Path, tmp_path: Path) -> None:
    tensors = load_file(small / "model.safetensors")
    del tensors["lm_head.weight"]
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    shutil.copy(small / "config.json", tmp_path)
    reason = runners.resolve("auto-gptq").unsupported(
        open_checkpoint(str(tmp_path)), {"auto-gptq": "0.7.1"}
    )
    assert reason is not None
    assert "auto-gptq would overwrite both" in reason


def test_what_is_no_gptq_checkpoint(tiny_llama: Path, small: Path, tmp_path: Path) -> None:
    path = runners.resolve("auto-gptq")
    installed = {"auto-gptq": "0.7.1"}
    assert path.unsupported(open_checkpoint(str(small)), installed) is None
    reason = path.unsupported(open_checkpoint(str(tiny_llama)), installed)
    assert reason is not None
    assert "no GPTQ checkpoint" in reason
    second = tmp_path / "v2"
    write = {name: (small / name).read_bytes() for name in ("config.json", "model.safetensors")}
    config = json.loads(write["config.json"])
    config["quantization_config"]["checkpoint_format"] = "gptq_v2"
    second.mkdir()
    (second / "config.json").write_text(json.dumps(config))
    (second / "model.safetensors").write_bytes(write["model.safetensors"])
    reason = path.unsupported(open_checkpoint(str(second)), installed)
    assert reason == "auto-gptq does not read checkpoints of the format gptq_v2"


def test_without_its_library_it_says_how_to_get_it() -> None:
    path = runners.resolve("auto-gptq")
    assert path.unsupported(None, {"torch": "2"}) == (
        "auto-gptq is not installed in the interpreter that --in gives it"
    )
    reason = path.unsupported()
    assert reason is not None
    assert "pip install 'sllmbench[auto-gptq]'" in reason
    assert "--in auto-gptq=" in reason
