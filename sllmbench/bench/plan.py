"""What a run will do, checked against the user's input and the machine before any work begins."""

from __future__ import annotations

import random
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sllmbench import assets, runners
from sllmbench.bench.checks import (
    check_arithmetic,
    check_names,
    choose_reference,
    choose_threads,
    runnable,
)
from sllmbench.bench.subjects import Subject, Subjects
from sllmbench.checkpoints.base import Progress, silent
from sllmbench.checkpoints.random import RandomCheckpoint
from sllmbench.errors import InputError
from sllmbench.hardware import cuda
from sllmbench.measure.sampling import Limits
from sllmbench.model import required_tensors

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sllmbench.checkpoints.base import Checkpoint
    from sllmbench.paths import Arithmetic

CONTEXT = 1024
"""Tokens of a perplexity window, fewer where the model takes fewer."""

_LEAST_EVAL_TOKENS = 3  # two predictions, the least that have a standard error
_PRECISION_SECONDS = 300.0
"""To reach a precision where nothing else is said."""
PROCESS_BYTES = 450 << 20
"""Resident memory of a process with torch and transformers imported and their threads started."""
QUALITY_BYTES = 400 << 20
"""Logits of a slice of a window, their log-softmax, the reference's and what compares them."""
_READ_BYTES = 64 << 20
_LAYER_BYTES, _HEAD_BYTES = 16, 4
"""A weight of the largest layer while an unfused path expands it; one of the output layer, which
is never expanded, while torch reorders it (measured: 0.8 GB above 2.5 GB of bf16 weights)."""


@dataclass(frozen=True)
class Plan:
    """Everything that is decided before the first process starts.

    Attributes:
        subjects: the model that each path runs.
        precision: takes more than the repetitions until the medians are known so well.
        max_seconds: of a wave's repetitions.
        interpreters: the Python of the paths that do not run in this one.
        waves: paths whose processes live, and take turns, together; the reference is in the first.
        prompt_ids: the prompt of every request, n_prompt tokens.
        eval_ids: the tokens of the quality measurement; empty where there is none.
        quality_reason: why there is none.
    """

    subjects: Mapping[str, Subject]
    interpreters: Mapping[str, str]
    waves: tuple[tuple[str, ...], ...]
    reference: str
    n_prompt: int
    n_gen: int
    repetitions: int
    precision: float | None
    max_seconds: float | None
    threads: int
    arithmetic: Arithmetic
    device: str
    seed: int
    prompt_ids: tuple[int, ...]
    eval_ids: tuple[int, ...]
    text: str
    context: int
    quality_reason: str | None

    @property
    def limits(self) -> Limits:
        """When a wave has been timed often enough."""
        return Limits(self.repetitions, self.precision, self.max_seconds)

    @property
    def paths(self) -> tuple[str, ...]:
        """Every path of the run."""
        return tuple(path for wave in self.waves for path in wave)


def make_plan(
    model: str,
    path_names: Sequence[str] | None,
    *,
    interpreters: Mapping[str, str],
    n_prompt: int,
    n_gen: int,
    repetitions: int,
    precision: float | None = None,
    max_seconds: float | None = None,
    threads: int | None,
    arithmetic: str | None,
    eval_tokens: int,
    quality: bool,
    reference: str | None,
    text: str,
    device: str,
    seed: int,
    available_bytes: int,
    models: Mapping[str, str] | None = None,
    progress: Progress = silent,
) -> Plan:
    """Check every argument against the others, the model and the machine.

    Args:
        available_bytes: memory that the run may take; the others are as in :func:`sllmbench.run`.

    Raises:
        InputError: something cannot be done as asked.
    """
    for what, value in (("n_prompt", n_prompt), ("n_gen", n_gen), ("repetitions", repetitions)):
        if value < 1:
            raise InputError(f"{what} must be at least 1, not {value}")
    if max_seconds is None and precision is not None:
        max_seconds = _PRECISION_SECONDS
    Limits(repetitions, precision, max_seconds)
    if quality and eval_tokens < _LEAST_EVAL_TOKENS:
        raise InputError(f"eval_tokens must be at least {_LEAST_EVAL_TOKENS}, not {eval_tokens}")
    cuda.require(device)
    checked_arithmetic = check_arithmetic(arithmetic, device)
    for name in path_names or ():
        runners.resolve(name, checked_arithmetic, device)
    if path_names is not None:
        check_names(path_names, reference)
    thread_count = choose_threads(threads)

    subjects = Subjects(model, models, progress)
    checkpoint = subjects.main
    chosen = runnable(subjects, path_names, interpreters, checked_arithmetic, device)
    if path_names is None:
        check_names(chosen, reference)
    reference_path = reference or choose_reference(chosen)
    config = checkpoint.config().get_text_config()
    longest = getattr(config, "max_position_embeddings", None)
    if longest is not None and n_prompt + n_gen > longest:
        raise InputError(
            f"n_prompt + n_gen is {n_prompt + n_gen} and {model} takes at most {longest} positions"
        )
    if not quality:
        quality_reason: str | None = "not asked for"
    else:
        quality_reason = checkpoint.quality_unavailable
    context = min(CONTEXT, longest or CONTEXT)
    if quality_reason is None:
        n_ids = max(n_prompt, eval_tokens)
        ids = _text_ids(checkpoint.tokenizer(), text, n_ids, progress)
        prompt_ids, eval_ids = ids[:n_prompt], ids[:eval_tokens]
    else:
        generator = random.Random(seed)
        prompt_ids = tuple(generator.randrange(config.vocab_size) for _ in range(n_prompt))
        eval_ids = ()
    needs = needed_bytes(subjects, chosen, progress, checked_arithmetic, device)
    used = subjects.used(chosen)
    if device != "cpu":  # which a process and its context take about as much of
        available_bytes = cuda.free_bytes(device)
    # Of a wave's paths one runs at a time, so one at most needs room to work in.
    workspace = max(map(_working_bytes, used)) + (QUALITY_BYTES if eval_ids else 0)
    ordered = sorted(chosen, key=lambda name: name != reference_path)
    waves = split_into_waves({name: needs[name] for name in ordered}, workspace, available_bytes)
    for each in used:
        if not isinstance(each, RandomCheckpoint):  # whose weights are made, not read
            _read_through(each, required_tensors(each, []), progress)
    return Plan(
        subjects=subjects.facts(chosen),
        interpreters=dict(interpreters),
        waves=waves,
        reference=reference_path,
        n_prompt=n_prompt,
        n_gen=n_gen,
        repetitions=repetitions,
        precision=precision,
        max_seconds=max_seconds,
        threads=thread_count,
        arithmetic=checked_arithmetic,
        device=device,
        seed=seed,
        prompt_ids=prompt_ids,
        eval_ids=eval_ids,
        text=Path(text).name,
        context=context,
        quality_reason=quality_reason,
    )


def split_into_waves(
    needs: dict[str, int], workspace: int, available_bytes: int
) -> tuple[tuple[str, ...], ...]:
    """Put each path into the first wave that it fits; a wave shares one ``workspace``.

    Args:
        needs: bytes that each path's process holds while it waits, in order.

    Raises:
        InputError: a path does not fit even alone.
    """
    waves: list[list[str]] = []
    for path, need in needs.items():
        if need + workspace > available_bytes:
            raise InputError(
                f"too little memory for path {path}: it needs about {(need + workspace) / 1e9:.1f}"
                f" GB and {available_bytes / 1e9:.1f} GB are available; free some or leave it out"
                " with --paths"
            )
        for wave in waves:
            if sum(needs[p] for p in wave) + need + workspace <= available_bytes:
                wave.append(path)
                break
        else:
            waves.append([path])
    return tuple(tuple(wave) for wave in waves)


def needed_bytes(
    subjects: Subjects,
    names: Sequence[str],
    progress: Progress,
    arithmetic: Arithmetic = "int8",
    device: str = "cpu",
) -> dict[str, int]:
    """Prepare paths; bytes that each one's process will hold on the device while it waits.

    Raises:
        InputError: a path cannot run the model after all.
    """
    return {
        name: PROCESS_BYTES
        + runners.resolve(name, arithmetic, device).prepare(subjects.of(name), progress)
        for name in names
    }


def _read_through(checkpoint: Checkpoint, tensors: Sequence[str], progress: Progress) -> None:
    """Read every weight once: bad ones are found, and every load is then timed from page cache."""
    shapes = checkpoint.shapes()
    for done, name in enumerate(tensors):
        shape = shapes[name]
        progress("reading the weights", done / len(tensors))
        step = max(1, _READ_BYTES // (4 * prod(shape[1:])))
        for start in range(0, shape[0], step):
            checkpoint.rows(name, start, min(start + step, shape[0]))


def _working_bytes(checkpoint: Checkpoint) -> int:
    """Memory that a path takes while it loads or runs, on top of its weights."""
    return max(
        prod(shape) * (_HEAD_BYTES if "embed" in name or "lm_head" in name else _LAYER_BYTES)
        for name, shape in checkpoint.shapes().items()
    )


def _text_ids(tokenizer: Any, text: str, count: int, progress: Progress) -> tuple[int, ...]:
    """Take the first ``count`` tokens of a text (an asset's name or a UTF-8 file), without BOS."""
    progress("tokenising the text", None)
    content = assets.read_text(text, progress)
    ids = tokenizer(content, add_special_tokens=False, verbose=False)["input_ids"]
    if len(ids) < count:
        raise InputError(
            f"the text {text} has {len(ids)} tokens and {count} are needed;"
            " lower --eval-tokens or --n-prompt, or choose another with --text"
        )
    return tuple(ids[:count])
