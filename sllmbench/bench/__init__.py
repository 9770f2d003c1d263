"""The plan of a run carried out: paths timed in turns, records committed path by path."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from typing import TYPE_CHECKING

from sllmbench.bench.plan import Plan, make_plan
from sllmbench.bench.results import RunResult
from sllmbench.bench.session import Session
from sllmbench.checkpoints.base import Progress, silent
from sllmbench.hardware import load
from sllmbench.measure.memory import available_bytes
from sllmbench.store import Store

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

__all__ = ["Failure", "Plan", "RunResult", "execute", "make_plan", "run"]


def run(
    model: str = "smollm2-135m",
    paths: Sequence[str] | None = None,
    *,
    n_prompt: int = 128,
    n_gen: int = 32,
    repetitions: int = 6,
    precision: float | None = None,
    max_seconds: float | None = None,
    threads: int | None = None,
    arithmetic: str | None = None,
    eval_tokens: int = 4096,
    quality: bool = True,
    reference: str | None = None,
    text: str = "openwebtext",
    device: str = "cpu",
    seed: int = 0,
    interpreters: Mapping[str, str] | None = None,
    models: Mapping[str, str] | None = None,
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
        precision: take more repetitions until half of the 95% intervals of the medians of prefill
            and decode is narrower than this fraction of them; the record says where it was not.
        max_seconds: after which no further round of repetitions begins, of those paths that are
            timed together; None takes 300 with a precision and waits without one.
        threads: of every kernel; None takes ``SLLMBENCH_THREADS``, else every usable CPU.
        arithmetic: of our own kernels: ``int8`` activations or ``exact``, float32 on a CPU and
            float16 on a GPU; None takes int8 on a CPU and exact on a GPU.
        eval_tokens: tokens of the text that quality is measured on.
        quality: False leaves perplexity and divergence out.
        reference: the path that others are compared with; None takes fp32, bf16 or fp16, whichever
            is present first, else the first path.
        text: an evaluation text's name or a UTF-8 file.
        device: ``cpu``, ``cuda`` or ``cuda:N``.
        seed: of the order of turns, and of the prompt where there is no text.
        interpreters: by path the Python that it runs in, where that is not this one.
        models: by path the model that it runs, where that is not ``model``: a quantised copy of
            it, whose tokens are the same.
        store: the SQLite file that records are added to; None takes the user's data directory.
        progress: told what is being done and the fraction of the run that is done.

    Raises:
        InputError: something given cannot be used; nothing has been measured.
    """
    with Store(store) as opened:
        plan = make_plan(
            model,
            paths,
            interpreters=interpreters or {},
            models=models,
            n_prompt=n_prompt,
            n_gen=n_gen,
            repetitions=repetitions,
            precision=precision,
            max_seconds=max_seconds,
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
    disturbances = load.disturbances()
    with ExitStack() as exits:
        # Without a name on disk, so that no end of this process leaves it behind.
        log_probs = exits.enter_context(tempfile.TemporaryFile()) if plan.eval_ids else None
        session = Session(plan, store, progress, log_probs)
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
            disturbances=disturbances,
            interrupted=interrupted,
        )
