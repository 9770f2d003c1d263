"""The one way from token ids to what a model says of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch

from sllmbench.checkpoints.base import Progress, silent
from sllmbench.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sllmbench.runners import Runner

_SLICE_BYTES = 64 * 1024**2
"""Logits of this many bytes exist at a time: a window of a large vocabulary takes gigabytes."""
_BATCH_TOKENS = 2048
"""Tokens that a batch of prompts holds with their answers. SmolLM2-135M, 2 cores of a Zen 4, the
first 200 questions of Social IQa (8,108 tokens) in float32: 23.7 s at 512, 19.2 s at 2,048, 23.0 s
at 8,192; the speed of a prefill, with what repeats in a question read once."""


@runtime_checkable
class Branching(Protocol):
    """A runner that reads what several sequences begin with once."""

    def branch_logits(self, prompts: torch.Tensor, branches: torch.Tensor) -> torch.Tensor:
        """Logits [b, a, t, vocab] that predict branches [b, a, t] behind prompts [b, p], p >= 1."""
        ...


@dataclass(frozen=True)
class Answer:
    """What may follow a prompt.

    Attributes:
        ids: its tokens, at least one.
        n_scored: how many of the last ones count.
    """

    ids: tuple[int, ...]
    n_scored: int


@dataclass(frozen=True)
class Item:
    """A prompt, at least one token, and what may follow it."""

    prompt: tuple[int, ...]
    answers: tuple[Answer, ...]

    @property
    def n_tokens(self) -> int:
        """Tokens of the prompt and the longest answer."""
        return len(self.prompt) + self.longest

    @property
    def longest(self) -> int:
        """Tokens of the longest answer."""
        return max(len(answer.ids) for answer in self.answers)


@dataclass(frozen=True)
class AnswerScore:
    """What a model says of an answer.

    Attributes:
        log_likelihood: the sum of its scored tokens' log-probabilities, in nats.
        greedy: whether each scored token was the likeliest, so that greedy decoding gives them.
    """

    log_likelihood: float
    greedy: bool


def score_answers(
    runner: Runner, items: Sequence[Item], *, what: str, progress: Progress = silent
) -> list[tuple[AnswerScore, ...]]:
    """Score every answer of every item, in their order.

    Items whose prompts have the same length share a batch, so that nothing stands in front of a
    prompt, and what pads a shorter answer stands behind it: a batch changes no score. A prompt is
    read once for all its answers where the runner can do that.

    Raises:
        InputError: an item is longer than the model's positions, or predictions are not finite.
    """
    scores: list[tuple[AnswerScore, ...]] = [()] * len(items)
    for item in items:
        runner.require_positions(item.n_tokens)
    score = _score_branches if isinstance(runner, Branching) else _score_apart
    done = 0
    for batch in _batches(items, runner.vocab_size):
        progress(what, done / len(items))
        with torch.inference_mode():
            found = score(runner, [items[index] for index in batch])
        for index, row in zip(batch, found, strict=True):
            scores[index] = row
        done += len(batch)
    progress(what, 1.0)
    return scores


def predictions(
    runner: Runner, ids: torch.Tensor, start: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield float32 log-probabilities [rows, vocab] and targets [rows] of ``ids[start:]``.

    ``ids`` [n] are read as one sequence, 1 <= start < n.
    """
    done = 1
    for logits in runner.sequence_logits(ids[:-1].tolist(), slice_rows(runner.vocab_size)):
        stop = done + len(logits)
        if stop > start:
            kept = logits[max(0, start - done) :].float()
            yield torch.log_softmax(kept, dim=-1), ids[stop - len(kept) : stop]
        done = stop


def slice_rows(vocab_size: int) -> int:
    """Positions whose logits may exist at a time."""
    return max(1, _SLICE_BYTES // (4 * vocab_size))


def _batches(items: Sequence[Item], vocab_size: int) -> Iterator[list[int]]:
    """Indices of items with prompts of one length and as many answers, few enough for memory."""
    groups: dict[tuple[int, int], list[int]] = {}
    for index, item in enumerate(items):
        groups.setdefault((len(item.prompt), len(item.answers)), []).append(index)
    for (n_prompt, n_answers), group in sorted(groups.items(), reverse=True):
        # Answers of like length beside each other, so that little is padded.
        ordered = sorted(group, key=lambda index: items[index].longest)
        start = 0
        while start < len(ordered):
            stop = start + 1
            while stop < len(ordered):
                rows = n_answers * items[ordered[stop]].longest
                count = stop + 1 - start
                if (
                    count * (n_prompt + rows) > _BATCH_TOKENS
                    or count * rows * vocab_size * 4 > _SLICE_BYTES
                ):
                    break
                stop += 1
            yield ordered[start:stop]
            start = stop


def _score_branches(runner: Any, items: Sequence[Item]) -> list[tuple[AnswerScore, ...]]:
    """The scores of a batch that shares the length of its prompts."""
    longest = max(item.longest for item in items)
    prompts = torch.tensor([item.prompt for item in items])
    branches = torch.tensor(
        [[a.ids + (0,) * (longest - len(a.ids)) for a in item.answers] for item in items]
    )
    logits = runner.branch_logits(prompts, branches)
    return [
        tuple(
            _score(logits[row, column, : len(answer.ids)], answer)
            for column, answer in enumerate(item.answers)
        )
        for row, item in enumerate(items)
    ]


def _score_apart(runner: Runner, items: Sequence[Item]) -> list[tuple[AnswerScore, ...]]:
    """The scores of items whose answers are sequences of their own."""
    rows = slice_rows(runner.vocab_size)
    found = []
    for item in items:
        scores = []
        for answer in item.answers:
            ids, left = item.prompt + answer.ids[:-1], len(answer.ids)
            kept: list[torch.Tensor] = []
            for number, logits in enumerate(runner.sequence_logits(ids, rows)):
                first = max(0, len(ids) - left - number * rows)
                kept.append(logits[first:].float().clone())
            scores.append(_score(torch.cat(kept), answer))
        found.append(tuple(scores))
    return found


def _score(logits: torch.Tensor, answer: Answer) -> AnswerScore:
    """What logits [t, vocab] say of an answer of t tokens; sums in float64."""
    scored = logits[-answer.n_scored :].float()
    targets = torch.tensor(answer.ids[-answer.n_scored :])
    chosen = scored.gather(1, targets[:, None])[:, 0] - torch.logsumexp(scored, dim=-1)
    if not bool(torch.isfinite(chosen).all()):
        raise InputError("the model's predictions are not finite: its weights or path are broken")
    return AnswerScore(float(chosen.double().sum()), bool((scored.argmax(-1) == targets).all()))
