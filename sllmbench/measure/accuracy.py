"""Perplexity on a text, and the divergence from a reference path's predictions."""

from __future__ import annotations

import hashlib
import json
import math
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import torch

from sllmbench.checkpoints.base import Progress, silent
from sllmbench.errors import InputError
from sllmbench.measure.checks import require_positions
from sllmbench.record import Quality

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sllmbench.runners import Runner

DEFINITION = (
    "exp of mean token NLL; non-overlapping windows, no BOS, a shorter last window included; "
    "standard error by the delta method, tokens taken as independent"
)
_FILE_FORMAT = "sllmbench log-probs 1"
_HEADER_BYTES = 4096
_SLICE_BYTES = 64 * 1024**2
"""Logits of this many bytes exist at a time: a window of a large vocabulary takes gigabytes."""


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
    """Score a text with a model.

    The text is cut into windows of ``context`` tokens; each is read on its own and scores all of
    its tokens but the first. What is left at the end is a shorter window, scored if it has at
    least two tokens. Sums are in float64, log-probabilities in float32.

    Args:
        runner: the model.
        ids: the text's token ids, [n] integers, n >= 3.
        text_name: the text's name, for the record.
        context: tokens a window, at least 2.
        save_log_probs: where to write the log-probabilities of the first ``kl_tokens`` scored
            positions, for :class:`ReferenceLogProbs`; 4 bytes a token and vocabulary entry.
        reference: what to compare with: the mean of KL(reference ‖ this model) in nats a token,
            and how often both put the same token first, over the positions that it holds.
        kl_tokens: how many positions to save, at least 2.
        progress: told the fraction of windows done.

    Raises:
        InputError: too few ids, ids outside the vocabulary, windows longer than the model's
            positions, a reference of other ids, context or vocabulary, a file that cannot be
            written, or predictions that are not finite.
    """
    _check(runner, ids, context, kl_tokens)
    windows = [window for window in torch.split(ids, context) if len(window) > 1]
    n_scored = sum(len(window) - 1 for window in windows)
    subject = {"vocab": runner.vocab_size, "context": context, "ids_sha256": _sha256(ids)}
    if reference is not None:
        reference.require(subject)
    nll = np.empty(n_scored, np.float64)
    comparison = _Comparison(reference)
    done = 0
    with _Writer(save_log_probs, runner.path, subject, min(kl_tokens, n_scored)) as writer:
        for number, window in enumerate(windows):
            progress(f"perplexity on {text_name}", number / len(windows))
            for log_probs, targets in _predictions(runner, window):
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
    mean = float(nll.mean())
    if mean > math.log(np.finfo(np.float64).max):
        raise InputError(f"the perplexity on {text_name} is beyond float64: the model is broken")
    perplexity = math.exp(mean)
    return Quality(
        perplexity=perplexity,
        perplexity_stderr=perplexity * _standard_error(nll),
        definition=DEFINITION,
        text=text_name,
        context=context,
        stride=context,
        n_tokens=n_scored,
        **comparison.fields(),
    )


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
        self._subject = {key: header[key] for key in ("vocab", "context", "ids_sha256")}
        expected = _HEADER_BYTES + 4 * self.rows * self.vocab
        if size != expected:
            raise InputError(
                f"the reference {file} has {size} bytes where {expected} were to be written: "
                "its run did not finish; run the reference again"
            )

    def require(self, subject: dict[str, Any]) -> None:
        """Refuse to be compared with another text, cut or vocabulary.

        Raises:
            InputError: vocabulary, context or ids differ.
        """
        for key, what in (
            ("vocab", "a vocabulary of"),
            ("context", "a context of"),
            ("ids_sha256", "token ids with SHA-256"),
        ):
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


class _Comparison:
    """Gathers divergence and agreement while the reference has positions left."""

    def __init__(self, reference: ReferenceLogProbs | None) -> None:
        self._reference = reference
        rows = 0 if reference is None else reference.rows
        self._divergence = np.empty(rows, np.float64)
        self._agrees = np.empty(rows, np.float64)
        self._done = 0

    def add(self, log_probs: torch.Tensor) -> None:
        """Compare the next positions, [rows, vocab]."""
        count = min(len(log_probs), len(self._divergence) - self._done)
        if self._reference is None or count == 0:
            return
        expected, actual = self._reference.read(self._done, count), log_probs[:count]
        part = slice(self._done, self._done + count)
        probs = expected.exp()
        # A token that the reference rules out adds nothing, even where its logarithm is infinite.
        terms = ((expected - actual) * probs).masked_fill_(probs == 0, 0)
        self._divergence[part] = terms.sum(-1, dtype=torch.float64).numpy()
        self._agrees[part] = (expected.argmax(-1) == actual.argmax(-1)).numpy()
        self._done += count

    def fields(self) -> dict[str, Any]:
        """The part of :class:`Quality` that compares; None without a reference."""
        if self._reference is None:
            names = ("kl_divergence", "top1_agreement")
            absent = {name: None for base in names for name in (base, f"{base}_stderr")}
            reason = "there was no reference to compare with"
            return {"reference_path": None, "kl_n_tokens": None, "kl_reason": reason, **absent}
        if not np.isfinite(self._divergence).all():
            raise InputError(
                f"the divergence from {self._reference.path_name} is infinite: this path rules "
                "out a token that the reference does not"
            )
        return {
            "reference_path": self._reference.path_name,
            "kl_divergence": float(self._divergence.mean()),
            "kl_divergence_stderr": _standard_error(self._divergence),
            "top1_agreement": float(self._agrees.mean()),
            "top1_agreement_stderr": _standard_error(self._agrees),
            "kl_n_tokens": self._done,
        }


class _Writer:
    """Writes log-probabilities as they come; a file that is not finished is refused by its size."""

    def __init__(self, file: Path | None, path: str, subject: dict[str, Any], rows: int) -> None:
        self._file = file
        header = {"format": _FILE_FORMAT, "path": path, "rows": rows, **subject}
        self._header = json.dumps(header).encode().ljust(_HEADER_BYTES - 1) + b"\n"
        self._left = rows
        self._stream: BinaryIO | None = None

    def __enter__(self) -> _Writer:
        if self._file is not None:
            with self._refusals():
                self._stream = self._file.open("wb")
                self._stream.write(self._header)
        return self

    def __exit__(self, *error: object) -> None:
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


def _predictions(
    runner: Runner, window: torch.Tensor
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield float32 log-probabilities [rows, vocab] and targets [rows], slice by slice."""
    rows = max(1, _SLICE_BYTES // (4 * runner.vocab_size))
    done = 1
    for logits in runner.sequence_logits(window[:-1].tolist(), rows):
        yield torch.log_softmax(logits.float(), dim=-1), window[done : done + len(logits)]
        done += len(logits)


def _check(runner: Runner, ids: torch.Tensor, context: int, kl_tokens: int) -> None:
    if ids.ndim != 1 or len(ids) < 3:
        raise InputError(f"token ids have shape {list(ids.shape)}; [n] with n >= 3 is needed")
    if context < 2:
        raise InputError(f"a context of {context} tokens scores nothing; at least 2 are needed")
    if kl_tokens < 2:
        raise InputError(f"{kl_tokens} tokens to compare are too few; at least 2 are needed")
    require_positions(runner, min(context, len(ids)))
    if int(ids.min()) < 0 or int(ids.max()) >= runner.vocab_size:
        raise InputError(
            f"token ids reach from {int(ids.min())} to {int(ids.max())}, the model's vocabulary "
            f"from 0 to {runner.vocab_size - 1}: use the model's own tokenizer"
        )


def _standard_error(values: np.ndarray[Any, np.dtype[np.float64]]) -> float:
    return float(values.std(ddof=1)) / math.sqrt(len(values))


def _sha256(ids: torch.Tensor) -> str:
    return hashlib.sha256(ids.numpy().astype("<i8").tobytes()).hexdigest()
