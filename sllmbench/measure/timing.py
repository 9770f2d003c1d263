"""Times of prefill and decode on the CPU."""

from __future__ import annotations

import gc
import inspect
import itertools
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from sllmbench.errors import InputError
from sllmbench.measure.checks import require_cpu, require_positions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import torch
    from transformers import PreTrainedModel


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
    model: PreTrainedModel,
    prompt_ids: torch.Tensor,
    n_gen: int,
    watch: Callable[[Phase, Any], None] | None = None,
) -> RequestSample:
    """Time a prompt of ids [1, n_prompt] and ``n_gen`` greedy tokens after it.

    ``watch`` is called with the cache after each phase, within the first token's and the last
    token's time: not in requests whose times are to count.

    Raises:
        InputError: a prompt of another shape, ``n_gen`` below 1, more tokens than the model has
            positions, or a model that is not on the CPU.
    """
    if prompt_ids.ndim != 2 or prompt_ids.shape[0] != 1 or prompt_ids.shape[1] < 1:
        raise InputError(f"the prompt has shape {list(prompt_ids.shape)}; it must be [1, n_prompt]")
    _require_steps(model, prompt_ids.shape[1], n_gen)
    with _undisturbed(), _last_logits_only(model) as kept:
        cache = _fresh_cache(model)
        start_ns = time.perf_counter_ns()
        out = model(prompt_ids, past_key_values=cache, use_cache=True, **kept)
        prefilled_ns = time.perf_counter_ns()
        if watch is not None:
            watch("prefill", out.past_key_values)
        token = out.logits[:, -1].argmax(-1, keepdim=True)
        chosen_ns = [time.perf_counter_ns()]
        for _ in range(n_gen - 1):
            out = model(token, past_key_values=out.past_key_values, use_cache=True, **kept)
            token = out.logits[:, -1].argmax(-1, keepdim=True)
            chosen_ns.append(time.perf_counter_ns())
        if watch is not None:
            watch("decode", out.past_key_values)
    return RequestSample(
        prefill_ns=prefilled_ns - start_ns,
        ttft_ns=chosen_ns[0] - start_ns,
        itl_ns=tuple(after - before for before, after in itertools.pairwise(chosen_ns)),
    )


def time_decode(model: PreTrainedModel, n_gen: int, first_id: int) -> int:
    """Time ``n_gen`` steps of one token from an empty cache, as llama-bench's tg test; return ns.

    The first step is fed ``first_id``, each other one the token chosen before it; every choice
    is within the time.

    Raises:
        InputError: ``n_gen`` below 1, more tokens than the model has positions, or a model that
            is not on the CPU.
    """
    import torch

    _require_steps(model, 0, n_gen)
    with _undisturbed(), _last_logits_only(model) as kept:
        token = torch.tensor([[first_id]])
        cache = _fresh_cache(model)
        start_ns = time.perf_counter_ns()
        for _ in range(n_gen):
            out = model(token, past_key_values=cache, use_cache=True, **kept)
            cache = out.past_key_values
            token = out.logits[:, -1].argmax(-1, keepdim=True)
        return time.perf_counter_ns() - start_ns


def warm_up(model: PreTrainedModel, prompt_ids: torch.Tensor, n_gen: int) -> None:
    """Run once what will be timed, in the same sizes: a warm-up of one token leaves much cold.

    Raises:
        InputError: as :func:`time_request`.
    """
    time_request(model, prompt_ids, n_gen)
    time_decode(model, n_gen, int(prompt_ids[0, 0]))


def _require_steps(model: PreTrainedModel, n_prompt: int, n_gen: int) -> None:
    if n_gen < 1:
        raise InputError(f"{n_gen} tokens to generate; at least 1 is needed")
    require_cpu(model)
    require_positions(model, n_prompt + n_gen)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """No autograd and no garbage collection: a full collection takes longer than a token."""
    import torch

    enabled = gc.isenabled()
    gc.disable()
    try:
        with torch.inference_mode():
            yield
    finally:
        if enabled:
            gc.enable()


@contextmanager
def _last_logits_only(model: PreTrainedModel) -> Iterator[dict[str, int]]:
    """Yield the forward arguments that keep the logits of the last position only.

    The argument's name depends on the version of transformers; architectures that have neither
    get the hidden states cut in front of their output layer.
    """
    names = inspect.signature(type(model).forward).parameters
    for name in ("logits_to_keep", "num_logits_to_keep"):
        if name in names:
            yield {name: 1}
            return
    head = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    handle = head.register_forward_pre_hook(lambda _, inputs: (inputs[0][:, -1:],))
    try:
        yield {}
    finally:
        handle.remove()


def _fresh_cache(model: PreTrainedModel) -> Any:
    """An empty cache, made before the clock starts, or None where the model makes its own."""
    from transformers import DynamicCache

    if not getattr(model, "_supports_cache_class", True):
        return None
    if "config" in inspect.signature(DynamicCache.__init__).parameters:
        return DynamicCache(config=model.config)
    return DynamicCache()
