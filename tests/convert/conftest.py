"""A text in the words that the small models of these tests know."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="session")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """4,000 words, some far more frequent than others."""
    draw = random.Random(3)
    file = tmp_path_factory.mktemp("words") / "words.txt"
    file.write_text(" ".join(f"w{int(511 * draw.random() ** 2) + 1}" for _ in range(4000)))
    return file
