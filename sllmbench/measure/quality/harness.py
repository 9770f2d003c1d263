"""Tasks of lm-evaluation-harness (extra ``eval``), with our models given to it as models.

Results keep the harness's keys, as ``acc,none``; what each document scored is kept too, so that
paths can be compared on the same documents.
"""

from __future__ import annotations

import importlib.util
import itertools
import logging
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sllmbench.checkpoints.base import Progress, silent
from sllmbench.errors import InputError
from sllmbench.measure.quality.scoring import Answer, Item, score_answers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sllmbench.runners import Runner

_LONGEST = 2048
"""Tokens of a sequence where the model has no limit."""
_GENERATED = 256
"""Tokens to write where a task does not say how many, as the harness's own models do."""


_BOOTSTRAPS = 1000
"""Of the few metrics whose standard error has no formula."""


def unavailable() -> str | None:
    """Why no task can run; None if the library is there."""
    if importlib.util.find_spec("lm_eval") is None:
        return "lm-evaluation-harness is missing: pip install 'sllmbench[eval]'"
    return None


def check(task: str) -> None:
    """Load a task, which fetches its data where a hub is, so that processes find them later.

    Args:
        task: a name of the harness's, or a YAML file.

    Raises:
        InputError: the library is missing, or it does not know the task or cannot get its data.
    """
    reason = unavailable()
    if reason is not None:
        raise InputError(f"cannot run harness:{task}: {reason}")
    _load(task)


def evaluate(
    runner: Runner,
    tokenizer: Any,
    task: str,
    *,
    limit: int | None = None,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Run a task.

    Args:
        runner: the model.
        tokenizer: its transformers tokenizer.
        task: a name of the harness's, or a YAML file.
        limit: documents, the first ones; None takes all.
        progress: told how far the requests are.

    Returns:
        ``results``: the harness's figures by task and key; ``samples``: what each document scored,
        by task, then key, where that is a number; ``n``: documents by task; ``higher``: whether
        a metric is better when higher, by task and metric; ``fewshot``: examples in the prompt.

    Raises:
        InputError: the task cannot be loaded or asks for what the model cannot do.
    """
    import lm_eval

    manager = _load(task)
    done = lm_eval.simple_evaluate(
        model=_language_model(runner, tokenizer, progress),
        tasks=[task],
        task_manager=manager,
        limit=limit,
        bootstrap_iters=_BOOTSTRAPS,
        log_samples=True,
    )
    assert done is not None  # only other ranks than the first get nothing
    return {
        "results": {
            name: {key: value for key, value in figures.items() if _is_number(value)}
            for name, figures in done["results"].items()
        },
        "samples": {name: _by_metric(rows) for name, rows in done["samples"].items()},
        "n": {name: counts["effective"] for name, counts in done["n-samples"].items()},
        "higher": done["higher_is_better"],
        "fewshot": done["n-shot"],
    }


def _load(task: str) -> Any:
    """A manager that has loaded the task once.

    Raises:
        InputError: the harness does not know the task, or cannot get its data.
    """
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    from lm_eval.tasks import TaskManager

    is_file = task.endswith((".yaml", ".yml"))
    if is_file and not Path(task).is_file():
        raise InputError(f"there is no task file {task}")
    manager = TaskManager(include_defaults=not is_file)
    try:
        manager.load([task])
    except Exception as error:  # whatever a task's file, its functions and the hub may raise
        words = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(
            f"lm-evaluation-harness cannot load {task}: {words}"
            " (a task's data come from a hub, unless it names files)"
        ) from error
    return manager


def _language_model(runner: Runner, tokenizer: Any, progress: Progress) -> Any:
    """The runner as the harness's kind of model; its base class is imported with the library."""
    from lm_eval import utils
    from lm_eval.api.model import TemplateLM

    class LanguageModel(TemplateLM):  # type: ignore[misc]
        """Encodes as the harness does, scores as we do."""

        def __init__(self) -> None:
            super().__init__()
            self.tokenizer = tokenizer

        @property
        def eot_token_id(self) -> int:
            """The token that ends a text."""
            if tokenizer.eos_token_id is None:
                raise InputError("the tokenizer names no token that ends a text")
            return int(tokenizer.eos_token_id)

        @property
        def prefix_token_id(self) -> int:
            """What stands before a text that has nothing before it."""
            bos = tokenizer.bos_token_id
            return self.eot_token_id if bos is None else int(bos)

        def tok_encode(
            self, string: str, add_special_tokens: bool | None = None, **_: Any
        ) -> list[int]:
            """Without BOS unless the harness asks for it, as its own transformers model."""
            special = bool(add_special_tokens)
            ids = tokenizer(string, add_special_tokens=special, verbose=False)["input_ids"]
            return [int(token) for token in ids]

        def _loglikelihood_tokens(
            self, requests: Sequence[tuple[Any, list[int], list[int]]], **_: Any
        ) -> list[tuple[float, bool]]:
            scores = score_answers(
                runner, _grouped(requests, runner), what="scoring the requests", progress=progress
            )
            flat = list(itertools.chain.from_iterable(scores))
            return [(score.log_likelihood, score.greedy) for score in flat]

        def loglikelihood_rolling(self, requests: Sequence[Any], **_: Any) -> list[float]:
            """A text's log-likelihood in windows of the model's length."""
            totals = []
            for request in requests:
                windows = utils.get_rolling_token_windows(
                    token_list=self.tok_encode(request.args[0]),
                    prefix_token=self.prefix_token_id,
                    max_seq_len=(runner.positions or _LONGEST) - 1,
                    context_len=1,
                )
                pairs = [utils.make_disjoint_window(window) for window in windows]
                scores = self._loglikelihood_tokens([(None, *pair) for pair in pairs])
                totals.append(math.fsum(value for value, _ in scores))
            return totals

        def generate_until(self, requests: Sequence[Any], **_: Any) -> list[str]:
            """Greedy text up to the first of the stop words."""
            texts = []
            for number, request in enumerate(requests):
                progress("writing the answers", number / len(requests))
                texts.append(_write(runner, tokenizer, self.tok_encode, *request.args))
            return texts

    return LanguageModel()


def _grouped(requests: Sequence[tuple[Any, list[int], list[int]]], runner: Runner) -> list[Item]:
    """Requests as items, neighbours with one context together; long contexts lose their start."""
    items: list[Item] = []
    for _, context, continuation in requests:
        prompt = tuple(context)
        if runner.positions is not None:
            room = runner.positions - len(continuation)
            if room < 1:
                raise InputError(
                    f"a request of {len(continuation)} tokens is longer than the model's"
                    f" {runner.positions} positions"
                )
            prompt = prompt[-room:]
        answer = Answer(tuple(continuation), len(continuation))
        if items and items[-1].prompt == prompt:
            items[-1] = Item(prompt, (*items[-1].answers, answer))
        else:
            items.append(Item(prompt, (answer,)))
    return items


def _write(
    runner: Runner, tokenizer: Any, encode: Any, context: str, settings: dict[str, Any]
) -> str:
    """What the model writes behind a context, greedily.

    Raises:
        InputError: the task wants something other than greedy decoding.
    """
    if settings.get("do_sample") or float(settings.get("temperature") or 0) > 0:
        raise InputError("this task samples its answers; only greedy decoding is measured here")
    stops = settings.get("until") or []
    stops = [stops] if isinstance(stops, str) else list(stops)
    n = int(settings.get("max_gen_toks") or _GENERATED)
    ids = encode(context)
    positions = runner.positions
    if positions is not None:
        if n >= positions:
            raise InputError(f"{n} tokens to write are more than the model's {positions} positions")
        ids = ids[-(positions - n) :]

    def text_of(found: list[int]) -> str:
        return str(tokenizer.decode(found, skip_special_tokens=True))

    def ended(found: list[int]) -> bool:
        if not found:
            return False
        return found[-1] == tokenizer.eos_token_id or any(s in text_of(found) for s in stops)

    text = text_of(runner.generate(ids, n, ended))
    return text[: min((text.index(s) for s in stops if s in text), default=len(text))]


def _by_metric(rows: Sequence[dict[str, Any]]) -> dict[str, list[float]]:
    """What each document scored, in their order, by metric and filter, where all are numbers."""
    found: dict[str, list[float]] = {}
    for key in {row["filter"]: None for row in rows}:
        ordered = sorted((r for r in rows if r["filter"] == key), key=lambda row: row["doc_id"])
        for name in ordered[0]["metrics"]:
            if all(_is_number(row.get(name)) for row in ordered):
                found[f"{name},{key}"] = [float(row[name]) for row in ordered]
    return found


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
