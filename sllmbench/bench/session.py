"""A run in progress: processes that take turns, and records committed as they are made."""

from __future__ import annotations

import random
import sys
from dataclasses import dataclass
from functools import partial
from typing import IO, TYPE_CHECKING

from sllmbench.bench.results import Measured, Recorder
from sllmbench.errors import Failure, InputError
from sllmbench.measure.sampling import Rounds, Turn
from sllmbench.origin import RunOrigin
from sllmbench.record import Interference, Quality, Record
from sllmbench.trial import Trial
from sllmbench.worker import WorkerError

if TYPE_CHECKING:
    from sllmbench.bench.plan import Plan
    from sllmbench.checkpoints.base import Progress
    from sllmbench.store import Store


class Session:
    """The state of a run.

    Attributes:
        machine: where it runs.
        records: those made so far.
        failures: what went wrong so far.
    """

    def __init__(
        self, plan: Plan, store: Store, progress: Progress, log_probs: IO[bytes] | None
    ) -> None:
        """Prepare; ``log_probs`` is an open file for the reference's predictions."""
        self._origin = RunOrigin.begin()
        self.machine = self._origin.machine
        self.records: list[Record] = []
        self.failures: list[Failure] = []
        self._plan = plan
        self._store = store
        self._steps = _Steps(plan, progress)
        self._log_probs = log_probs
        self._has_log_probs = False
        self._trials: dict[str, Trial] = {}
        self._measured: dict[str, Measured] = {}
        self._turns = random.Random(plan.seed)
        self._recorder = Recorder(plan, self._origin)

    def run_wave(self, wave: tuple[str, ...]) -> None:
        """Load the wave's paths, time them in turns, then finish them one by one."""
        for path in wave:
            self._attempt(path, partial(self._load, path, wave))
        rounds = Rounds(
            {path: _Turns(self, path) for path in self._trials}, self._plan.limits, self._turns
        )
        for path in self._trials:
            self._measured[path].rounds = rounds
        rounds.take()
        for path in list(self._trials):
            self._attempt(path, partial(self._finish, path))

    def keep_unfinished(self, reason: str) -> None:
        """Make records of what was measured of the paths that are not finished."""
        for path in list(self._trials):
            self._keep(path, None, reason, complete=False)

    def kill_all(self) -> None:
        """End every process that still runs."""
        for trial in self._trials.values():
            trial.kill()

    def _attempt(self, path: str, step: partial[None]) -> None:
        """Take a step of one path; if its process fails, keep what it gave and go on without it."""
        try:
            step()
        except (WorkerError, InputError) as error:
            if isinstance(error, InputError):
                if not self._anything_measured():
                    raise
                failure = Failure(path, f"path {path} failed: {error}", "")
            else:
                failure = Failure(path, str(error), error.detail)
            self.failures.append(failure)
            self._keep(path, None, failure.message, complete=False)

    def _anything_measured(self) -> bool:
        return bool(self.records) or any(m.repetitions for m in self._measured.values())

    def _load(self, path: str, wave: tuple[str, ...]) -> None:
        interpreter = self._plan.interpreters.get(path, sys.executable)
        self._trials[path] = trial = Trial(path, self._log_probs, interpreter)
        self._measured[path] = Measured(wave)
        with self._steps.step(f"{path}: loading", _LOAD_STEP) as progress:
            reply = trial.ask(
                "load",
                progress,
                model=self._plan.subjects[path].model,
                path=path,
                arithmetic=self._plan.arithmetic,
                device=self._plan.device,
                threads=self._plan.threads,
                prompt_ids=self._plan.prompt_ids,
            )
        self._measured[path].load_ns = reply["load_ns"]
        self._measured[path].libraries = reply["libraries"]
        trial.pause()

    def take_turn(self, path: str) -> Turn | None:
        """Time one repetition of a path; None where it fails, its record then made already."""
        self._attempt(path, partial(self._time, path))
        if path not in self._trials:
            return None
        row = self._measured[path].repetitions[-1]
        interference = Interference.model_validate(row["interference"])
        return Turn(row["decode_ns"], 1, interference, (row["prefill_ns"],))

    def _time(self, path: str) -> None:
        trial, repetitions = self._trials[path], self._measured[path].repetitions
        of = f"/{self._plan.repetitions}" if self._plan.precision is None else ""
        with self._steps.step(f"{path}: timing {len(repetitions) + 1}{of}", 1):
            trial.resume()
            repetitions.append(trial.ask("time", n_gen=self._plan.n_gen))
            trial.pause()

    def _finish(self, path: str) -> None:
        """Measure the path's quality and commit its record."""
        reason = self._plan.quality_reason
        quality = self._quality(path) if reason is None else None
        self._keep(path, quality, reason, complete=True)

    def _quality(self, path: str) -> Quality:
        trial = self._trials[path]
        is_reference = path == self._plan.reference
        with self._steps.step(f"{path}: quality", _QUALITY_STEP) as progress:
            trial.resume()
            reply = trial.ask(
                "quality",
                progress,
                ids=self._plan.eval_ids,
                text=self._plan.text,
                context=self._plan.context,
                save=trial.shared_file if is_reference else None,
                reference=trial.shared_file if self._has_log_probs else None,
            )
        self._has_log_probs = self._has_log_probs or is_reference
        if is_reference:
            reply["kl_reason"] = "this path is the reference"
        elif reply["kl_divergence"] is None:
            reply["kl_reason"] = f"the reference path {self._plan.reference} did not finish"
        return Quality.model_validate(reply)

    def _keep(
        self, path: str, quality: Quality | None, reason: str | None, *, complete: bool
    ) -> None:
        """End the path's process; make, keep and commit its record if it was timed at all."""
        self._trials[path].kill()
        measured = self._measured[path]
        record = None
        if measured.repetitions:
            record = self._recorder.record(path, measured, quality, reason, complete=complete)
        # Only now: an interrupt before leaves the path to keep_unfinished.
        del self._trials[path], self._measured[path]
        if record is None:
            return
        self.records.append(record)
        try:
            self._store.append(record)
        except InputError as error:
            self.failures.append(Failure(path, f"path {path} was not stored: {error}", ""))


@dataclass(frozen=True)
class _Turns:
    """A path as a candidate."""

    session: Session
    path: str

    def turn(self) -> Turn | None:
        return self.session.take_turn(self.path)


_LOAD_STEP, _QUALITY_STEP = 2, 6  # rough durations in repetitions, for the progress bar alone


class _Steps:
    """Turns steps of a path into the fraction of the run that is done."""

    def __init__(self, plan: Plan, progress: Progress) -> None:
        quality = _QUALITY_STEP if plan.quality_reason is None else 0
        self._total = len(plan.paths) * (_LOAD_STEP + plan.repetitions + quality)
        self._done = 0.0
        self._progress = progress

    def step(self, what: str, size: float) -> _Step:
        return _Step(self, what, size)

    def tell(self, what: str, done: float) -> None:
        # A precision may take more repetitions than were foreseen.
        self._progress(what, min(1.0, (self._done + done) / self._total))

    def finish(self, size: float) -> None:
        self._done += size


@dataclass
class _Step:
    """One step; what its child tells of its own progress moves the run's on."""

    steps: _Steps
    what: str
    size: float

    def __enter__(self) -> Progress:
        self.steps.tell(self.what, 0)
        return lambda _, fraction: self.steps.tell(self.what, self.size * (fraction or 0))

    def __exit__(self, *_: object) -> None:
        self.steps.finish(self.size)
