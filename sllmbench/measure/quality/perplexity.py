"""Perplexity on a text, and with it the divergence from a reference path's predictions."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from sllmbench.checkpoints.base import Progress, silent
from sllmbench.errors import InputError
from sllmbench.measure.quality.divergence import Comparison, LogProbWriter
from sllmbench.measure.quality.scoring import predictions
from sllmbench.record import Quality

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from sllmbench.measure.quality.divergence import Divergence, ReferenceLogProbs
    from sllmbench.runners import Runner

INDEPENDENT = "standard error by the delta method, tokens taken as independent"


@dataclass(frozen=True)
class Window:
    """Tokens ``begin`` to ``end`` that are read together; those from ``first`` on are scored."""

    begin: int
    first: int
    end: int


@dataclass(frozen=True)
class TextScores:
    """What a model says of a text.

    Attributes:
        nll: of each scored token in the order of the text, nats, float64 [n].
        divergence: from the reference; None where there is none.
    """

    nll: NDArray[np.float64]
    divergence: Divergence | None


def cut(n_ids: int, context: int, stride: int) -> list[Window]:
    """Cut a text of ``n_ids`` tokens into windows that begin ``stride`` tokens apart.

    Each reads up to ``context`` tokens and scores those that none before it has scored; the first
    token of a window has nothing before it and is not scored, so with ``stride = context`` each
    window loses one. Windows end where the text does, so that the last may be shorter.

    Raises:
        InputError: a context below 2 or a stride outside 1 … context.
    """
    if context < 2:
        raise InputError(f"a context of {context} tokens scores nothing; at least 2 are needed")
    if not 1 <= stride <= context:
        raise InputError(f"a stride of {stride} is not between 1 and the context of {context}")
    windows, scored = [], 0
    for begin in range(0, n_ids, stride):
        end = min(begin + context, n_ids)
        first = max(begin + 1, scored)
        if first < end:
            windows.append(Window(begin, first, end))
            scored = end
        if end == n_ids:
            break
    return windows


def definition(context: int, stride: int) -> str:
    """What a perplexity with this cut is."""
    windows = "non-overlapping windows" if stride == context else "overlapping windows, the new"
    scored = "" if stride == context else " tokens of each scored"
    return (
        f"exp of mean token NLL; {windows}{scored}, no BOS, a shorter last window included; "
        f"{INDEPENDENT}"
    )


def score_text(
    runner: Runner,
    ids: torch.Tensor,
    *,
    text_name: str,
    context: int = 1024,
    stride: int | None = None,
    save_log_probs: Path | None = None,
    reference: ReferenceLogProbs | None = None,
    kl_tokens: int = 2048,
    progress: Progress = silent,
) -> TextScores:
    """Score a text with a model, window by window as :func:`cut` cuts it.

    Sums are in float64, log-probabilities in float32.

    Args:
        runner: the model.
        ids: the text's token ids, [n] integers, n >= 3.
        text_name: the text's name, for messages.
        context: tokens a window, at least 2.
        stride: tokens from one window to the next; None takes the context.
        save_log_probs: where to write the log-probabilities of the first ``kl_tokens`` scored
            positions, for ``ReferenceLogProbs``; 4 bytes a token and vocabulary entry.
        reference: what to compare with, over the positions that it holds.
        kl_tokens: how many positions to save, at least 2.
        progress: told the fraction of windows done.

    Raises:
        InputError: too few ids, ids outside the vocabulary, windows longer than the model's
            positions, a reference of other ids, context, stride or vocabulary, a file that cannot
            be written, or predictions that are not finite.
    """
    stride = context if stride is None else stride
    _check(runner, ids, kl_tokens)
    windows = cut(len(ids), context, stride)
    runner.require_positions(min(context, len(ids)))
    subject = {
        "vocab": runner.vocab_size,
        "context": context,
        "stride": stride,
        "ids_sha256": _sha256(ids),
    }
    if reference is not None:
        reference.require(subject)
    nll = np.empty(sum(window.end - window.first for window in windows), np.float64)
    comparison, done = Comparison(reference), 0
    with LogProbWriter(save_log_probs, runner.path, subject, min(kl_tokens, len(nll))) as writer:
        for number, window in enumerate(windows):
            progress(f"perplexity on {text_name}", number / len(windows))
            read, start = ids[window.begin : window.end], window.first - window.begin
            for log_probs, targets in predictions(runner, read, start):
                chosen = -log_probs.gather(1, targets[:, None])[:, 0]
                if not bool(torch.isfinite(chosen).all()):
                    raise InputError(
                        f"the model's predictions are not finite in window {number + 1} of "
                        f"{text_name}: its weights or this path are broken"
                    )
                nll[done : done + len(chosen)] = chosen.double().numpy()
                done += len(chosen)
                comparison.add(log_probs)
                writer.add(log_probs)
    progress(f"perplexity on {text_name}", 1.0)
    return TextScores(nll, comparison.result())


def evaluate(
    runner: Runner,
    ids: torch.Tensor,
    *,
    text_name: str,
    context: int = 1024,
    save_log_probs: Path | None = None,
    reference: ReferenceLogProbs | None = None,
    kl_tokens: int = 2048,
    progress: Progress = silent,
) -> Quality:
    """Score a text in windows that do not overlap, and sum up what a run's record says of it.

    Args and Raises: as of :func:`score_text`; InputError also where the perplexity is no number.
    """
    scores = score_text(
        runner,
        ids,
        text_name=text_name,
        context=context,
        save_log_probs=save_log_probs,
        reference=reference,
        kl_tokens=kl_tokens,
        progress=progress,
    )
    value = perplexity(scores.nll, text_name)
    compared, reason = scores.divergence, "there was no reference to compare with"
    return Quality(
        perplexity=value,
        perplexity_stderr=value * standard_error(scores.nll),
        definition=definition(context, context),
        text=text_name,
        context=context,
        stride=context,
        n_tokens=len(scores.nll),
        reference_path=None if compared is None else compared.reference_path,
        kl_divergence=None if compared is None else float(compared.kl.mean()),
        kl_divergence_stderr=None if compared is None else standard_error(compared.kl),
        top1_agreement=None if compared is None else float(compared.top1.mean()),
        top1_agreement_stderr=None if compared is None else standard_error(compared.top1),
        kl_n_tokens=None if compared is None else len(compared.kl),
        kl_reason=reason if compared is None else None,
    )


def perplexity(nll: NDArray[np.float64], text_name: str) -> float:
    """The exponential of the mean of ``nll`` [n].

    Raises:
        InputError: it is beyond float64.
    """
    mean = float(nll.mean())
    if mean > math.log(np.finfo(np.float64).max):
        raise InputError(f"the perplexity on {text_name} is beyond float64: the model is broken")
    return math.exp(mean)


def standard_error(values: NDArray[np.float64] | NDArray[np.bool_]) -> float:
    """Of the mean of ``values`` [n], n >= 2, taken as independent."""
    return float(values.std(ddof=1)) / math.sqrt(len(values))


def _check(runner: Runner, ids: torch.Tensor, kl_tokens: int) -> None:
    if ids.ndim != 1 or len(ids) < 3:
        raise InputError(f"token ids have shape {list(ids.shape)}; [n] with n >= 3 is needed")
    if kl_tokens < 2:
        raise InputError(f"{kl_tokens} tokens to compare are too few; at least 2 are needed")
    if int(ids.min()) < 0 or int(ids.max()) >= runner.vocab_size:
        raise InputError(
            f"token ids reach from {int(ids.min())} to {int(ids.max())}, the model's vocabulary "
            f"from 0 to {runner.vocab_size - 1}: use the model's own tokenizer"
        )


def _sha256(ids: torch.Tensor) -> str:
    return hashlib.sha256(ids.numpy().astype("<i8").tobytes()).hexdigest()
