"""The plan of a run carried out: paths timed in turns, records committed path by path."""

from __future__ import annotations

import random
import secrets
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from importlib import metadata
from typing import IO, TYPE_CHECKING, Any

from sllmbench import hardware
from sllmbench.bench.plan import Plan, make_plan
from sllmbench.checkpoints.base import Progress, silent
from sllmbench.errors import InputError
from sllmbench.measure.memory import available_bytes
from sllmbench.measure.timing import median_interval
from sllmbench.record import Interval, LayerKernel, MachineFacts, Quality, Record, Samples
from sllmbench.store import Store
from sllmbench.trial import Trial, TrialError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__all__ = ["Failure", "Plan", "RunResult", "execute", "make_plan", "run"]


@dataclass(frozen=True)
class Failure:
    """Something that went wrong in a run that went on: one line, and what a developer needs."""

    path: str
    message: str
    detail: str


@dataclass(frozen=True)
class RunResult:
    """What a run measured.

    Attributes:
        reference: the path that ratios and divergences are against.
        failures: paths that died and records that could not be stored.
        interrupted: a Ctrl-C ended the run; ``records`` holds what was measured before it.
    """

    machine: MachineFacts
    records: tuple[Record, ...]
    reference: str
    failures: tuple[Failure, ...] = ()
    interrupted: bool = False


def run(
    model: str = "smollm2-135m",
    paths: Sequence[str] | None = None,
    *,
    n_prompt: int = 128,
    n_gen: int = 32,
    repetitions: int = 6,
    threads: int | None = None,
    arithmetic: str = "int8",
    eval_tokens: int = 8192,
    quality: bool = True,
    reference: str | None = None,
    text: str = "openwebtext",
    device: str = "cpu",
    seed: int = 0,
    store: Path | str | None = None,
    progress: Progress = silent,
) -> RunResult:
    """Run the same weights over several paths and measure what each costs.

    Each path lives in its own process. All are loaded, then take turns of one repetition in random
    order while the others stand still; then each path's quality is measured and its record stored.

    Args:
        model: a built-in name, ``random:NAME``, a Hugging Face id, a folder or a ``.gguf`` file.
        paths: names that ``sllmbench paths`` lists; None takes the default ones that can run.
        n_prompt: tokens of the prompt.
        n_gen: tokens to generate.
        repetitions: of every timing; six are the least that give a 95% interval.
        threads: of every kernel; None takes ``SLLMBENCH_THREADS``, else every usable CPU.
        arithmetic: of our own kernels: ``int8`` activations or ``exact`` float32.
        eval_tokens: tokens of the text that quality is measured on.
        quality: False leaves perplexity and divergence out.
        reference: the path that others are compared with; None takes fp32, bf16 or fp16, whichever
            is present first, else the first path.
        text: an evaluation text's name or a UTF-8 file.
        device: ``cpu``.
        seed: of the order of turns, and of the prompt where there is no text.
        store: the SQLite file that records are added to; None takes the user's data directory.
        progress: told what is being done and the fraction of the run that is done.

    Raises:
        InputError: something given cannot be used; nothing has been measured.
    """
    with Store(store) as opened:
        plan = make_plan(
            model,
            paths,
            n_prompt=n_prompt,
            n_gen=n_gen,
            repetitions=repetitions,
            threads=threads,
            arithmetic=arithmetic,
            eval_tokens=eval_tokens,
            quality=quality,
            reference=reference,
            text=text,
            device=device,
            seed=seed,
            available_bytes=available_bytes(),
            progress=progress,
        )
        return execute(plan, opened, progress)


def execute(plan: Plan, store: Store, progress: Progress = silent) -> RunResult:
    """Carry a plan out. A Ctrl-C ends it early with what was measured.

    Raises:
        InputError: a path cannot load the model, and nothing has been measured yet.
    """
    with ExitStack() as exits:
        # Without a name on disk, so that no end of this process leaves it behind.
        log_probs = exits.enter_context(tempfile.TemporaryFile()) if plan.eval_ids else None
        session = _Session(plan, store, progress, log_probs)
        exits.callback(session.kill_all)
        interrupted = False
        try:
            for wave in plan.waves:
                session.run_wave(wave)
        except KeyboardInterrupt:
            interrupted = True
            session.keep_unfinished("the run was interrupted")
        return RunResult(
            machine=session.machine,
            records=tuple(sorted(session.records, key=lambda r: plan.paths.index(r.path))),
            reference=plan.reference,
            failures=tuple(session.failures),
            interrupted=interrupted,
        )


@dataclass
class _Measured:
    """What is known of one path so far."""

    trial: Trial
    wave: tuple[str, ...]
    load_ns: int = 0
    repetitions: list[dict[str, Any]] = field(default_factory=list)


class _Session:
    """A run in progress."""

    def __init__(
        self, plan: Plan, store: Store, progress: Progress, log_probs: IO[bytes] | None
    ) -> None:
        self.machine = MachineFacts(**hardware.facts())
        self.records: list[Record] = []
        self.failures: list[Failure] = []
        self._plan = plan
        self._store = store
        self._steps = _Steps(plan, progress)
        self._log_probs = log_probs
        self._has_log_probs = False
        self._unfinished: dict[str, _Measured] = {}
        self._turns = random.Random(plan.seed)
        self._run_id = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(4)}"

    def run_wave(self, wave: tuple[str, ...]) -> None:
        """Load the wave's paths, time them in turns, then finish them one by one."""
        for path in wave:
            self._attempt(path, partial(self._load, path, wave))
        for repetition in range(self._plan.repetitions):
            alive = list(self._unfinished)
            for path in self._turns.sample(alive, len(alive)):
                self._attempt(path, partial(self._time, path, repetition))
        for path in list(self._unfinished):
            self._attempt(path, partial(self._finish, path))

    def keep_unfinished(self, reason: str) -> None:
        """Make records of what was measured of the paths that are not finished."""
        for path in list(self._unfinished):
            self._keep(path, None, reason, complete=False)

    def kill_all(self) -> None:
        """End every process that still runs."""
        for measured in self._unfinished.values():
            measured.trial.kill()

    def _attempt(self, path: str, step: partial[None]) -> None:
        """Take a step of one path; if its process fails, keep what it gave and go on without it."""
        try:
            step()
        except (TrialError, InputError) as error:
            if isinstance(error, InputError) and not self._anything_measured():
                raise
            detail = error.detail if isinstance(error, TrialError) else ""
            self.failures.append(Failure(path, str(error), detail))
            self._keep(path, None, str(error), complete=False)

    def _anything_measured(self) -> bool:
        return bool(self.records) or any(m.repetitions for m in self._unfinished.values())

    def _load(self, path: str, wave: tuple[str, ...]) -> None:
        # Registered in the same breath as it starts, so that an interrupt cannot lose it.
        measured = self._unfinished[path] = _Measured(Trial(path, self._log_probs), wave)
        with self._steps.step(f"{path}: loading", _LOAD_STEP) as progress:
            measured.load_ns = measured.trial.ask(
                "load",
                progress,
                model=self._plan.model,
                path=path,
                arithmetic=self._plan.arithmetic,
                threads=self._plan.threads,
                prompt_ids=self._plan.prompt_ids,
            )["load_ns"]
        measured.trial.pause()

    def _time(self, path: str, repetition: int) -> None:
        measured = self._unfinished[path]
        what = f"{path}: timing {repetition + 1}/{self._plan.repetitions}"
        with self._steps.step(what, 1):
            measured.trial.resume()
            measured.repetitions.append(measured.trial.ask("time", n_gen=self._plan.n_gen))
            measured.trial.pause()

    def _finish(self, path: str) -> None:
        """Measure the path's quality and commit its record."""
        quality, reason = None, self._plan.quality_reason
        if reason is None:
            quality = self._quality(path)
        self._keep(path, quality, reason, complete=True)

    def _quality(self, path: str) -> Quality:
        trial = self._unfinished[path].trial
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
        return Quality.model_validate(reply)

    def _keep(
        self, path: str, quality: Quality | None, reason: str | None, *, complete: bool
    ) -> None:
        """End the path's process; make, commit and keep its record if it was timed at all."""
        measured = self._unfinished.pop(path)
        measured.trial.kill()
        if not measured.repetitions:
            return
        record = self._record(path, measured, quality, reason, complete=complete)
        self.records.append(record)
        try:
            self._store.append(record)
        except InputError as error:
            self.failures.append(Failure(path, f"path {path} was not stored: {error}", ""))

    def _record(
        self,
        path: str,
        measured: _Measured,
        quality: Quality | None,
        reason: str | None,
        *,
        complete: bool,
    ) -> Record:
        plan, rows = self._plan, measured.repetitions
        facts = dict(rows[-1]["facts"])
        layer_kernels = tuple(LayerKernel(**use) for use in facts.pop("layer_kernels"))
        itl_ns = tuple(tuple(row["itl_ns"]) for row in rows)
        energies = [row["energy_j"] for row in rows]
        energy_j = None if None in energies else sum(energies)
        return Record(
            run_id=self._run_id,
            created_utc=datetime.now(UTC).isoformat(timespec="milliseconds"),
            sllmbench_version=metadata.version("sllmbench"),
            machine=self.machine,
            model=plan.model,
            provenance=plan.provenance,
            path=path,
            device="cpu",
            **facts,
            layer_kernels=layer_kernels,
            threads=plan.threads,
            n_prompt=plan.n_prompt,
            n_gen=plan.n_gen,
            interleaved_with=tuple(other for other in measured.wave if other != path),
            complete=complete,
            prefill_tps=_per_second(plan.n_prompt, [row["prefill_ns"] for row in rows]),
            decode_tps=_per_second(plan.n_gen, [row["decode_ns"] for row in rows]),
            ttft_ns=median_interval([row["ttft_ns"] for row in rows]),
            tpot_ns=None if plan.n_gen < 2 else median_interval([sum(i) / len(i) for i in itl_ns]),
            load_ns=measured.load_ns,
            peak_rss_bytes=rows[-1]["peak_rss_bytes"],
            peak_rss_reason=rows[-1]["peak_rss_reason"],
            energy_j=energy_j,
            energy_j_per_token=None if energy_j is None else energy_j / (len(rows) * plan.n_gen),
            energy_source=rows[-1]["energy_source"],
            energy_reason=next(
                (row["energy_reason"] for row in rows if row["energy_reason"]), None
            ),
            perplexity=None if quality is None else quality.perplexity,
            kl_divergence=None if quality is None else quality.kl_divergence,
            top1_agreement=None if quality is None else quality.top1_agreement,
            quality=quality,
            quality_reason=reason,
            samples=Samples(
                prefill_ns=tuple(row["prefill_ns"] for row in rows),
                ttft_ns=tuple(row["ttft_ns"] for row in rows),
                itl_ns=itl_ns,
                decode_ns=tuple(row["decode_ns"] for row in rows),
            ),
        )


def _per_second(tokens: int, durations_ns: list[int]) -> Interval:
    return median_interval([tokens * 1e9 / duration for duration in durations_ns])


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
        self._progress(what, (self._done + done) / self._total)

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
