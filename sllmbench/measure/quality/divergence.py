"""How far a path's predictions are from a reference path's, token by token."""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import torch

from sllmbench.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

_FILE_FORMAT = "sllmbench log-probs 2"
_HEADER_BYTES = 4096
_SUBJECT = {
    "vocab": "a vocabulary of",
    "context": "a context of",
    "stride": "a stride of",
    "ids_sha256": "token ids with SHA-256",
}
"""What must be equal of both, as a message names it."""
TOP_K = 5
"""Tokens whose agreement is counted beside that of the first."""


@dataclass(frozen=True)
class Divergence:
    """The comparison of each position that the reference holds.

    Attributes:
        reference_path: the reference path's name.
        kl: KL(reference ‖ this path) in nats, float64 [n].
        top1: whether both put the same token first, bool [n].
        top_k: the share of the reference's :data:`TOP_K` likeliest tokens that are among this
            path's, float64 [n].
    """

    reference_path: str
    kl: NDArray[np.float64]
    top1: NDArray[np.bool_]
    top_k: NDArray[np.float64]


class ReferenceLogProbs:
    """Stored log-probabilities of a reference path, read a few positions at a time.

    The file is one line of JSON padded to 4,096 bytes, then little-endian float32 rows, one a
    scored position.

    Attributes:
        path_name: the reference path's name.
        rows: positions stored.
        vocab: entries a position.
    """

    def __init__(self, file: Path) -> None:
        """Read the header.

        Raises:
            InputError: the file is unreadable, of another format or not complete.
        """
        try:
            with file.open("rb") as stream:
                header = json.loads(stream.read(_HEADER_BYTES))
                size = stream.seek(0, 2)
        except OSError as error:
            raise InputError(f"cannot read the reference {file}: {error.strerror}") from error
        except ValueError as error:
            raise InputError(f"{file} is no file of reference log-probabilities") from error
        if not isinstance(header, dict) or header.get("format") != _FILE_FORMAT:
            raise InputError(f"{file} is no file of reference log-probabilities")
        self.path_name = str(header["path"])
        self.rows = int(header["rows"])
        self.vocab = int(header["vocab"])
        self._file = file
        self._subject = {key: header[key] for key in _SUBJECT}
        expected = _HEADER_BYTES + 4 * self.rows * self.vocab
        if size != expected:
            raise InputError(
                f"the reference {file} has {size} bytes where {expected} were to be written: "
                "its run did not finish; run the reference again"
            )

    def require(self, subject: dict[str, Any]) -> None:
        """Refuse to be compared with another text, cut or vocabulary.

        Raises:
            InputError: vocabulary, context, stride or ids differ.
        """
        for key, what in _SUBJECT.items():
            if self._subject[key] != subject[key]:
                raise InputError(
                    f"the reference {self.path_name} has {what} {self._subject[key]}, this run "
                    f"{subject[key]}: run the reference on the same text and settings"
                )

    def read(self, start: int, count: int) -> torch.Tensor:
        """Return log-probabilities [count, vocab] from position ``start``, float32."""
        rows = np.fromfile(
            self._file,
            dtype="<f4",
            count=count * self.vocab,
            offset=_HEADER_BYTES + 4 * start * self.vocab,
        )
        return torch.from_numpy(rows.reshape(count, self.vocab))


class Comparison:
    """Gathers divergence and agreement while the reference has positions left."""

    def __init__(self, reference: ReferenceLogProbs | None) -> None:
        """Compare with ``reference``; with None nothing is compared."""
        self._reference = reference
        self._kl: list[NDArray[np.float64]] = []
        self._top1: list[NDArray[np.bool_]] = []
        self._top_k: list[NDArray[np.float64]] = []
        self._done = 0

    def add(self, log_probs: torch.Tensor) -> None:
        """Compare the next positions, [rows, vocab]."""
        if self._reference is None:
            return
        count = min(len(log_probs), self._reference.rows - self._done)
        if count == 0:
            return
        expected, actual = self._reference.read(self._done, count), log_probs[:count]
        probs = expected.exp()
        # A token that the reference rules out adds nothing, even where its logarithm is infinite.
        terms = ((expected - actual) * probs).masked_fill_(probs == 0, 0)
        self._kl.append(terms.sum(-1, dtype=torch.float64).numpy())
        k = min(TOP_K, expected.shape[-1])
        first, second = expected.topk(k).indices, actual.topk(k).indices
        self._top1.append((expected.argmax(-1) == actual.argmax(-1)).numpy())
        shared = (first[:, :, None] == second[:, None, :]).any(-1)
        self._top_k.append(shared.double().mean(-1).numpy())
        self._done += count

    def result(self) -> Divergence | None:
        """What was compared; None without a reference.

        Raises:
            InputError: a divergence is infinite.
        """
        if self._reference is None:
            return None
        kl = np.concatenate(self._kl)
        if not np.isfinite(kl).all():
            raise InputError(
                f"the divergence from {self._reference.path_name} is infinite: this path rules "
                "out a token that the reference does not"
            )
        return Divergence(
            self._reference.path_name, kl, np.concatenate(self._top1), np.concatenate(self._top_k)
        )


class LogProbWriter:
    """Writes log-probabilities as they come; a file that is not finished is refused by its size."""

    def __init__(self, file: Path | None, path: str, subject: dict[str, Any], rows: int) -> None:
        """Write ``rows`` positions of ``path`` to ``file``; with None nothing is written."""
        self._file = file
        header = {"format": _FILE_FORMAT, "path": path, "rows": rows, **subject}
        self._header = json.dumps(header).encode().ljust(_HEADER_BYTES - 1) + b"\n"
        self._left = rows
        self._stream: BinaryIO | None = None

    def __enter__(self) -> LogProbWriter:
        """Open the file.

        Raises:
            InputError: it cannot be written.
        """
        if self._file is not None:
            with self._refusals():
                self._stream = self._file.open("wb")
                self._stream.write(self._header)
        return self

    def __exit__(self, *error: object) -> None:
        """Close the file."""
        if self._stream is not None:
            with self._refusals():
                self._stream.close()

    def add(self, log_probs: torch.Tensor) -> None:
        """Write the next positions, [rows, vocab], as far as they are wanted."""
        if self._stream is None or self._left == 0:
            return
        wanted = log_probs[: self._left]
        with self._refusals():
            wanted.numpy().astype("<f4", copy=False).tofile(self._stream)
        self._left -= len(wanted)

    @contextmanager
    def _refusals(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            why = error.strerror or error
            raise InputError(f"cannot write log-probabilities to {self._file}: {why}") from error
