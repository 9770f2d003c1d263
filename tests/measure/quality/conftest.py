"""A tokenizer with the traits of real ones: merges, and spaces that belong to words."""

from __future__ import annotations

from typing import Any

import pytest

TEXT = (
    "The river runs past the old mill. A falcon sits on the copper roof! Nobody knows why it came. "
    "In winter the garden is white; in summer it is amber, they say. Is that so? It is. "
    "Über den Dächern fliegt ein Falke. He asked: what will happen to the others next year? "
) * 400


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    """Byte-level BPE, trained on a text; digits are tokens of their own."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<end>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator([TEXT], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<end>")
