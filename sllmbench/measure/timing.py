"""Times of prefill and decode on the CPU."""

from __future__ import annotations

import gc
import itertools
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from sllmbench.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from sllmbench.runners import Runner


Phase = Literal["prefill", "decode"]


@dataclass(frozen=True)
class RequestSample:
    """One request: a prompt, then greedy tokens one at a time.

    Attributes:
        prefill_ns: the forward over the prompt on an empty cache, with the logits of the last
            position only.
        ttft_ns: from the same start until the first token is chosen.
        itl_ns: the time of each following token, from one choice to the next; n_gen - 1 of them.
    """

    prefill_ns: int
    ttft_ns: int
    itl_ns: tuple[int, ...]


def time_request(
    runner: Runner,
    prompt_ids: Sequence[int],
    n_gen: int,
    watch: Callable[[Phase], None] | None = None,
) -> RequestSample:
    """Time a prompt of ids and ``n_gen`` greedy tokens after it.

    ``watch`` is called after each phase, within the first token's and the last token's time: not in
    requests whose times are to count.

    Raises:
        InputError: an empty prompt, ``n_gen`` below 1 or more tokens than the model has positions.
    """
    if not prompt_ids:
        raise InputError("the prompt is empty; it must have at least one token")
    _require_steps(runner, len(prompt_ids), n_gen)
    with _no_collection():
        runner.clear(len(prompt_ids) + n_gen)
        start_ns = time.perf_counter_ns()
        logits = runner.feed(prompt_ids)
        prefilled_ns = time.perf_counter_ns()
        if watch is not None:
            watch("prefill")
        token = int(logits.argmax())
        chosen_ns = [time.perf_counter_ns()]
        for _ in range(n_gen - 1):
            token = int(runner.feed([token]).argmax())
            chosen_ns.append(time.perf_counter_ns())
        if watch is not None:
            watch("decode")
    return RequestSample(
        prefill_ns=prefilled_ns - start_ns,
        ttft_ns=chosen_ns[0] - start_ns,
        itl_ns=tuple(after - before for before, after in itertools.pairwise(chosen_ns)),
    )


def time_decode(runner: Runner, n_gen: int, first_id: int) -> int:
    """Time ``n_gen`` steps of one token from an empty cache, as llama-bench's tg test; return ns.

    The first step is fed ``first_id``, each other one the token chosen before it; every choice
    is within the time.

    Raises:
        InputError: ``n_gen`` below 1 or more tokens than the model has positions.
    """
    _require_steps(runner, 0, n_gen)
    with _no_collection():
        runner.clear(n_gen)
        token = first_id
        start_ns = time.perf_counter_ns()
        for _ in range(n_gen):
            token = int(runner.feed([token]).argmax())
        return time.perf_counter_ns() - start_ns


def warm_up(runner: Runner, prompt_ids: Sequence[int], n_gen: int) -> None:
    """Run once what will be timed, in the same sizes: a warm-up of one token leaves much cold.

    Raises:
        InputError: as :func:`time_request`.
    """
    time_request(runner, prompt_ids, n_gen)
    time_decode(runner, n_gen, prompt_ids[0])


def _require_steps(runner: Runner, n_prompt: int, n_gen: int) -> None:
    if n_gen < 1:
        raise InputError(f"{n_gen} tokens to generate; at least 1 is needed")
    runner.require_positions(n_prompt + n_gen)


@contextmanager
def _no_collection() -> Iterator[None]:
    """No garbage collection: a full one takes longer than a token."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
