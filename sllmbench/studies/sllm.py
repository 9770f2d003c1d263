"""The table of the sLLM study: vanilla, GPTQ and AWQ × quality, speed and memory.

That study called quantised models faster in a table whose quantised rows were all slower. Here each
quantised copy is multiplied in two ways, fused and expanded at every call as that study's libraries
did, so that the table shows which of both the slowness comes from; the vanilla weights run in two
float types, so that a slow one does not flatter; all rows take turns in one run.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sllmbench import bench, evaluation
from sllmbench.bench.checks import choose_threads
from sllmbench.checkpoints.base import Progress, silent
from sllmbench.convert import quantize_model
from sllmbench.errors import Failure, InputError
from sllmbench.evaluation.plan import Settings as EvaluationSettings
from sllmbench.evaluation.plan import make_plan as plan_evaluation
from sllmbench.measure.memory import available_bytes
from sllmbench.record import Conversion, QualityRecord, Record, Study, StudyRow
from sllmbench.store import Store
from sllmbench.studies.asked import METHODS, TASKS, Asked
from sllmbench.studies.folder import StudyFolder

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from sllmbench.convert import Summary

VANILLA = ("fp32", "bf16")
"""The reference first."""


@dataclass
class StudyResult:
    """What a study has found so far.

    Attributes:
        study: the rows, and how their weights were made.
        speed: a record a row that was timed.
        quality: a record a row and task.
        failures: rows that could not be measured.
        disturbances: what else was busy as the timing began; empty where it was done earlier.
        interrupted: a Ctrl-C ended it.
    """

    study: Study
    speed: tuple[Record, ...] = ()
    quality: tuple[QualityRecord, ...] = ()
    failures: list[Failure] = field(default_factory=list)
    disturbances: tuple[str, ...] = ()
    interrupted: bool = False


def study_sllm(
    model: str,
    out: str | Path,
    *,
    methods: Sequence[str] = METHODS,
    bits: int = 4,
    group_size: int = 64,
    calibration: str = "owt",
    samples: int = 64,
    sequence_length: int = 512,
    tasks: Sequence[str] = TASKS,
    limit: int | None = None,
    eval_tokens: int = 8192,
    n_prompt: int = 128,
    n_gen: int = 32,
    repetitions: int = 6,
    threads: int | None = None,
    arithmetic: str = "int8",
    seed: int = 0,
    progress: Progress = silent,
) -> StudyResult:
    """Quantise a model, and measure speed, memory and quality of it and of its quantised copies.

    The same call goes on after an end before its time: checkpoints, the timing and each task of
    quality that are finished with the same settings are not done again.

    Args:
        model: a built-in name, a Hugging Face id, a folder or a ``.gguf`` file.
        out: the study's folder, new or of the same model's study.
        methods: ``gptq``, ``awq`` or both.
        bits: of a code; AWQ has 4.
        group_size: inputs that share a scale; -1: a whole row.
        calibration: the text, as :func:`~sllmbench.convert.calibrate` names it.
        samples: windows of it.
        sequence_length: tokens a window.
        tasks: as :func:`sllmbench.evaluate` takes them.
        limit: questions of each task, keys of each length; None takes all of them, and 20 keys.
        eval_tokens: tokens of each perplexity text.
        n_prompt: tokens of the timed prompt.
        n_gen: tokens to generate.
        repetitions: of every timing; six are the least that give a 95% interval.
        threads: of every kernel; None takes ``SLLMBENCH_THREADS``, else every usable CPU.
        arithmetic: of our own kernels: ``int8`` activations or ``exact`` float32.
        seed: of the drawn windows, the turns, the prompt and the keys.
        progress: told the step, what it does and the fraction of the step that is done.

    Raises:
        InputError: something given cannot be used; what had been finished is kept.
    """
    asked = Asked(
        model=model,
        methods=tuple(methods),
        bits=bits,
        group_size=group_size,
        calibration=calibration,
        samples=samples,
        sequence_length=sequence_length,
        tasks=tuple(tasks),
        limit=limit,
        eval_tokens=eval_tokens,
        n_prompt=n_prompt,
        n_gen=n_gen,
        repetitions=repetitions,
        threads=choose_threads(threads),
        arithmetic=arithmetic,
        seed=seed,
    )
    folder = StudyFolder(out, model)
    _rehearse(asked, progress)
    folder.make()
    return _Work(asked, folder, progress).run()


def _rehearse(asked: Asked, progress: Progress) -> None:
    """Plan the vanilla rows, so that what cannot be done is refused before a long step.

    Raises:
        InputError: as the plans say.
    """
    bench.make_plan(
        asked.model,
        VANILLA,
        interpreters={},
        **asked.timing(),
        eval_tokens=asked.eval_tokens,
        quality=False,
        reference=VANILLA[0],
        text="",
        device="cpu",
        available_bytes=available_bytes(),
        progress=progress,
    )
    plan_evaluation(
        asked.model,
        asked.tasks,
        VANILLA,
        interpreters={},
        settings=EvaluationSettings(asked.limit, asked.eval_tokens, None, None, asked.seed),
        reference=VANILLA[0],
        threads=asked.threads,
        arithmetic=asked.arithmetic,
        progress=progress,
    )


class _Work:
    """A study in progress, step by step."""

    def __init__(self, asked: Asked, folder: StudyFolder, progress: Progress) -> None:
        self._asked, self._folder = asked, folder
        self._rows = _rows(asked, folder)
        self._paths = [row.path for row in self._rows]
        self._models = {row.path: row.model for row in self._rows if row.path not in VANILLA}
        self._progress = progress
        self._steps, self._step = len(asked.methods) + 1 + len(asked.tasks), 0

    def run(self) -> StudyResult:
        asked = self._asked
        # AWQ first: its layout is the pickier, and what it cannot hold is refused at its beginning.
        for method in sorted(asked.methods):
            self._quantise(method, self._tell(f"quantising with {method}"))
        result = StudyResult(self._study())
        tell = self._tell("speed")
        run_id = self._folder.run_of("speed", self._of_rows(asked.timing()))
        if run_id is None:
            self._time(result, tell)
        else:
            result.speed = tuple(r for r in self._stored(run_id) if isinstance(r, Record))
        for task in asked.tasks:
            if result.interrupted:
                break
            tell = self._tell("quality")
            run_id = self._folder.run_of(task, self._of_rows(asked.asking()))
            if run_id is None:
                self._evaluate(result, task, tell)
            else:
                stored = self._stored(run_id)
                result.quality += tuple(r for r in stored if isinstance(r, QualityRecord))
        return result

    def _quantise(self, method: str, tell: Progress) -> None:
        asked = self._asked
        target = self._folder.checkpoint(method, asked.quantising())
        if target is None:
            return
        settings = asked.quantising() | {"method": method, "threads": asked.threads}
        summary = quantize_model(asked.model, target, **settings, progress=tell)
        self._folder.keep_conversion(method, _conversion(summary))

    def _time(self, result: StudyResult, tell: Progress) -> None:
        timing = self._asked.timing()
        found = bench.run(
            self._asked.model,
            self._paths,
            models=self._models,
            **timing,
            quality=False,
            reference=VANILLA[0],
            store=self._folder.store,
            progress=tell,
        )
        result.speed, result.disturbances = found.records, found.disturbances
        result.failures += found.failures
        result.interrupted = found.interrupted
        if not found.interrupted and not found.failures:
            self._finish("speed", timing, found.records)

    def _evaluate(self, result: StudyResult, task: str, tell: Progress) -> None:
        asking = self._asked.asking()
        found = evaluation.evaluate(
            self._asked.model,
            [task],
            self._paths,
            models=self._models,
            **asking,
            reference=VANILLA[0],
            store=self._folder.store,
            progress=tell,
        )
        result.quality += found.records
        result.failures += found.failures
        result.interrupted = found.interrupted
        if not found.interrupted and not found.failures:
            self._finish(task, asking, found.records)

    def _finish(
        self, step: str, settings: dict[str, Any], records: Sequence[Record | QualityRecord]
    ) -> None:
        self._folder.finish(step, self._of_rows(settings), records[0].run_id)

    def _of_rows(self, settings: dict[str, Any]) -> dict[str, Any]:
        """What makes a measured step what it is: its settings, and the rows that it measures."""
        return settings | {"paths": self._paths, "checkpoints": self._asked.quantising()}

    def _stored(self, run_id: str) -> list[Any]:
        with Store(self._folder.store, must_exist=True) as opened:
            records: list[Any] = list(opened.records(run_id))
        if len(records) != len(self._paths):
            raise InputError(
                f"{self._folder.store} holds {len(records)} records of the run {run_id} and"
                f" {len(self._paths)} were made; give another OUT"
            )
        return records

    def _study(self) -> Study:
        known = self._folder.conversions
        return Study(
            model=self._asked.model,
            rows=self._rows,
            tasks=self._asked.tasks,
            limit=self._asked.limit,
            conversions={m.upper(): known[m] for m in self._asked.methods if m in known},
        )

    def _tell(self, step: str) -> Callable[[str, float | None], None]:
        self._step += 1
        before = f"{self._step}/{self._steps} {step}"
        return lambda what, fraction: self._progress(f"{before}: {what}", fraction)


def _rows(asked: Asked, folder: StudyFolder) -> tuple[StudyRow, ...]:
    """The reference first; a method's rows together."""
    rows = [StudyRow(weights="vanilla", way=p, path=p, model=asked.model) for p in VANILLA]
    for method in asked.methods:
        made = {"weights": method.upper(), "model": str(folder.path / method)}
        rows.append(StudyRow(way="fused", path=method, **made))
        rows.append(StudyRow(way="unfused", path=f"unfused-{method}", **made))
    return tuple(rows)


def _conversion(summary: Summary) -> Conversion:
    worst = summary.worst(1)[0]
    return Conversion(
        folder=summary.out,
        kind=summary.kind,
        settings=summary.settings,
        calibration=summary.calibration,
        stored_bytes=summary.stored_bytes,
        error_of=summary.error_of,
        median_error=statistics.median(linear.relative_error for linear in summary.linears),
        worst_error=worst.relative_error,
        worst_linear=worst.name,
    )
