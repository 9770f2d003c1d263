"""A transformers model: ours with its linear layers on a path, or another library's."""

from __future__ import annotations

import copy
import dataclasses
import inspect
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from sllmbench import paths
from sllmbench.errors import InputError
from sllmbench.model import describe, estimate_bytes, load_model, required_tensors
from sllmbench.runners.base import ModelPath, Runner

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from sllmbench.checkpoints.base import Checkpoint, Progress
    from sllmbench.model import ModelFacts
    from sllmbench.paths import Arithmetic


_SIDE_BY_SIDE_TOKENS = 4096
"""Tokens of all copies of a cache that may be in memory at once."""


class TransformersRunner(Runner):
    """A causal language model of transformers, on a CPU or a GPU."""

    def __init__(self, model: Any, path: str | None = None) -> None:
        """Take a model; one that is on no path of ours goes by its class's name.

        Raises:
            InputError: the model is on a device of a kind that no clock here waits for.
        """
        if model.device.type not in ("cpu", "cuda"):
            raise InputError(f"the model is on {model.device}; it must be on the CPU or on cuda")
        config = model.config.get_text_config()
        ours = getattr(model, "sllmbench_path", None)
        self.path = path or (type(model).__name__ if ours is None else str(ours.name))
        self.vocab_size = int(config.vocab_size)
        self.positions = getattr(config, "max_position_embeddings", None)
        self.model = model
        self._cache: Any = None
        self._kept = _keep_last_logits(model)

    def clear(self, n_tokens: int) -> None:
        """Take a new cache, or none where the model makes its own; it grows as it is filled."""
        self._cache = _fresh_cache(self.model)

    def feed(self, ids: Sequence[int]) -> torch.Tensor:
        """Run the model's forward, with the logits of the last position only → [vocab]."""
        with torch.inference_mode(), self._last_logits_only() as kept:
            tokens = torch.tensor([ids], device=self.model.device)
            out = self.model(tokens, past_key_values=self._cache, use_cache=True, **kept)
            self._cache = out.past_key_values
            logits: torch.Tensor = out.logits[0, -1]
        if logits.is_cuda:  # computed, not queued: a clock is read behind this call
            torch.cuda.synchronize(logits.device)
        return logits

    def sequence_logits(self, ids: Sequence[int], rows: int) -> Iterator[torch.Tensor]:
        """Run the model's body once and its output layer on a slice at a time.

        Logits come from the model's own forward, with the body replaced by what it has returned, so
        that whatever an architecture does around its output layer (scales, caps) is done.

        Raises:
            InputError: the model has no output layer apart from its body.
        """
        model, body = self.model, self.model.base_model
        if body is model:
            raise InputError(f"{type(model).__name__} has no output layer apart from its body")
        self._cache = None
        tokens = torch.tensor([ids], device=model.device)
        with torch.inference_mode():
            read = body(input_ids=tokens, use_cache=False, return_dict=True)
        for start in range(0, len(ids), rows):
            part = slice(start, start + rows)
            kept = dataclasses.replace(read, last_hidden_state=read.last_hidden_state[:, part])
            with torch.inference_mode(), _replaced_forward(body, kept):
                logits = model(tokens[:, part], use_cache=False, return_dict=True).logits[0]
            yield logits.cpu()

    def branch_logits(self, prompts: torch.Tensor, branches: torch.Tensor) -> torch.Tensor:
        """Logits [b, a, t, vocab] that predict branches [b, a, t] behind prompts [b, p].

        The prompts are read into a cache and each branch behind a copy of it. A batch's copies
        stand side by side where they are small, else one is made at a time: the cache of a long
        prompt takes hundreds of megabytes.
        """
        (b, p), (_, a, t) = prompts.shape, branches.shape
        prompts, branches = prompts.to(self.model.device), branches.to(self.model.device)
        with torch.inference_mode(), self._last_logits_only() as kept:
            read = self.model(prompts, use_cache=True, return_dict=True, **kept)
            first: torch.Tensor = read.logits[:, None, -1:].expand(b, a, 1, -1)
        if t == 1:
            return first.cpu()
        cache, rest = read.past_key_values, branches[..., :-1]
        with torch.inference_mode():
            if b * a * (p + t) <= _SIDE_BY_SIDE_TOKENS:
                cache.batch_repeat_interleave(a)
                logits = self._behind(cache, rest.reshape(b * a, t - 1)).view(b, a, t - 1, -1)
            else:
                parts = [self._behind(copy.deepcopy(cache), rest[:, i]) for i in range(a)]
                logits = torch.stack(parts, dim=1)
            return torch.cat([first, logits], dim=2).cpu()

    def _behind(self, cache: Any, ids: torch.Tensor) -> torch.Tensor:
        read = self.model(ids, past_key_values=cache, use_cache=True, return_dict=True)
        logits: torch.Tensor = read.logits
        return logits

    def cache_bytes(self) -> int | None:
        """What the cache holds, each storage once; None for an unknown kind."""
        return cache_bytes(self._cache)

    def facts(self) -> ModelFacts:
        """What the model was loaded with."""
        return describe(self.model)

    @contextmanager
    def _last_logits_only(self) -> Iterator[dict[str, int]]:
        """Yield the arguments that keep the last logits, or cut what the output layer is given."""
        if self._kept is not None:
            yield self._kept
            return
        head = self.model.get_output_embeddings()
        handle = head.register_forward_pre_hook(lambda _, inputs: (inputs[0][:, -1:],))
        try:
            yield {}
        finally:
            handle.remove()


class TransformersPath(ModelPath):
    """A transformers model whose linear layers run on one of our paths."""

    def __init__(self, name: str, arithmetic: Arithmetic, device: str = "cpu") -> None:
        """Take the name of the layers' path, how our own kernels compute on it, and where.

        Raises:
            InputError: no path has this name.
        """
        self._path = paths.resolve(name, arithmetic, device)
        self._device = device
        self._arithmetic: Arithmetic = arithmetic
        super().__init__(name, self._path.summary)

    def unsupported(
        self, checkpoint: Checkpoint | None = None, installed: Mapping[str, str] | None = None
    ) -> str | None:
        """What the layers' path says."""
        return self._path.unsupported(checkpoint)

    def prepare(self, checkpoint: Checkpoint, progress: Progress) -> int:
        """Check that the path's layers fit the model's tensors; read none."""
        required_tensors(checkpoint, [self.name])
        return estimate_bytes(checkpoint, self._path)

    def start_libraries(self, checkpoint: Checkpoint) -> None:
        """Import the model's classes."""
        import_architecture(checkpoint)

    def load(self, checkpoint: Checkpoint, threads: int, progress: Progress) -> Runner:
        """Fill the model layer by layer; ``threads`` are torch's and our kernels'."""
        model = load_model(
            checkpoint,
            self.name,
            arithmetic=self._arithmetic,
            device=self._device,
            threads=threads,
            progress=progress,
        )
        return TransformersRunner(model)


def import_architecture(checkpoint: Checkpoint) -> None:
    """Import the model's classes, making no weights."""
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        AutoModelForCausalLM.from_config(checkpoint.config())  # type: ignore[no-untyped-call]


def cache_bytes(cache: Any) -> int | None:
    """Bytes that a transformers cache holds, each storage once; None for an unknown kind."""
    storages = {
        tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
        for tensor in _tensors(cache)
    }
    return sum(storages.values()) if storages else None


def _tensors(cache: Any) -> Iterator[torch.Tensor]:
    if isinstance(cache, torch.Tensor):
        yield cache
    elif isinstance(cache, (list, tuple)):
        for item in cache:
            yield from _tensors(item)
    else:
        # transformers 5 keeps layers, 4 lists of keys and of values.
        for name in ("layers", "key_cache", "value_cache", "keys", "values"):
            held = getattr(cache, name, None)
            if not callable(held):
                yield from _tensors(held) if held is not None else ()


def _keep_last_logits(model: Any) -> dict[str, int] | None:
    """The forward arguments that keep the logits of the last position only.

    The argument's name depends on the version of transformers; None for architectures without one.
    """
    names = inspect.signature(type(model).forward).parameters
    for name in ("logits_to_keep", "num_logits_to_keep"):
        if name in names:
            return {name: 1}
    return None


def _fresh_cache(model: Any) -> Any:
    """An empty cache, or None where the model makes its own."""
    from transformers import DynamicCache

    if not getattr(model, "_supports_cache_class", True):
        return None
    if "config" in inspect.signature(DynamicCache.__init__).parameters:
        return DynamicCache(config=model.config)
    return DynamicCache()


@contextmanager
def _replaced_forward(body: Any, output: Any) -> Iterator[None]:
    """Have ``body`` return ``output``."""
    own = vars(body).get("forward")
    body.forward = lambda *_, **__: output
    try:
        yield
    finally:
        if own is None:
            vars(body).pop("forward", None)
        else:
            body.forward = own
