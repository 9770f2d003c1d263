"""What an evaluation will do, checked before any process starts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sllmbench import assets
from sllmbench.assets.questions import PROMPTS, QUESTIONS, questions
from sllmbench.bench.checks import (
    check_arithmetic,
    check_names,
    choose_reference,
    choose_threads,
    runnable,
)
from sllmbench.bench.plan import CONTEXT
from sllmbench.bench.subjects import Subjects
from sllmbench.errors import InputError
from sllmbench.evaluation.tasks import (
    ChoiceTask,
    EncodedText,
    HarnessTask,
    RetrievalTask,
    Task,
    TextTask,
)
from sllmbench.measure.quality import choice, harness, retrieval

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sllmbench.bench.subjects import Subject
    from sllmbench.checkpoints.base import Checkpoint, Progress
    from sllmbench.paths import Arithmetic

TASKS = ("perplexity:TEXT", *QUESTIONS, "longcontext", "harness:TASK")
DEFAULT_PATHS = ("fp32", "int4-g64")
DEFAULT_TASKS = ("perplexity:openwebtext", "social_iqa")
KEYS_A_LENGTH = 20


@dataclass(frozen=True)
class Plan:
    """Everything that is decided before the first process starts.

    Attributes:
        subjects: the model that each path runs.
        paths: in the order in which they run, the reference first.
        asked: the paths in the order of the rows.
        interpreters: the Python of the paths that do not run in this one.
    """

    subjects: Mapping[str, Subject]
    paths: tuple[str, ...]
    asked: tuple[str, ...]
    interpreters: Mapping[str, str]
    reference: str
    tasks: tuple[Task, ...]
    threads: int
    arithmetic: Arithmetic


@dataclass(frozen=True)
class Settings:
    """How much is asked.

    Attributes:
        limit: questions, documents, or keys of a length; None takes all, of keys 20.
        tokens: of a text.
        context: of a perplexity window; None takes 1,024, fewer where the model takes fewer.
        stride: from one window to the next; None takes the context.
        seed: of the keys and their texts.
    """

    limit: int | None
    tokens: int
    context: int | None
    stride: int | None
    seed: int

    def __post_init__(self) -> None:
        """Refuse what measures nothing.

        Raises:
            InputError: a limit below 2, or fewer than 3 tokens.
        """
        if self.limit is not None and self.limit < 2:
            raise InputError(f"a limit of {self.limit} has no interval; at least 2 are needed")
        if self.tokens < 3:
            raise InputError(f"eval_tokens must be at least 3, not {self.tokens}")


def make_plan(
    model: str,
    tasks: Sequence[str],
    path_names: Sequence[str] | None,
    *,
    interpreters: Mapping[str, str],
    settings: Settings,
    reference: str | None,
    threads: int | None,
    arithmetic: str | None,
    models: Mapping[str, str] | None = None,
    progress: Progress,
) -> Plan:
    """Check every argument, open the model and make the items of every task.

    Raises:
        InputError: something cannot be done as asked.
    """
    checked_arithmetic = check_arithmetic(arithmetic)
    thread_count = choose_threads(threads)
    _check_tasks(tasks)
    subjects = Subjects(model, models, progress)
    checkpoint = subjects.main
    names = DEFAULT_PATHS if path_names is None else path_names
    asked = runnable(subjects, names, interpreters, checked_arithmetic)
    check_names(asked, reference)
    reference_path = reference or choose_reference(asked)
    if checkpoint.quality_unavailable is not None:
        raise InputError(
            f"the quality of {model} cannot be measured: {checkpoint.quality_unavailable}"
        )
    maker = _Maker(model, checkpoint, settings, progress)
    return Plan(
        subjects=subjects.facts(asked),
        paths=tuple(sorted(asked, key=lambda name: name != reference_path)),
        asked=asked,
        interpreters=dict(interpreters),
        reference=reference_path,
        tasks=tuple(maker.make(task) for task in tasks),
        threads=thread_count,
        arithmetic=checked_arithmetic,
    )


def _check_tasks(tasks: Sequence[str]) -> None:
    """Refuse unknown tasks, cheaply, before a model is opened."""
    if not tasks:
        raise InputError(f"no tasks to do; choose of {', '.join(TASKS)}")
    for number, task in enumerate(tasks):
        kind, colon, rest = task.partition(":")
        known = bool(rest) if kind in ("perplexity", "harness") else not colon
        if kind not in ("perplexity", "harness", "longcontext", *QUESTIONS) or not known:
            raise InputError(f"unknown task {task!r}; choose of {', '.join(TASKS)}")
        if task in tasks[:number]:
            raise InputError(f"task {task!r} is given twice")
        if kind == "harness":
            harness.check(rest)


class _Maker:
    """Makes tasks for one model."""

    def __init__(
        self, model: str, checkpoint: Checkpoint, settings: Settings, progress: Progress
    ) -> None:
        self._model, self._settings, self._progress = model, settings, progress
        self._tokenizer: Any = checkpoint.tokenizer()
        config = checkpoint.config().get_text_config()
        self._positions: int | None = getattr(config, "max_position_embeddings", None)

    def make(self, task: str) -> Task:
        """Make a task whose name has been checked."""
        kind, _, rest = task.partition(":")
        self._progress(f"preparing {task}", None)
        if kind == "perplexity":
            return self._text(task, rest)
        if kind == "harness":
            return HarnessTask(task, self._model, rest, self._settings.limit)
        if kind == "longcontext":
            return self._longcontext(task)
        asked = questions(kind, self._progress)[: self._settings.limit]
        return ChoiceTask(task, PROMPTS[kind], asked, choice.items(self._tokenizer, asked))

    def _text(self, task: str, name: str) -> Task:
        settings = self._settings
        context = min(CONTEXT, self._positions or CONTEXT)
        context = context if settings.context is None else settings.context
        stride = context if settings.stride is None else settings.stride
        if self._positions is not None and context > self._positions:
            raise InputError(
                f"a context of {context} tokens is more than the model's {self._positions}"
                " positions"
            )
        content = assets.read_text(name, self._progress)
        encoded = EncodedText(self._tokenizer, content, settings.tokens, name)
        return TextTask(task, Path(name).name, encoded, context, stride)

    def _longcontext(self, task: str) -> Task:
        positions, wanted = self._positions, retrieval.LENGTHS
        lengths = [n for n in wanted if positions is None or n <= positions]
        left_out = [str(n) for n in wanted if n not in lengths]
        notes = [f"{', '.join(left_out)} tokens left out: the model has {positions} positions"]
        if not lengths:
            raise InputError(
                f"the model has {positions} positions and longcontext begins at {wanted[0]}"
            )
        keys = self._settings.limit or KEYS_A_LENGTH
        each = -(-keys // len(retrieval.DEPTHS))
        content = assets.text("openwebtext", self._progress)
        stacks = retrieval.haystacks(self._tokenizer, content, lengths, each, self._settings.seed)
        return RetrievalTask(
            task, "openwebtext", stacks, self._settings.seed, notes if left_out else ()
        )
