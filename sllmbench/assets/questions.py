"""The packaged multiple-choice questions, in the prompts that lm-evaluation-harness gives them."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sllmbench.assets import fetch
from sllmbench.errors import InputError

if TYPE_CHECKING:
    from sllmbench.assets.pip import Progress

QUESTIONS = ("social_iqa", "mmlu")
PROMPTS = {
    "social_iqa": "“Q: CONTEXT QUESTION⏎A:”, then “ ANSWER”, zero-shot, as the harness's"
    " social_iqa",
    "mmlu": "“QUESTION⏎A. …⏎B. …⏎C. …⏎D. …⏎Answer:”, then “ A” … “ D”, zero-shot, as the"
    " harness's mmlu, but without the line that names the subject, which the file lacks",
}
_SOCIAL_IQA = re.compile(r"(.*) A: (.*); B: (.*); C: (.*)\.", re.DOTALL)
_LETTERS = "ABCD"


@dataclass(frozen=True)
class Question:
    """A question and its answers, of which the one at ``right`` is right.

    ``prompt`` and an answer are joined by a space.
    """

    prompt: str
    answers: tuple[str, ...]
    right: int


def questions(name: str, progress: Progress | None = None) -> list[Question]:
    """Return the questions ``social_iqa`` (2,224) or ``mmlu`` (1,000) in the order of the file.

    Raises:
        InputError: no such questions, or they cannot be fetched.
    """
    if name not in QUESTIONS:
        raise InputError(f"unknown questions {name!r}; there are {', '.join(QUESTIONS)}")
    read = _social_iqa if name == "social_iqa" else _mmlu
    with fetch(name, progress).open(encoding="utf-8") as lines:
        return [read(json.loads(line)) for line in lines]


def _social_iqa(line: dict[str, Any]) -> Question:
    """``input`` is one message: context, question and answers behind their letters."""
    (message,) = line["input"]
    found = _SOCIAL_IQA.fullmatch(message["content"])
    assert found is not None  # the file is pinned
    asked, *answers = (part.strip() for part in found.groups())
    return Question(f"Q: {asked}\nA:", tuple(answers), _LETTERS.index(line["ideal"]))


def _mmlu(line: dict[str, str]) -> Question:
    """``question`` holds the answers and ends in ``Answer:``."""
    return Question(line["question"], tuple(_LETTERS), _LETTERS.index(line["answer"]))
