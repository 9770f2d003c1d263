"""Key retrieval: can the model repeat a key that stood anywhere in a text of a given length?

Keys are hidden in packaged text at five depths; all five are asked for behind the same text, so
that it is read once::

    HEADER sentence sentence KEY(10%) sentence … KEY(90%) sentence ⏎⏎ The pass key of NAME is …

A key counts where greedy decoding gives all its digits.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from sllmbench.errors import InputError
from sllmbench.measure.quality.intervals import proportion
from sllmbench.measure.quality.scoring import Answer, Item

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sllmbench.record import Metric

LENGTHS = (256, 512, 1024, 2048, 4096, 8192)
DEPTHS = (0.1, 0.3, 0.5, 0.7, 0.9)
DIGITS = 5
PROMPT = (
    "sentences of the text, five of them “The pass key of NAME is DDDDD.”; then “The pass key of"
    " NAME is”, the digits greedily; a length counts every token, the key's too"
)
_HEADER = "There are pass keys hidden in the text below. Remember them.\n\n"
_NAMES = ("amber", "river", "falcon", "maple", "copper", "garden", "winter", "harbor")


@dataclass(frozen=True)
class Haystack:
    """A text with its keys, and the answers that ask for them, one a depth."""

    length: int
    item: Item


def haystacks(
    tokenizer: Any, text: str, lengths: Sequence[int], each: int, seed: int
) -> list[Haystack]:
    """Make ``each`` texts of every length, the same for the same arguments.

    Raises:
        InputError: a length has no room for the keys, or the text is shorter than a length.
    """
    sentences = [_ids(tokenizer, f"{s} ") for s in re.split(r"(?<=[.!?])\s+", text) if s.strip()]
    made = []
    for length in lengths:
        for number in range(each):
            generator = random.Random(f"{seed} {length} {number}")
            made.append(Haystack(length, _item(tokenizer, sentences, length, generator)))
    return made


def found(greedy: Sequence[Sequence[bool]]) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Which keys were repeated, [haystack, depth]."""
    return np.array(greedy, bool)


def metrics(
    greedy: Sequence[Sequence[bool]],
    reference: Sequence[Sequence[bool]] | None,
    stacks: Sequence[Haystack],
) -> tuple[Metric, ...]:
    """Accuracy over all, of each length, and of each depth within a length."""
    hits = found(greedy)
    base = None if reference is None else found(reference)
    lengths = np.array([stack.length for stack in stacks])
    everything = np.ones(len(stacks), bool)

    def share(name: str, rows: np.ndarray[Any, Any], columns: slice) -> Metric:
        return proportion(
            name,
            hits[rows, columns].ravel(),
            None if base is None else base[rows, columns].ravel(),
            counted="keys",
            chance=10.0**-DIGITS,
        )

    every = [(length, lengths == length) for length in dict.fromkeys(lengths.tolist())]
    return (
        share("acc", everything, slice(None)),
        *(share(f"acc@{length}", rows, slice(None)) for length, rows in every),
        *(
            share(f"acc@{length}/depth {depth:.0%}", rows, slice(column, column + 1))
            for length, rows in every
            for column, depth in enumerate(DEPTHS)
        ),
    )


def _item(
    tokenizer: Any,
    sentences: Sequence[tuple[int, ...]],
    length: int,
    generator: random.Random,
) -> Item:
    """A text of ``length`` tokens with the longest question behind it."""
    names = generator.sample(_NAMES, len(DEPTHS))
    keys = ["".join(generator.choices("0123456789", k=DIGITS)) for _ in DEPTHS]
    needles = [
        _ids(tokenizer, f"The pass key of {name} is {key}. ")
        for name, key in zip(names, keys, strict=True)
    ]
    answers = tuple(_question(tokenizer, name, key) for name, key in zip(names, keys, strict=True))
    header = _ids(tokenizer, _HEADER)
    room = length - len(header) - sum(map(len, needles)) - max(len(a.ids) for a in answers)
    if room < len(DEPTHS):
        raise InputError(f"a context of {length} tokens has no room for {len(DEPTHS)} keys")
    body = list(header)
    places = iter(zip((depth * room for depth in DEPTHS), needles, strict=True))
    place = next(places, None)
    filled = 0
    for sentence in _from(sentences, generator):
        taken = sentence[: room - filled]
        body += taken
        filled += len(taken)
        while place is not None and filled >= place[0]:
            body += place[1]
            place = next(places, None)
        if filled == room:
            return Item(tuple(body), answers)
    raise InputError(f"the text has too few sentences for a context of {length} tokens")


def _question(tokenizer: Any, name: str, key: str) -> Answer:
    asked = f"\n\nThe pass key of {name} is"
    whole, alone = _ids(tokenizer, f"{asked} {key}"), _ids(tokenizer, asked)
    return Answer(whole, len(whole) - len(alone))


def _from(
    sentences: Sequence[tuple[int, ...]], generator: random.Random
) -> Iterator[tuple[int, ...]]:
    """Every sentence once, in the text's order, from a place of chance on."""
    start = generator.randrange(len(sentences))
    yield from sentences[start:]
    yield from sentences[:start]


def _ids(tokenizer: Any, text: str) -> tuple[int, ...]:
    return tuple(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
