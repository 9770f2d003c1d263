"""Multiple choice: the answer that is likeliest behind its prompt."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from sllmbench.errors import InputError
from sllmbench.measure.quality.intervals import proportion
from sllmbench.measure.quality.scoring import Answer, Item

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from sllmbench.assets.questions import Question
    from sllmbench.record import Metric

DELIMITER = " "
"""Between a prompt and an answer."""


def encode_pair(
    tokenizer: Any, prompt: str, continuation: str
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Tokens of a prompt and of what follows it, as lm-evaluation-harness cuts them.

    Both are encoded together and cut where the prompt alone would end. Blanks at its end go behind
    the cut, because tokens begin with their space.

    Raises:
        InputError: one of both has no token.
    """
    first, both = (
        tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        for text in (prompt.rstrip(), prompt + continuation)
    )
    if not first or len(both) <= len(first):
        raise InputError(f"the prompt {prompt!r} or what follows it, {continuation!r}, is empty")
    return tuple(both[: len(first)]), tuple(both[len(first) :])


def items(tokenizer: Any, questions: Sequence[Question]) -> list[Item]:
    """Encode questions.

    Raises:
        InputError: a prompt or an answer is empty.
    """
    made = []
    for question in questions:
        pairs = [encode_pair(tokenizer, question.prompt, DELIMITER + a) for a in question.answers]
        answers = tuple(Answer(ids, len(ids)) for _, ids in pairs)
        made.append(Item(pairs[0][0], answers))
    return made


def right(
    log_likelihoods: Sequence[Sequence[float]], questions: Sequence[Question]
) -> dict[str, NDArray[np.bool_]]:
    """Which questions are answered right, by each rule [n].

    ``acc`` takes the likeliest answer; ``acc_norm`` divides the logarithm by the answer's
    characters first, as the harness does, so that long answers are not at a disadvantage.
    """
    rules: dict[str, list[bool]] = {"acc": [], "acc_norm": []}
    for scores, question in zip(log_likelihoods, questions, strict=True):
        values = np.array(scores)
        lengths = np.array([len(answer) for answer in question.answers])
        rules["acc"].append(int(values.argmax()) == question.right)
        rules["acc_norm"].append(int((values / lengths).argmax()) == question.right)
    return {name: np.array(hits, bool) for name, hits in rules.items()}


def metrics(
    log_likelihoods: Sequence[Sequence[float]],
    reference: Sequence[Sequence[float]] | None,
    questions: Sequence[Question],
) -> tuple[Metric, ...]:
    """Both accuracies and their differences from the reference's.

    Where all answers have one length, as letters do, both rules are one and ``acc`` stands alone.
    """
    hits = right(log_likelihoods, questions)
    base = None if reference is None else right(reference, questions)
    chance = float(np.mean([1 / len(question.answers) for question in questions]))
    if all(len({len(answer) for answer in q.answers}) == 1 for q in questions):
        del hits["acc_norm"]
    return tuple(
        proportion(
            name,
            values,
            None if base is None else base[name],
            counted="questions",
            chance=chance,
        )
        for name, values in hits.items()
    )
