"""Tasks done by several paths of a model, path by path, and the differences between them."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any

from sllmbench.bench.plan import QUALITY_BYTES, needed_bytes, split_into_waves
from sllmbench.bench.subjects import Subjects
from sllmbench.checkpoints.base import Progress, silent
from sllmbench.errors import Failure, InputError
from sllmbench.evaluation.plan import DEFAULT_TASKS, Plan, Settings, make_plan
from sllmbench.measure.memory import available_bytes
from sllmbench.origin import RunOrigin
from sllmbench.record import QualityRecord
from sllmbench.store import Store
from sllmbench.trial import Trial
from sllmbench.worker import WorkerError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from sllmbench.evaluation.tasks import Reply, Task
    from sllmbench.record import MachineFacts

__all__ = ["EvaluationResult", "evaluate"]


@dataclass(frozen=True)
class EvaluationResult:
    """What an evaluation measured.

    Attributes:
        records: one a path and task, task by task, paths in the order they were asked for.
        reference: the path that differences are against.
        failures: paths that died and records that could not be stored.
        interrupted: a Ctrl-C ended it; ``records`` holds what was measured before.
    """

    machine: MachineFacts
    records: tuple[QualityRecord, ...]
    reference: str
    failures: tuple[Failure, ...] = ()
    interrupted: bool = False


def evaluate(
    model: str = "smollm2-135m",
    tasks: Sequence[str] = DEFAULT_TASKS,
    paths: Sequence[str] | None = None,
    *,
    reference: str | None = None,
    limit: int | None = None,
    eval_tokens: int = 8192,
    context: int | None = None,
    stride: int | None = None,
    threads: int | None = None,
    arithmetic: str | None = None,
    seed: int = 0,
    interpreters: Mapping[str, str] | None = None,
    models: Mapping[str, str] | None = None,
    store: Path | str | None = None,
    progress: Progress = silent,
) -> EvaluationResult:
    """Measure the quality of a model on several paths, over the same items.

    Each path runs in a process of its own, one after the other: nothing here is timed.

    Args:
        model: a built-in name, a Hugging Face id, a folder or a ``.gguf`` file.
        tasks: ``perplexity:TEXT`` (a packaged text or a UTF-8 file), ``social_iqa``, ``mmlu``,
            ``longcontext``, ``harness:TASK`` (a name of lm-evaluation-harness or a YAML file).
        paths: names that ``sllmbench paths`` lists; None takes fp32 and int4-g64.
        reference: the path that others are compared with; None takes fp32, bf16 or fp16, whichever
            is present first, else the first path.
        limit: questions or documents of each task, keys of each length; None takes all of them,
            and 20 keys.
        eval_tokens: tokens of each text.
        context: tokens of a perplexity window; None takes 1,024 or what the model takes.
        stride: tokens from one window to the next; None takes the context.
        threads: of every kernel; None takes ``SLLMBENCH_THREADS``, else every usable CPU.
        arithmetic: of our own kernels: ``int8`` activations, as None, or ``exact`` float32.
        seed: of the keys and the texts around them.
        interpreters: by path the Python that it runs in, where that is not this one.
        models: by path the model that it runs, where that is not ``model``: a quantised copy of
            it, whose tokens are the same.
        store: the SQLite file that records are added to; None takes the user's data directory.
        progress: told what is being done and the fraction of it that is done.

    Raises:
        InputError: something given cannot be used.
    """
    settings = Settings(limit, eval_tokens, context, stride, seed)
    with Store(store) as opened:
        plan = make_plan(
            model,
            tasks,
            paths,
            interpreters=interpreters or {},
            settings=settings,
            reference=reference,
            threads=threads,
            arithmetic=arithmetic,
            models=models,
            progress=progress,
        )
        _require_memory(plan, Subjects(model, models), progress)
        with ExitStack() as exits:
            return _Session(plan, opened, progress, exits).run()


def _require_memory(plan: Plan, subjects: Subjects, progress: Progress) -> None:
    needs = needed_bytes(subjects, plan.paths, progress)
    for path, need in needs.items():
        split_into_waves({path: need}, QUALITY_BYTES, available_bytes())


class _Session:
    """An evaluation in progress."""

    def __init__(self, plan: Plan, store: Store, progress: Progress, exits: ExitStack) -> None:
        self._plan, self._store, self._progress = plan, store, progress
        self._origin = RunOrigin.begin()
        # Without a name on disk, so that no end of this process leaves them behind.
        self._files: dict[str, IO[bytes]] = {
            task.name: exits.enter_context(tempfile.TemporaryFile())  # noqa: SIM115
            for task in plan.tasks
            if task.compares and len(plan.paths) > 1
        }
        self._replies: dict[str, Reply] = {}
        self._records: list[QualityRecord] = []
        self._failures: list[Failure] = []
        self._done = 0

    def run(self) -> EvaluationResult:
        """Every path, one after the other.

        Raises:
            InputError: the first path cannot do its first task, so that nothing was measured.
        """
        interrupted = False
        try:
            for path in self._plan.paths:
                self._attempt(path)
        except KeyboardInterrupt:
            interrupted = True
        tasks = [task.name for task in self._plan.tasks]
        return EvaluationResult(
            machine=self._origin.machine,
            records=tuple(
                sorted(
                    self._records,
                    key=lambda r: (tasks.index(r.task), self._plan.asked.index(r.path)),
                )
            ),
            reference=self._plan.reference,
            failures=tuple(self._failures),
            interrupted=interrupted,
        )

    def _attempt(self, path: str) -> None:
        trial = Trial(path, interpreter=self._plan.interpreters.get(path, sys.executable))
        try:
            self._evaluate(path, trial)
        except WorkerError as error:
            self._failures.append(Failure(path, str(error), error.detail))
        except InputError as error:
            if not self._records:
                raise
            self._failures.append(Failure(path, f"path {path} failed: {error}", ""))
        finally:
            trial.kill()

    def _evaluate(self, path: str, trial: Trial) -> None:
        plan = self._plan
        loaded = trial.ask(
            "load",
            self._steps(f"{path}: loading"),
            model=plan.subjects[path].model,
            path=path,
            arithmetic=plan.arithmetic,
            threads=plan.threads,
            prompt_ids=[0],
        )
        self._done += 1
        for task in plan.tasks:
            start_ns = time.perf_counter_ns()
            reply = trial.ask(
                "score",
                self._steps(f"{path}: {task.name}"),
                **task.question(),
                **self._files_of(task, path),
            )
            seconds = (time.perf_counter_ns() - start_ns) / 1e9
            self._done += 1
            if path == plan.reference:
                self._replies[task.name] = reply
            facts = trial.ask("facts") | {"libraries": loaded["libraries"]}
            self._keep(path, task, reply, facts, seconds)

    def _files_of(self, task: Task, path: str) -> dict[str, str | None]:
        """Where a path's process writes, or reads, the reference's predictions."""
        if not task.compares:
            return {}
        file = self._files.get(task.name)
        if file is None:
            return {"save": None, "reference": None}
        place = f"/proc/{os.getpid()}/fd/{file.fileno()}"
        if path == self._plan.reference:
            return {"save": place, "reference": None}
        return {"save": None, "reference": place if task.name in self._replies else None}

    def _keep(
        self, path: str, task: Task, reply: Reply, facts: dict[str, Any], seconds: float
    ) -> None:
        base = None if path == self._plan.reference else self._replies.get(task.name)
        notes = task.notes
        if base is None and path != self._plan.reference:
            notes += (f"no differences: the reference {self._plan.reference} did not finish",)
        wanted = ("format", "kernel", "isa", "arithmetic", "lm_head", "weights_bytes")
        record = QualityRecord(
            **self._origin.fields(facts["libraries"]),
            model=self._plan.subjects[path].model,
            provenance=self._plan.subjects[path].provenance,
            path=path,
            **{name: facts[name] for name in wanted},
            threads=self._plan.threads,
            task=task.name,
            data=task.data,
            definition=task.definition,
            notes=notes,
            reference=self._plan.reference,
            seed=task.seed,
            seconds=seconds,
            metrics=task.metrics(reply, base),
            samples=task.samples(reply),
        )
        self._records.append(record)
        try:
            self._store.append(record)
        except InputError as error:
            self._failures.append(Failure(path, f"path {path} was not stored: {error}", ""))

    def _steps(self, what: str) -> Progress:
        total = len(self._plan.paths) * (1 + len(self._plan.tasks))
        return lambda _, fraction: self._progress(what, (self._done + (fraction or 0)) / total)
