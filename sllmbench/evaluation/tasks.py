"""The tasks of ``sllmbench eval``: what a path's process is asked, and the figures of its reply."""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sllmbench.errors import InputError
from sllmbench.measure.quality import choice, retrieval
from sllmbench.measure.quality.commands import plain
from sllmbench.measure.quality.divergence import TOP_K
from sllmbench.measure.quality.intervals import mean, paired_means, proportion, quantile, with_error
from sllmbench.measure.quality.perplexity import cut, definition, perplexity

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from sllmbench.assets.questions import Question
    from sllmbench.measure.quality.retrieval import Haystack
    from sllmbench.record import Metric

Reply = dict[str, Any]


class Task(ABC):
    """Something that every path does with the same items.

    Attributes:
        name: as it was asked for.
        data: what is read and how much of it.
        definition: the prompt's format, or the cut of the text.
        notes: what was left out and why.
        seed: of what was drawn by chance; None where nothing was.
        compares: whether it compares predictions with the reference's, which are kept in a file.
    """

    name: str
    data: str
    definition: str
    notes: tuple[str, ...] = ()
    seed: int | None = None
    compares = False

    @abstractmethod
    def question(self) -> dict[str, Any]:
        """The arguments of the command ``score``."""

    @abstractmethod
    def metrics(self, reply: Reply, reference: Reply | None) -> tuple[Metric, ...]:
        """The figures of a reply, and how they differ from those of the reference's reply."""

    @abstractmethod
    def samples(self, reply: Reply) -> dict[str, tuple[float, ...]]:
        """What the record keeps of each item."""


class TextTask(Task):
    """Perplexity on a text, by token, word and byte, and the divergence from the reference."""

    compares = True

    def __init__(
        self, name: str, text_name: str, encoded: EncodedText, context: int, stride: int
    ) -> None:
        """Take the text's tokens; what is scored of it is decided by the cut."""
        self.name = name
        self._text_name, self._encoded = text_name, encoded
        self._context, self._stride = context, stride
        windows = cut(len(encoded.ids), context, stride)
        scored = np.concatenate([np.arange(w.first, w.end) for w in windows])
        self._n_bytes = self._n_words = None
        self.data = f"{text_name}: {len(scored)} tokens scored"
        if encoded.n_bytes is not None and encoded.n_words is not None:
            self._n_bytes = int(encoded.n_bytes[scored].sum())
            self._n_words = int(encoded.n_words[scored].sum())
            self.data += f", {self._n_words} words, {self._n_bytes} bytes (UTF-8)"
        else:
            self.notes = ("no figures by word and byte: the tokenizer says not where a token lies",)
        self.definition = f"context {context}, stride {stride}; {definition(context, stride)}"

    def question(self) -> dict[str, Any]:
        """The text."""
        return {
            "kind": "text",
            "ids": self._encoded.ids,
            "text_name": self._text_name,
            "context": self._context,
            "stride": self._stride,
        }

    def metrics(self, reply: Reply, reference: Reply | None) -> tuple[Metric, ...]:
        """Perplexities with paired differences; divergence and agreement where compared."""
        nll = np.array(reply["nll"])
        base = None if reference is None else np.array(reference["nll"])
        units: list[tuple[str, int | None]] = [
            ("perplexity", len(nll)),
            ("word_perplexity", self._n_words),
        ]
        found = [self._perplexity(name, nll, base, n) for name, n in units if n]
        if self._n_bytes:
            each = math.log(2) * self._n_bytes / len(nll)
            found.append(
                mean(
                    "bits_per_byte",
                    float(nll.mean()) / each,
                    nll / each,
                    None if base is None else (float(base.mean()) / each, base / each),
                    counted="tokens",
                    higher_is_better=False,
                )
            )
        return (*found, *_divergence(reply))

    def samples(self, reply: Reply) -> dict[str, tuple[float, ...]]:
        """NLL of every token, divergence of every position."""
        return {key: tuple(map(float, reply[key])) for key in reply}

    def _perplexity(
        self, name: str, nll: NDArray[np.float64], base: NDArray[np.float64] | None, units: int
    ) -> Metric:
        """Exp of the NLL a unit: what a token adds is its NLL times tokens a unit and the value."""
        each = len(nll) / units

        def of(values: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
            value = perplexity(values * each, self._text_name)
            return value, values * each * value

        reference = None if base is None else of(base)
        return mean(name, *of(nll), reference, counted="tokens", higher_is_better=False)


class ChoiceTask(Task):
    """Multiple choice by the log-likelihood of the answers."""

    def __init__(self, name: str, prompt: str, questions: Sequence[Question], items: Any) -> None:
        """Take questions, and the same as tokens."""
        self.name, self.definition = name, prompt
        self.data = f"{len(questions)} questions, the packaged ones"
        self._questions, self._items = questions, items

    def question(self) -> dict[str, Any]:
        """The items."""
        return {"kind": "answers", "items": plain(self._items), "what": self.name}

    def metrics(self, reply: Reply, reference: Reply | None) -> tuple[Metric, ...]:
        """Accuracies."""
        base = None if reference is None else reference["log_likelihoods"]
        return choice.metrics(reply["log_likelihoods"], base, self._questions)

    def samples(self, reply: Reply) -> dict[str, tuple[float, ...]]:
        """Every answer's log-likelihood, question after question."""
        return {"log_likelihood": tuple(v for row in reply["log_likelihoods"] for v in row)}


class RetrievalTask(Task):
    """Keys found in texts of several lengths."""

    def __init__(
        self, name: str, text_name: str, stacks: Sequence[Haystack], seed: int, notes: Sequence[str]
    ) -> None:
        """Take the texts with their keys."""
        self.name, self.seed, self.notes = name, seed, tuple(notes)
        self._stacks = stacks
        lengths = list(dict.fromkeys(stack.length for stack in stacks))
        each = len(stacks) // len(lengths)
        self.data = (
            f"{text_name}: {each} texts of {', '.join(map(str, lengths))} tokens,"
            f" {len(retrieval.DEPTHS)} keys in each"
        )
        self.definition = f"{retrieval.PROMPT}; keys of one text share it, yet count as independent"

    def question(self) -> dict[str, Any]:
        """The texts, each with its keys' questions."""
        items = plain([stack.item for stack in self._stacks])
        return {"kind": "answers", "items": items, "what": self.name}

    def metrics(self, reply: Reply, reference: Reply | None) -> tuple[Metric, ...]:
        """Accuracies by length and depth."""
        base = None if reference is None else reference["greedy"]
        return retrieval.metrics(reply["greedy"], base, self._stacks)

    def samples(self, reply: Reply) -> dict[str, tuple[float, ...]]:
        """Whether each key was found, text after text, and its log-likelihood."""
        return {
            "found": tuple(float(v) for row in reply["greedy"] for v in row),
            "log_likelihood": tuple(v for row in reply["log_likelihoods"] for v in row),
        }


class HarnessTask(Task):
    """A task of lm-evaluation-harness."""

    def __init__(self, name: str, model: str, task: str, limit: int | None) -> None:
        """Take the task's name or file; the path's process loads it."""
        self.name = name
        self.data = f"lm-evaluation-harness {_harness_version()}, {Path(task).name}"
        self.data += "" if limit is None else f", the first {limit} documents of each task"
        self.definition = "as the task says, no chat template"
        self._arguments = {"kind": "harness", "model": model, "task": task, "limit": limit}

    def question(self) -> dict[str, Any]:
        """The task's name."""
        return self._arguments

    def metrics(self, reply: Reply, reference: Reply | None) -> tuple[Metric, ...]:
        """The harness's figures under its keys; paired where documents have a figure each."""
        several = len(reply["results"]) > 1
        found = []
        for task, figures in reply["results"].items():
            for key, value in figures.items():
                metric, comma, rest = key.partition(",")
                if not comma or metric.endswith("_stderr"):
                    continue
                error = figures.get(f"{metric}_stderr,{rest}")
                name = f"{task}/{key}" if several else key
                higher = reply["higher"].get(task, {}).get(metric)
                n = reply["n"].get(task) or len(reply["samples"].get(task, {}).get(key, ()))
                own = reply["samples"].get(task, {}).get(key)
                base = None if reference is None else reference["samples"].get(task, {}).get(key)
                found.append(_harness_metric(name, value, error, n, higher, own, base))
        return tuple(found)

    def samples(self, reply: Reply) -> dict[str, tuple[float, ...]]:
        """What each document scored."""
        return {
            f"{task}/{key}": tuple(values)
            for task, keys in reply["samples"].items()
            for key, values in keys.items()
        }


class EncodedText:
    """A text's tokens and what of the text each covers.

    Attributes:
        ids: the tokens.
        n_bytes: UTF-8 bytes that each adds to those before it; None where that is unknown.
        n_words: words (what blanks part) that begin in it; None where that is unknown.
    """

    def __init__(self, tokenizer: Any, content: str, count: int, name: str) -> None:
        """Take the first ``count`` tokens, without BOS.

        Raises:
            InputError: there are fewer.
        """
        fast = bool(getattr(tokenizer, "is_fast", False))
        extra = {"return_offsets_mapping": True} if fast else {}
        found = tokenizer(content, add_special_tokens=False, verbose=False, **extra)
        self.ids: list[int] = found["input_ids"][:count]
        if len(self.ids) < count:
            raise InputError(
                f"the text {name} has {len(self.ids)} tokens and {count} are needed;"
                " lower --eval-tokens or choose another text"
            )
        self.n_bytes: NDArray[np.int64] | None = None
        self.n_words: NDArray[np.int64] | None = None
        if fast:
            ends = np.maximum.accumulate([end for _, end in found["offset_mapping"][:count]])
            covered = content[: ends[-1]]
            sizes = np.cumsum([0, *(len(sign.encode()) for sign in covered)])
            starts = [match.start() for match in re.finditer(r"\S+", covered)]
            self.n_bytes = np.diff(sizes[ends], prepend=0)
            self.n_words = np.diff(np.searchsorted(starts, ends), prepend=0)


def _divergence(reply: Reply) -> list[Metric]:
    """The figures of the comparison with the reference's predictions, if there was one."""
    if "kl" not in reply:
        return []
    kl, shared = np.array(reply["kl"]), np.array(reply["top_k"])
    return [
        mean("kl", float(kl.mean()), kl, counted="positions", higher_is_better=False),
        quantile("kl median", kl, 0.5, counted="positions"),
        quantile("kl p99", kl, 0.99, counted="positions"),
        proportion("top-1", np.array(reply["top1"], bool), counted="positions"),
        mean(
            f"top-{TOP_K}",
            float(shared.mean()),
            shared,
            counted="positions",
            higher_is_better=True,
        ),
    ]


def _harness_metric(
    name: str,
    value: float,
    error: float | None,
    n: int,
    higher_is_better: bool | None,
    own: Sequence[float] | None,
    base: Sequence[float] | None,
) -> Metric:
    """The harness's value and standard error; a share gets what every other share gets."""
    difference = None
    if own is not None:
        values = np.array(own)
        if set(own) <= {0.0, 1.0} and abs(values.mean() - value) < 1e-9:
            hits = None if base is None else np.array(base) == 1
            share = proportion(name, values == 1, hits, counted="documents")
            return share.model_copy(update={"stderr": error, "higher_is_better": higher_is_better})
        if base is not None and abs(values.mean() - value) < 1e-9:
            difference = paired_means(float((values - base).mean()), values - np.array(base))
    return with_error(
        name,
        value,
        error,
        n=n,
        counted="documents",
        higher_is_better=higher_is_better,
        difference=difference,
    )


def _harness_version() -> str:
    from importlib import metadata

    return metadata.version("lm_eval")
