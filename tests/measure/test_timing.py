"""What the clocks contain, on a real model."""

from __future__ import annotations

import gc
import time
from typing import TYPE_CHECKING, Any

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from sllmbench.errors import InputError
from sllmbench.measure.timing import (
    RequestSample,
    time_decode,
    time_request,
    warm_up,
)
from sllmbench.runners.transformers import TransformersRunner

if TYPE_CHECKING:
    from pathlib import Path

PROMPT = [5, 99, 3, 411, 17, 256, 8]
DELAY_S = 0.02
DELAY_NS = int(DELAY_S * 1e9)


@pytest.fixture(scope="module")
def llama(tiny_llama: Path) -> TransformersRunner:
    return TransformersRunner(AutoModelForCausalLM.from_pretrained(tiny_llama).eval())


def cached_tokens(cache: Any) -> int:
    """Tokens in a cache: none, an object, or the tuples of older releases, [batch, heads, n, d]."""
    if cache is None:
        return 0
    return cache[0][0].shape[-2] if isinstance(cache, tuple) else cache.get_seq_length()


class OldGpt2(GPT2LMHeadModel):
    """As the architectures of older releases: no word for keeping the last logits, own cache."""

    _supports_cache_class = False

    def forward(self, input_ids, past_key_values=None, use_cache=None):
        assert past_key_values is None or cached_tokens(past_key_values) > 0
        return super().forward(input_ids, past_key_values=past_key_values, use_cache=use_cache)


class NumLogitsGpt2(GPT2LMHeadModel):
    """As transformers 4.46 called the word."""

    def forward(self, input_ids, past_key_values=None, use_cache=None, num_logits_to_keep=0):
        out = super().forward(input_ids, past_key_values=past_key_values, use_cache=use_cache)
        out.logits = out.logits[:, -num_logits_to_keep:]
        return out


def gpt2(kind: type[GPT2LMHeadModel]) -> TransformersRunner:
    torch.manual_seed(3)
    config = GPT2Config(
        vocab_size=512,
        n_embd=32,
        n_layer=2,
        n_head=4,
        n_positions=64,
        initializer_range=0.2,
        bos_token_id=0,
        eos_token_id=0,
    )
    return TransformersRunner(kind(config).eval())


class Watch:
    """Notes what each forward is given and gives."""

    def __init__(self, runner: TransformersRunner) -> None:
        model = runner.model
        self.fed: list[int] = []
        self.lengths: list[int] = []
        self.cached: list[int] = []
        self.chosen: list[int] = []
        self.quiet: list[bool] = []
        self._handles = [
            model.register_forward_pre_hook(self._before, with_kwargs=True),
            model.register_forward_hook(self._after),
        ]

    def _before(self, model: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        (ids,) = args
        self.fed.append(int(ids[0, -1]))
        self.lengths.append(ids.shape[1])
        self.cached.append(cached_tokens(kwargs["past_key_values"]))
        self.quiet.append(torch.is_inference_mode_enabled() and not gc.isenabled())

    def _after(self, model: Any, args: tuple[Any, ...], out: Any) -> None:
        assert out.logits.shape[:2] == (1, 1)
        self.chosen.append(int(out.logits[0, -1].argmax()))

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *error: object) -> None:
        for handle in self._handles:
            handle.remove()


def greedy(runner: TransformersRunner, prompt: list[int], n: int) -> list[int]:
    """The plainest greedy decoding: every token anew, no cache."""
    ids = list(prompt)
    with torch.inference_mode():
        for _ in range(n):
            ids.append(int(runner.model(torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[len(prompt) :]


@pytest.mark.parametrize("kind", ["llama", GPT2LMHeadModel, OldGpt2, NumLogitsGpt2])
def test_a_request_is_the_prompt_and_then_its_own_greedy_tokens(
    kind: Any, llama: TransformersRunner
) -> None:
    model = llama if kind == "llama" else gpt2(kind)
    expected = greedy(model, PROMPT, 6)
    assert len(set(expected)) > 2, "a constant answer would hide a wrong token"
    for _ in range(2):  # the second shows that no cache is left from the first
        with Watch(model) as watch:
            start_ns = time.perf_counter_ns()
            sample = time_request(model, PROMPT, 6)
            wall_ns = time.perf_counter_ns() - start_ns
        assert watch.chosen == expected
        assert watch.fed[1:] == expected[:-1]
        assert watch.lengths == [7, 1, 1, 1, 1, 1]
        assert watch.cached == [0, 7, 8, 9, 10, 11]
        assert all(watch.quiet)
        assert len(sample.itl_ns) == 5
        assert 0 < sample.prefill_ns < sample.ttft_ns
        assert sample.ttft_ns + sum(sample.itl_ns) <= wall_ns


@pytest.mark.parametrize("kind", ["llama", GPT2LMHeadModel, OldGpt2, NumLogitsGpt2])
def test_decode_starts_from_an_empty_cache(kind: Any, llama: TransformersRunner) -> None:
    model = llama if kind == "llama" else gpt2(kind)
    expected = greedy(model, [42], 5)
    with Watch(model) as watch:
        assert time_decode(model, 5, 42) > 0
    assert watch.fed == [42, *expected[:-1]]
    assert watch.cached == [0, 1, 2, 3, 4]
    assert watch.chosen == expected
    assert all(watch.quiet)


def test_a_head_that_is_cut_for_the_timing_is_whole_again() -> None:
    model = gpt2(OldGpt2)
    time_request(model, PROMPT, 2)
    assert model.model(torch.tensor([PROMPT])).logits.shape == (1, 7, 512)


class SlowToChoose(torch.Tensor):
    """Logits from which a token is chosen slowly."""

    def argmax(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        time.sleep(DELAY_S)
        return self.as_subclass(torch.Tensor).argmax(*args, **kwargs)


def test_choosing_a_token_counts_for_latency_and_not_for_prefill(llama: TransformersRunner) -> None:
    def slow(model: Any, args: tuple[Any, ...], out: Any) -> Any:
        out.logits = out.logits.as_subclass(SlowToChoose)
        return out

    warm_up(llama, PROMPT, 2)
    handle = llama.model.register_forward_hook(slow)
    try:
        sample = time_request(llama, PROMPT, 4)
        decode_ns = time_decode(llama, 4, 1)
    finally:
        handle.remove()
    assert sample.prefill_ns <= sample.ttft_ns - DELAY_NS
    assert all(step_ns >= DELAY_NS for step_ns in sample.itl_ns)
    assert decode_ns >= 4 * DELAY_NS


def test_the_forward_over_the_prompt_is_prefill(llama: TransformersRunner) -> None:
    def slow(model: Any, args: tuple[Any, ...]) -> None:
        if args[0].shape[1] > 1:
            time.sleep(10 * DELAY_S)

    handle = llama.model.register_forward_pre_hook(slow)
    try:
        sample = time_request(llama, PROMPT, 3)
    finally:
        handle.remove()
    assert 10 * DELAY_NS <= sample.prefill_ns < sample.ttft_ns
    assert min(sample.itl_ns) < 10 * DELAY_NS


def test_the_collector_runs_again_afterwards(llama: TransformersRunner) -> None:
    assert gc.isenabled()
    time_decode(llama, 1, 1)
    assert gc.isenabled()
    with pytest.raises(InputError):
        time_request(llama, PROMPT, 0)
    assert gc.isenabled()


def test_the_warm_up_has_the_sizes_of_what_is_timed(llama: TransformersRunner) -> None:
    with Watch(llama) as watch:
        warm_up(llama, PROMPT, 3)
    assert watch.lengths == [7, 1, 1, 1, 1, 1]
    assert watch.cached == [0, 7, 8, 0, 1, 2]


def test_one_generated_token_has_no_inter_token_latency(llama: TransformersRunner) -> None:
    assert time_request(llama, PROMPT, 1).itl_ns == ()


@pytest.mark.parametrize(
    ("prompt", "n_gen", "message"),
    [
        (PROMPT, 0, "at least 1"),
        ([], 4, "empty"),
        (PROMPT, 506, "512 positions"),
    ],
)
def test_what_cannot_be_timed_is_refused(
    llama: TransformersRunner, prompt: list[int], n_gen: int, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        time_request(llama, prompt, n_gen)


def test_decode_refuses_no_steps_and_too_many(llama: TransformersRunner) -> None:
    for n_gen in (0, 513):
        with pytest.raises(InputError):
            time_decode(llama, n_gen, 1)


def test_a_device_with_a_queue_is_refused(llama: TransformersRunner) -> None:
    with torch.device("meta"):
        elsewhere = type(llama.model)(llama.model.config)
    with pytest.raises(InputError, match="meta"):
        TransformersRunner(elsewhere)


def test_a_sample_is_hashable_and_equal_by_value() -> None:
    assert len({RequestSample(1, 2, (3,)), RequestSample(1, 2, (3,))}) == 1
