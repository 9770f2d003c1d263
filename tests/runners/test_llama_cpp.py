"""llama.cpp on whole models: against transformers on the same weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from sllmbench import runners
from sllmbench.checkpoints import open_checkpoint, silent
from sllmbench.errors import InputError
from sllmbench.runners.llama_cpp import LlamaCppRunner, converted

pytest.importorskip("llama_cpp")

if TYPE_CHECKING:
    from pathlib import Path

    from sllmbench.runners import Runner

IDS = [1 + 7 * i % 500 for i in range(40)]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLLMBENCH_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


def load(model: Path, path: str) -> Runner:
    chosen, checkpoint = runners.resolve(path), open_checkpoint(str(model))
    assert chosen.unsupported(checkpoint) is None
    chosen.prepare(checkpoint, silent)
    chosen.start_libraries(checkpoint)
    return chosen.load(checkpoint, 1, silent)


def logits(runner: Runner, rows: int = 16) -> torch.Tensor:
    return torch.cat([part.clone().float() for part in runner.sequence_logits(IDS, rows)])


def test_floats_give_transformers_logits_for_the_same_ids(tiny_llama: Path) -> None:
    expected = logits(load(tiny_llama, "fp32"))
    ours = load(tiny_llama, "llama.cpp:f32")
    got = logits(ours)
    # The cache of keys and values is float16: 2^-11 of each, through two layers.
    assert (got - expected).abs().max() < 0.01 * expected.abs().max()
    assert (ours.vocab_size, ours.positions) == (512, 512)


def test_a_sequence_read_in_pieces_is_the_sequence(tiny_llama: Path) -> None:
    runner = load(tiny_llama, "llama.cpp:f32")
    expected = logits(runner)
    for room in (len(IDS), 100, len(IDS)):  # of another context, and of one that held something
        runner.clear(room)
        pieces = [torch.tensor(runner.feed(IDS[:25]))]
        pieces += [torch.tensor(runner.feed([token])) for token in IDS[25:]]
        torch.testing.assert_close(torch.stack(pieces), expected[24:], rtol=0.01, atol=0.01)


def test_a_prompt_longer_than_a_batch(tiny_llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sllmbench.runners.llama_cpp._BATCH", 16)
    runner = load(tiny_llama, "llama.cpp:f32")
    runner.clear(len(IDS))
    last = torch.tensor(runner.feed(IDS))
    torch.testing.assert_close(last, logits(runner, 100)[-1], rtol=0.01, atol=0.01)


def test_blocks_give_the_logits_of_their_own_values(tiny_llama: Path) -> None:
    file = converted(open_checkpoint(str(tiny_llama)), "Q8_0", silent)
    values = logits(load(file, "fp32"))
    floats = logits(load(tiny_llama, "fp32"))
    got = logits(load(file, "llama.cpp"))
    # int8 activations are the only difference: about as far away as the weights' own 8 bits
    assert (got - values).square().mean() < 4 * (floats - values).square().mean()
    assert (got - values).square().mean() < 0.01 * values.var()


def test_what_a_record_says_of_it(tiny_llama: Path) -> None:
    runner = load(tiny_llama, "llama.cpp:q8_0")
    with pytest.raises(ValueError, match="no layer has run"):
        runner.facts().summary()
    runner.clear(2)
    runner.feed([1, 2])
    facts = runner.facts()
    assert facts.summary().format == "q8_0"
    assert facts.summary().arithmetic == "int8"
    assert facts.summary().kernel.startswith("ggml.mul_mat (CPU")
    assert facts.format == "q8_0"
    assert facts.lm_head == "q8_0, tied to the embedding"
    assert {name for names in facts.layers.values() for name in names} >= {
        *("blk.0.attn_q", "blk.1.ffn_down", "output")
    }
    ours = load(tiny_llama, "fp32").facts()
    assert facts.n_params == ours.n_params
    assert 0.25 * ours.weights_bytes < facts.weights_bytes < 0.3 * ours.weights_bytes
    cache = runner.cache_bytes()
    assert cache is not None
    assert 0 <= cache - 2 * 2 * 2 * 2 * 24 * 2 < 200  # layers, k and v, tokens, heads, dim, float16


def test_a_conversion_is_made_once_and_again_when_the_weights_change(make_llama: Any) -> None:
    folder = make_llama(hidden=64)
    first = converted(open_checkpoint(str(folder)), "Q4_0", silent)
    written = first.stat().st_mtime_ns
    assert converted(open_checkpoint(str(folder)), "Q4_0", silent) == first
    assert first.stat().st_mtime_ns == written
    (folder / "model.safetensors").touch()
    assert converted(open_checkpoint(str(folder)), "Q4_0", silent) != first


def test_a_file_that_llama_cpp_refuses_is_one_line(tmp_path: Path, tiny_llama: Path) -> None:
    whole = converted(open_checkpoint(str(tiny_llama)), "F32", silent).read_bytes()
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"llama\.cpp cannot load") as caught:
        LlamaCppRunner(cut, "llama.cpp", 1)
    assert "\n" not in str(caught.value)


def test_a_folder_is_not_run_as_stored(tiny_llama: Path) -> None:
    reason = runners.resolve("llama.cpp").unsupported(open_checkpoint(str(tiny_llama)))
    assert reason is not None
    assert "no GGUF file" in reason


def test_an_interpreter_without_it_says_so() -> None:
    reason = runners.resolve("llama.cpp:q4_0").unsupported(None, {"torch": "2"})
    assert reason == "llama-cpp-python is not installed in the interpreter that --in gives it"
