"""Texts with keys in them: as long as they say, the keys where they say, the same every time."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from sllmbench.errors import InputError
from sllmbench.measure.quality.retrieval import DEPTHS, DIGITS, haystacks, metrics

from .conftest import TEXT

LENGTHS = (512, 1024, 2048)
KEY = re.compile(r"The pass key of (\w+) is (\d{5})\. ")


def test_a_text_and_its_longest_question_have_the_length(tokenizer: Any) -> None:
    for stack in haystacks(tokenizer, TEXT, LENGTHS, 3, seed=0):
        assert stack.item.n_tokens == stack.length


def test_every_question_asks_for_a_key_of_its_text(tokenizer: Any) -> None:
    for stack in haystacks(tokenizer, TEXT, LENGTHS, 3, seed=0):
        hidden = dict(KEY.findall(tokenizer.decode(stack.item.prompt)))
        assert len(hidden) == len(DEPTHS)
        for answer in stack.item.answers:
            asked = tokenizer.decode(answer.ids[: -answer.n_scored])
            key = tokenizer.decode(answer.ids[-answer.n_scored :])
            name = re.fullmatch(r"\n\nThe pass key of (\w+) is", asked)
            assert name is not None
            assert key == f" {hidden[name[1]]}"
            assert len(key) == DIGITS + 1


def test_keys_stand_at_their_depths_and_are_asked_for_in_that_order(tokenizer: Any) -> None:
    (stack,) = haystacks(tokenizer, TEXT, (4096,), 1, seed=4)
    text = tokenizer.decode(stack.item.prompt)
    found = list(KEY.finditer(text))
    for match, depth in zip(found, DEPTHS, strict=True):
        assert match.start() / len(text) == pytest.approx(depth, abs=0.03)
    names = [match[1] for match in found]
    asked = [tokenizer.decode(answer.ids) for answer in stack.item.answers]
    assert [re.findall(r"of (\w+) is", question)[0] for question in asked] == names


def test_texts_are_the_same_for_a_seed_and_differ_within_it(tokenizer: Any) -> None:
    first, again, other = (haystacks(tokenizer, TEXT, (512,), 2, seed=s) for s in (1, 1, 2))
    assert first == again
    assert first != other
    assert first[0].item != first[1].item
    # More texts, or other lengths, leave those that there were.
    assert haystacks(tokenizer, TEXT, (256, 512), 3, seed=1)[3:5] == first


def test_no_room_and_no_text_are_refused(tokenizer: Any) -> None:
    with pytest.raises(InputError, match="no room for 5 keys"):
        haystacks(tokenizer, TEXT, (64,), 1, seed=0)
    with pytest.raises(InputError, match="too few sentences"):
        haystacks(tokenizer, "One sentence. Another.", (512,), 1, seed=0)


def test_accuracy_by_length_and_depth(tokenizer: Any) -> None:
    stacks = haystacks(tokenizer, TEXT, (512, 1024), 2, seed=0)
    greedy = np.zeros((4, len(DEPTHS)), bool)
    greedy[:2] = True
    greedy[2, 1] = True
    base = greedy.copy()
    base[2, 1], base[3, 2] = False, True
    found = {m.name: m for m in metrics(greedy.tolist(), base.tolist(), stacks)}
    assert found["acc"].value == 11 / 20
    assert (found["acc@512"].value, found["acc@512"].n) == (1, 10)
    assert found["acc@1024"].value == 0.1
    assert found["acc@1024/depth 30%"].value == 0.5
    assert found["acc@1024/depth 50%"].value == 0
    difference = found["acc@1024"].difference
    assert difference is not None
    assert (difference.n_gained, difference.n_lost) == (1, 1)
    assert found["acc@512"].low is not None
    assert found["acc@512"].low < 1
