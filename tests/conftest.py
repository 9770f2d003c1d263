"""Real parts that several tests share."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture(scope="session", autouse=True)
def users_data_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Not the real one: what tests measure is no part of the user's history."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("data")
        patch.setenv("XDG_DATA_HOME", str(folder))
        yield folder


def _save_llama(
    folder: Path,
    *,
    tied: bool = True,
    bias: bool = False,
    hidden: int = 96,
    layers: int = 2,
    kv_heads: int = 2,
) -> Path:
    """Save a small random llama with a word-level tokenizer, as a Hugging Face folder."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    torch.manual_seed(7)
    config = LlamaConfig(
        vocab_size=512,
        hidden_size=hidden,
        intermediate_size=160,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=kv_heads,
        max_position_embeddings=512,
        tie_word_embeddings=tied,
        attention_bias=bias,
        initializer_range=0.2,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    vocabulary = {"<unk>": 0} | {f"w{i}": i for i in range(1, 512)}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>").save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def make_llama(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A maker of small llamas, for tests that need one of their own."""
    return lambda **options: _save_llama(tmp_path_factory.mktemp("llama"), **options)


@pytest.fixture(scope="session")
def tiny_llama(make_llama: Callable[..., Path]) -> Path:
    """A two-layer llama with tied embeddings; widths that are no multiple of 64 or 128."""
    return make_llama()


class FakeNvml:
    """A library in the place of NVIDIA's, whose GPUs a file describes (``fake_nvml.c``)."""

    def __init__(self, folder: Path, built: Path) -> None:
        self.folder = folder
        self.library = str(shutil.copy(built, folder / "libnvidia-ml.so.1"))
        self.control = folder / "gpus"
        self._values: dict[str, float] = {}
        self.set()

    def set(self, **values: float) -> None:
        """Change values; ``energy_mj__1`` is the second GPU's, ``fail__NAME`` a function's."""
        self._values |= {name.replace("__", "."): value for name, value in values.items()}
        beside = self.control.with_suffix(".new")
        beside.write_text("".join(f"{name}={value!r}\n" for name, value in self._values.items()))
        beside.rename(self.control)

    def run(self, code: str, timeout: float | None = None) -> str:
        """What a Python process prints that finds this library as the driver's."""
        environment = {
            **os.environ,
            "LD_LIBRARY_PATH": str(self.folder),
            "FAKE_NVML": str(self.control),
        }
        command = [sys.executable, "-P", "-c", code]
        ran = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=timeout
        )
        assert ran.returncode == 0, ran.stderr
        return ran.stdout


@pytest.fixture(scope="session")
def built_nvml(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compiled library."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        pytest.skip("no C compiler")
    library = tmp_path_factory.mktemp("nvml") / "nvml.so"
    source = Path(__file__).parent / "fake_nvml.c"
    flags = ["-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
    subprocess.run([compiler, *flags, "-o", str(library), str(source)], check=True)
    return library


@pytest.fixture
def nvml(tmp_path: Path, built_nvml: Path, monkeypatch: pytest.MonkeyPatch) -> FakeNvml:
    """One GPU with an energy counter; a library of this test's own."""
    made = FakeNvml(tmp_path, built_nvml)
    monkeypatch.setenv("FAKE_NVML", str(made.control))
    return made
