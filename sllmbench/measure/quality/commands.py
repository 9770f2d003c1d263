"""What a path's process answers of its model's quality: plain values in, plain values out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from sllmbench.measure.quality.divergence import ReferenceLogProbs
from sllmbench.measure.quality.perplexity import score_text
from sllmbench.measure.quality.scoring import Answer, Item, score_answers

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sllmbench.checkpoints.base import Progress
    from sllmbench.runners import Runner


def text(
    runner: Runner,
    progress: Progress,
    *,
    ids: list[int],
    text_name: str,
    context: int,
    stride: int,
    save: str | None,
    reference: str | None,
) -> dict[str, Any]:
    """Each scored token's NLL; each compared position's divergence and agreement."""
    scores = score_text(
        runner,
        torch.tensor(ids, dtype=torch.int64),
        text_name=text_name,
        context=context,
        stride=stride,
        save_log_probs=None if save is None else Path(save),
        reference=None if reference is None else ReferenceLogProbs(Path(reference)),
        progress=progress,
    )
    reply: dict[str, Any] = {"nll": digits(scores.nll.tolist())}
    if scores.divergence is not None:
        reply["kl"] = digits(scores.divergence.kl.tolist())
        reply["top1"] = scores.divergence.top1.tolist()
        reply["top_k"] = digits(scores.divergence.top_k.tolist())
    return reply


def answers(
    runner: Runner, progress: Progress, *, items: list[dict[str, Any]], what: str
) -> dict[str, Any]:
    """Each answer's log-likelihood, and whether greedy decoding gives it, item by item."""
    scores = score_answers(runner, [_item(item) for item in items], what=what, progress=progress)
    return {
        "log_likelihoods": [digits([s.log_likelihood for s in row]) for row in scores],
        "greedy": [[s.greedy for s in row] for row in scores],
    }


def harness(
    runner: Runner, progress: Progress, *, model: str, task: str, limit: int | None
) -> dict[str, Any]:
    """What lm-evaluation-harness finds."""
    from sllmbench.checkpoints import open_checkpoint
    from sllmbench.measure.quality.harness import evaluate

    tokenizer = open_checkpoint(model).tokenizer()
    return evaluate(runner, tokenizer, task, limit=limit, progress=progress)


COMMANDS: dict[str, Callable[..., dict[str, Any]]] = {
    "text": text,
    "answers": answers,
    "harness": harness,
}


def plain(items: Sequence[Item]) -> list[dict[str, Any]]:
    """Items as :func:`answers` takes them."""
    return [
        {"prompt": item.prompt, "answers": [(a.ids, a.n_scored) for a in item.answers]}
        for item in items
    ]


def digits(values: Sequence[float]) -> list[float]:
    """Values to the seven digits that a float32 has."""
    return [float(f"{value:.7g}") for value in values]


def _item(item: dict[str, Any]) -> Item:
    answers = tuple(Answer(tuple(ids), n_scored) for ids, n_scored in item["answers"])
    return Item(tuple(item["prompt"]), answers)
