"""What a measurement needs of a model, whatever library runs it, and how one is loaded."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Protocol, SupportsInt

from sllmbench.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import torch

    from sllmbench.checkpoints.base import Checkpoint, Progress
    from sllmbench.model import ModelFacts

Libraries = dict[str, str]
"""Versions of the installed libraries of an interpreter, by their names in the package index."""


class Logits(Protocol):
    """The logits of one position, [vocab]: a torch tensor or a NumPy array."""

    def argmax(self) -> SupportsInt:
        """The token to choose."""


class Runner(ABC):
    """A loaded model and the one sequence that it is reading.

    Attributes:
        path: the path's name.
        vocab_size: logits a position.
        positions: tokens that a sequence may have, None where there is no limit.
    """

    path: str
    vocab_size: int
    positions: int | None

    @abstractmethod
    def clear(self, n_tokens: int) -> None:
        """Empty the cache and make room for ``n_tokens``; no clock runs."""

    @abstractmethod
    def feed(self, ids: Sequence[int]) -> Logits:
        """Read ``ids`` behind what was read since :meth:`clear`; the last one's logits, computed.

        They hold until the next call.
        """

    @abstractmethod
    def sequence_logits(self, ids: Sequence[int], rows: int) -> Iterator[torch.Tensor]:
        """Read ``ids`` as a sequence of its own; float logits [at most rows, vocab] of each slice.

        The cache is lost. Each slice holds until the next one.
        """

    def require_positions(self, n_tokens: int) -> None:
        """Refuse a sequence that is longer than the model's positions.

        Raises:
            InputError: it is.
        """
        if self.positions is not None and n_tokens > self.positions:
            raise InputError(
                f"{n_tokens} tokens are more than the model's {self.positions} positions; "
                "ask for fewer"
            )

    def generate(self, ids: Sequence[int], n: int, ended: Callable[[list[int]], bool]) -> list[int]:
        """Decode up to ``n`` tokens greedily behind ``ids``, fewer where those so far have ended.

        Raises:
            InputError: that is more than the model's positions.
        """
        self.require_positions(len(ids) + n)
        self.clear(len(ids) + n)
        found: list[int] = []
        read = ids
        while len(found) < n and not ended(found):
            found.append(int(self.feed(read).argmax()))
            read = found[-1:]
        return found

    @abstractmethod
    def cache_bytes(self) -> int | None:
        """Bytes of keys and values in the cache, None where they are unknown."""

    @abstractmethod
    def facts(self) -> ModelFacts:
        """What the model holds, and which kernels have run in it."""


class ModelPath(ABC):
    """A named way to run a whole model."""

    libraries: tuple[str, ...] = ()
    """What the record names the versions of, besides those that every record names."""

    def __init__(self, name: str, summary: str) -> None:
        """Name the path as the user asks for it, and say in one line what it is."""
        self.name = name
        self.summary = summary

    @abstractmethod
    def unsupported(
        self, checkpoint: Checkpoint | None = None, installed: Mapping[str, str] | None = None
    ) -> str | None:
        """Why this path cannot run here (or cannot run ``checkpoint``); None if it can.

        Args:
            checkpoint: the model.
            installed: versions by name in the interpreter that ``--in`` gives the path; None where
                it runs in this one.
        """

    @abstractmethod
    def prepare(self, checkpoint: Checkpoint, progress: Progress) -> int:
        """Make what loading needs and others can share; bytes of weights that will be in memory.

        It happens before any path's process is started.

        Raises:
            InputError: the model cannot run on this path after all.
        """

    @abstractmethod
    def start_libraries(self, checkpoint: Checkpoint) -> None:
        """Import what loading would import: that is no part of its time and memory."""

    @abstractmethod
    def load(self, checkpoint: Checkpoint, threads: int, progress: Progress) -> Runner:
        """Load the model, to run with so many threads.

        Raises:
            InputError: it cannot be loaded, or so many threads cannot be had.
        """
