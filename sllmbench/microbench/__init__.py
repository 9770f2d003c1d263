"""``sllmbench kernel``: one matrix product by several paths, taking turns."""

from __future__ import annotations

import random
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sllmbench.checkpoints.base import Progress, silent
from sllmbench.errors import Failure, InputError
from sllmbench.hardware import load
from sllmbench.matmuls import resolve
from sllmbench.measure.energy import EnergyWindow, add_up
from sllmbench.measure.sampling import ClockFacts, Rounds, Turn
from sllmbench.microbench.plan import Case, KernelPlan, make_plan
from sllmbench.microbench.roofs import Roof, Roofs
from sllmbench.origin import RunOrigin
from sllmbench.record import Interference, KernelRecord, MachineFacts
from sllmbench.store import Store
from sllmbench.worker import Worker, WorkerError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from sllmbench.matmuls import MatmulPath

__all__ = ["KernelResult", "compare_kernels", "execute", "make_plan"]

TURN_SECONDS = 0.05
_MODULE = "sllmbench.microbench.worker"
_SMALLEST_COPY_BYTES = 1 << 10


@dataclass
class KernelResult:
    """What was measured.

    Attributes:
        baseline: the path that ratios are against.
        notes: paths and cases that could not run, with the reason.
        failures: processes that died and records that could not be stored.
        disturbances: what else was busy on the machine when the comparison began.
    """

    machine: MachineFacts
    baseline: str
    records: list[KernelRecord] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    disturbances: tuple[str, ...] = ()
    interrupted: bool = False


def compare_kernels(
    shapes: Sequence[str] | None = None,
    m: Sequence[int] | None = None,
    paths: Sequence[str] | None = None,
    *,
    model: str | None = None,
    threads: Sequence[int] | None = None,
    arithmetic: str | None = None,
    isa: str | None = None,
    device: str = "cpu",
    cache: str = "hot",
    baseline: str | None = None,
    rounds: int = 9,
    precision: float | None = None,
    max_seconds: float | None = None,
    seed: int = 0,
    store: Path | str | None = None,
    progress: Progress = silent,
) -> KernelResult:
    """Time one matrix product on several paths, each in a process of its own.

    The candidates of a comparison take turns in random order; all others stand still (SIGSTOP)
    meanwhile, because thread pools that spin beside a kernel spoil its time.

    Args:
        shapes: weights as ``NxK``, out × in; None takes three of Llama-3.2-1B's.
        m: rows of activations.
        paths: names that ``sllmbench paths`` lists; None takes the usual ones that can run.
        model: whose layers' shapes to take instead, as ``sllmbench run`` names models.
        threads: one or several numbers; None takes ``SLLMBENCH_THREADS``, else every usable CPU.
        arithmetic: of our own kernels: ``int8`` activations or ``exact``, float32 on a CPU and
            float16 on a GPU; None takes int8 on a CPU and exact on a GPU.
        isa: of our own kernels; None takes the best.
        device: ``cpu``, ``cuda`` or ``cuda:N``; a GPU's products are timed by its own clock.
        cache: ``hot``, the same weight over and over, or ``cold``, copies of it that together
            exceed the last-level cache four times.
        baseline: the path that ratios are against; None takes torch:bf16, else the first peer.
        rounds: turns of each path; six are the least that give a 95% interval. The fewest of them
            with a precision.
        precision: take more until half of each median's interval is narrower than this fraction of
            it; the record says where that was not reached.
        max_seconds: after which a comparison begins no further round; None takes 30 with a
            precision and waits without one.
        seed: of the operands and of the order of turns.
        store: the SQLite file that records are added to; None takes the user's data directory.
        progress: told what is being done and the fraction that is done.

    Raises:
        InputError: something given cannot be used; nothing has been measured.
    """
    with Store(store) as opened:
        plan = make_plan(
            shapes,
            m,
            paths,
            model=model,
            threads=threads,
            arithmetic=arithmetic,
            isa=isa,
            device=device,
            cache=cache,
            baseline=baseline,
            rounds=rounds,
            precision=precision,
            max_seconds=max_seconds,
            seed=seed,
        )
        return execute(plan, opened, progress)


def execute(plan: KernelPlan, store: Store, progress: Progress = silent) -> KernelResult:
    """Carry a plan out. A Ctrl-C ends it early with what was measured."""
    disturbances = load.disturbances()
    with ExitStack() as exits:
        session = _Session(plan, store)
        session.result.disturbances = disturbances
        exits.callback(session.kill_all)
        try:
            for done, case in enumerate(plan.cases):
                what = f"{case.shape.n}x{case.shape.k}, m = {case.m}, {case.threads} threads"
                progress(what, done / len(plan.cases))
                session.compare(case)
        except KeyboardInterrupt:
            session.result.interrupted = True
        return session.result


class _Session:
    """The processes of a run and what they gave."""

    def __init__(self, plan: KernelPlan, store: Store) -> None:
        self._store = store
        self._origin = RunOrigin.begin()
        self.result = KernelResult(self._origin.machine, plan.baseline)
        self.result.notes += [f"{path}: {why}" for path, why in plan.unavailable.items()]
        self._plan = plan
        self._turns = random.Random(plan.seed)
        self._workers: dict[str, Worker] = {}
        self._roofs = Roofs(lambda: Worker("roofs", _MODULE), self.result.failures)

    def kill_all(self) -> None:
        for worker in (*self._workers.values(), self._roofs.worker):
            worker.kill()

    def compare(self, case: Case) -> None:
        """Bind every path to the case, time them in turns, keep their records."""
        bound: dict[str, dict[str, Any]] = {}
        for path in self._plan.paths:
            reason = self._resolve(path).unsupported_shape(case.shape.n, case.shape.k)
            if reason is not None:
                self._note(f"{path}, {case.shape.n}x{case.shape.k}: {reason}")
            elif (facts := self._ask(path, "bind", self._bind_arguments(path, case))) is not None:
                bound[path] = facts
        rounds = Rounds(
            {path: _Turns(self, path) for path in bound}, self._plan.limits, self._turns
        )
        energy: dict[str, dict[str, Any] | None] = {}
        try:
            rounds.take()
            energy = {path: self._ask(path, "energy", {}) for path in list(rounds.turns)}
        finally:  # an interrupt keeps the turns that were taken
            taken = [path for path, turns in rounds.turns.items() if turns]
            for path in taken:
                others = tuple(other for other in taken if other != path)
                joules = energy.get(path) or _no_energy()
                self._keep(self._record(path, case, bound[path] | joules, rounds, others))

    def _keep(self, record: KernelRecord) -> None:
        self.result.records.append(record)
        try:
            self._store.append(record)
        except InputError as error:
            message = f"path {record.path} was not stored: {error}"
            self.result.failures.append(Failure(record.path, message, ""))

    def take_turn(self, path: str) -> Turn | None:
        """Let the path's process take one sample; None where it fails."""
        turn = self._ask(path, "turn", {"seconds": TURN_SECONDS})
        if turn is None:
            return None
        interference = Interference.model_validate(turn["interference"])
        return Turn(turn["median_ns"], turn["batches"], interference)

    def _ask(self, path: str, do: str, arguments: dict[str, Any]) -> dict[str, Any] | None:
        """Let the path's process run for one command; None where it failed or would not."""
        if path not in self._workers:
            self._workers[path] = Worker(path, _MODULE)
        worker = self._workers[path]
        worker.resume()
        try:
            return worker.ask(do, **arguments)
        except InputError as error:  # the library refuses the case; it may take the next
            self._note(f"{path}: {error}")
            return None
        except WorkerError as error:
            self.result.failures.append(Failure(path, str(error), error.detail))
            worker.kill()
            del self._workers[path]
            return None
        finally:
            if path in self._workers:
                worker.pause()

    def _note(self, note: str) -> None:
        if note not in self.result.notes:
            self.result.notes.append(note)

    def _bind_arguments(self, path: str, case: Case) -> dict[str, Any]:
        return {
            "path": path,
            "arithmetic": self._plan.arithmetic,
            "isa": self._plan.isa,
            "n": case.shape.n,
            "k": case.shape.k,
            "m": case.m,
            "threads": case.threads,
            "copies": self._copies(path, case),
            "seed": self._plan.seed,
            "device": self._plan.device,
        }

    def _resolve(self, path: str) -> MatmulPath:
        return resolve(path, self._plan.arithmetic, device=self._plan.device)

    def _copies(self, path: str, case: Case) -> int:
        """As many of the path's own weights as exceed the cache; one where it is to be hot."""
        if self._plan.cache == "hot":
            return 1
        bits = self._resolve(path).bits_per_weight(case.shape.k)
        size = max(_SMALLEST_COPY_BYTES, int(case.shape.n * case.shape.k * bits / 8))
        return -(-self._plan.cold_bytes // size) + 1

    def _record(
        self,
        path: str,
        case: Case,
        facts: dict[str, Any],
        rounds: Rounds,
        others: tuple[str, ...],
    ) -> KernelRecord:
        series = rounds.series(path, ClockFacts(**facts["clock"]))
        n, k, m = case.shape.n, case.shape.k, case.m
        moved = facts["weight_bytes"] + facts["activation_bytes"] * m * (n + k)
        operations = 2 * n * k * m
        copies = self._copies(path, case)
        if self._plan.device == "cpu":
            roof = self._roofs.roof(facts, copies, case.threads, moved, operations)
        else:
            roof = Roof(None, None, None, None, "no roofs of a GPU are measured")
        return KernelRecord(
            **self._origin.fields(),
            path=path,
            device="cpu" if self._plan.device == "cpu" else "cuda",
            **facts["use"],
            n=n,
            k=k,
            m=m,
            threads=case.threads,
            cache=self._plan.cache,
            copies=copies,
            interleaved_with=others,
            median_ns=series.median_ns,
            ci95_ns=series.ci95_ns,
            samples_ns=series.samples_ns,
            batches_per_sample=series.calls_per_sample,
            interference=series.interference,
            n_disturbed=series.kept.n_disturbed,
            disturbed=series.kept.disturbed,
            sampling=series.sampling,
            weight_bytes=facts["weight_bytes"],
            moved_bytes=moved,
            gbs=moved / series.median_ns,
            gflops=operations / series.median_ns,
            roof_gbs=roof.gbs,
            roof_gops=roof.gops,
            roof_fraction=None if roof.ns is None else roof.ns / series.median_ns,
            bound=roof.bound,
            roof_reason=roof.reason,
            max_rel_error=facts["max_rel_error"],
            energy=facts["energy"],
            energy_j_per_product=facts["energy_j_per_product"],
        )


def _no_energy() -> dict[str, Any]:
    """Where a comparison ended before it was measured."""
    reason = "the comparison ended before it was measured"
    none = add_up([EnergyWindow(reason=reason)])
    return {"energy": none.model_dump(), "energy_j_per_product": None}


@dataclass(frozen=True)
class _Turns:
    """A path as a candidate."""

    session: _Session
    path: str

    def turn(self) -> Turn | None:
        return self.session.take_turn(self.path)
