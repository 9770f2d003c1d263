"""Log-likelihoods of answers against one plain forward of transformers an answer, in float64."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from transformers import Gemma2Config, Gemma2ForCausalLM, LlamaConfig, LlamaForCausalLM

from sllmbench.errors import InputError
from sllmbench.measure.quality import scoring
from sllmbench.measure.quality.scoring import Answer, Item, score_answers
from sllmbench.runners import Runner
from sllmbench.runners.transformers import TransformersRunner

VOCAB = 97


def make_llama(positions: int = 128) -> Any:
    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=positions,
        initializer_range=0.3,
    )
    return LlamaForCausalLM(config).eval()


def make_gemma() -> Any:
    """A model that caps its logits and whose every other layer looks eight tokens back."""
    torch.manual_seed(3)
    config = Gemma2Config(
        vocab_size=VOCAB,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=128,
        initializer_range=0.3,
        final_logit_softcapping=2.0,
        sliding_window=8,
    )
    return Gemma2ForCausalLM(config).eval()


def make_items() -> list[Item]:
    """Prompts of a few lengths, some shared; answers of one to five tokens, some counted in part.

    Of each item one answer is what the models' greedy decoding may give.
    """
    chance = random.Random(5)
    items = []
    for number in range(24):
        prompt = tuple(chance.randrange(VOCAB) for _ in range(3 + number % 4 * 4))
        answers = []
        for _ in range(2 + number % 3):
            ids = tuple(chance.randrange(VOCAB) for _ in range(chance.randrange(1, 6)))
            answers.append(Answer(ids, chance.randrange(1, len(ids) + 1)))
        items.append(Item(prompt, tuple(answers)))
    return items


def oracle(model: Any, prompt: tuple[int, ...], answer: Answer) -> tuple[float, bool]:
    with torch.inference_mode():
        logits = model(torch.tensor([prompt + answer.ids])).logits[0].double()
    log_probs = torch.log_softmax(logits[-1 - answer.n_scored : -1], dim=-1)
    ids = torch.tensor(answer.ids[-answer.n_scored :])
    likeliest = bool((log_probs.argmax(-1) == ids).all())
    return float(log_probs.gather(1, ids[:, None]).sum()), likeliest


def with_greedy_answers(model: Any, items: list[Item]) -> list[Item]:
    scorer = TransformersRunner(model)
    made = []
    for item in items:
        ids = tuple(scorer.generate(item.prompt, 3, lambda _: False))
        made.append(Item(item.prompt, (*item.answers, Answer(ids, 3))))
    return made


class Apart(Runner):
    """A runner that cannot branch."""

    def __init__(self, model: Any) -> None:
        self._whole = TransformersRunner(model)
        self.path, self.vocab_size, self.positions = "apart", VOCAB, None

    def clear(self, n_tokens: int) -> None:
        self._whole.clear(n_tokens)

    def feed(self, ids: Any) -> Any:
        return self._whole.feed(ids)

    def sequence_logits(self, ids: Any, rows: int) -> Any:
        return self._whole.sequence_logits(ids, rows)

    def cache_bytes(self) -> int | None:
        return self._whole.cache_bytes()

    def facts(self) -> Any:
        return self._whole.facts()


@pytest.mark.parametrize("make", [make_llama, make_gemma])
@pytest.mark.parametrize(
    ("batch_tokens", "slice_bytes", "kind"),
    [
        (2048, 1 << 26, TransformersRunner),  # large batches
        (60, 1 << 26, TransformersRunner),  # batches of a few
        (1, 1 << 26, TransformersRunner),  # one at a time, its cache copied for each answer
        (2048, 1200, TransformersRunner),  # logits allow few rows
        (2048, 1 << 26, Apart),
        (2048, 1200, Apart),  # answers cut by slices
    ],
)
def test_log_likelihoods_are_those_of_a_forward_each(
    make: Any, batch_tokens: int, slice_bytes: int, kind: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring, "_BATCH_TOKENS", batch_tokens)
    monkeypatch.setattr(scoring, "_SLICE_BYTES", slice_bytes)
    model = make()
    items = with_greedy_answers(model, make_items())
    scores = score_answers(kind(model), items, what="test")
    greedy = set()
    for item, row in zip(items, scores, strict=True):
        assert len(row) == len(item.answers)
        for answer, score in zip(item.answers, row, strict=True):
            expected, likeliest = oracle(model, item.prompt, answer)
            assert score.log_likelihood == pytest.approx(expected, rel=1e-5, abs=1e-5)
            assert score.greedy == likeliest
            greedy.add(likeliest)
    assert greedy == {True, False}, "a test of greediness needs some of both"


def test_greedy_text_is_that_of_transformers() -> None:
    model, prompt = make_llama(), (5, 6, 7)
    wanted = model.generate(torch.tensor([prompt]), max_new_tokens=9, do_sample=False)[0, 3:]
    scorer = TransformersRunner(model)
    assert scorer.generate(prompt, 9, lambda _: False) == wanted.tolist()
    assert scorer.generate(prompt, 9, lambda found: len(found) == 4) == wanted[:4].tolist()


def test_more_tokens_than_positions_are_refused() -> None:
    scorer = TransformersRunner(make_llama(positions=16))
    item = Item(tuple(range(12)), (Answer((1, 2, 3, 4, 5), 5),))
    with pytest.raises(InputError, match="17 tokens are more than the model's 16 positions"):
        score_answers(scorer, [item], what="test")
    with pytest.raises(InputError, match="16 positions"):
        scorer.generate(tuple(range(12)), 5, lambda _: False)


@pytest.mark.parametrize("kind", [TransformersRunner, Apart])
def test_predictions_that_are_no_numbers_are_refused(kind: Any) -> None:
    model = make_llama()
    with torch.no_grad():
        model.lm_head.weight[3, 2] = float("nan")
    with pytest.raises(InputError, match="not finite"):
        score_answers(kind(model), make_items(), what="test")


def test_progress_ends_at_the_whole() -> None:
    told: list[float | None] = []
    score_answers(
        TransformersRunner(make_llama()),
        make_items(),
        what="test",
        progress=lambda _, fraction: told.append(fraction),
    )
    assert told[0] == 0
    assert told[-1] == 1
    assert told == sorted(told, key=float)
