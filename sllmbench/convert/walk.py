"""The walk of a model, layer by layer: one layer's weights and every sample's states in memory.

The model is built on the meta device. Its embedding makes the states of every sample; then each
layer in turn is filled, given to whoever quantises it, run, and emptied, its outputs taking the
place of its inputs::

    ids → embedding → states [samples, length, hidden] → layer 0 → states → layer 1 → …
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
import torch
from torch import nn

from sllmbench.convert.structure import Group, decoder_layers, input_groups, scale_input
from sllmbench.errors import InputError
from sllmbench.model import check_tensors, name_of, set_parameter, skeleton
from sllmbench.paths.base import rows_at_once
from sllmbench.paths.torch_float import float_tensor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from sllmbench.checkpoints import Checkpoint
    from sllmbench.convert.scratch import DoneLayer

_STATES_SHARE = 0.25
"""Of the free memory: states that take more lie in a file."""


class _Reached(Exception):  # noqa: N818 - it ends a run that has shown what it was to show
    pass


@dataclass
class Inputs:
    """What the linears of a group were given.

    Attributes:
        gram: the mean of x xᵀ over the tokens, float32 [k, k], or None where it was not asked for.
        mean_square: the mean of x², float32 [k].
        mean_abs: the mean of |x|, float32 [k].
    """

    gram: torch.Tensor | None
    mean_square: torch.Tensor
    mean_abs: torch.Tensor


class _Gatherer:
    """Adds up a group's inputs, sample by sample."""

    def __init__(self, k: int, with_gram: bool) -> None:
        self.gram = torch.zeros(k, k) if with_gram else None
        self.squares = torch.zeros(k)
        self.absolutes = torch.zeros(k)
        self.tokens = 0

    def add(self, x: torch.Tensor) -> None:
        rows = x.reshape(-1, x.shape[-1])
        if self.gram is not None:
            self.gram.addmm_(rows.T, rows)
        else:
            self.squares += rows.square().sum(0)
        self.absolutes += rows.abs().sum(0)
        self.tokens += len(rows)

    def inputs(self) -> Inputs:
        squares = self.squares if self.gram is None else self.gram.diagonal().clone()
        gram = None if self.gram is None else self.gram.div_(self.tokens)
        return Inputs(gram, squares / self.tokens, self.absolutes / self.tokens)


class Walk:
    """The decoder layers of a model in turn, each with the states that the one before it gave."""

    def __init__(self, checkpoint: Checkpoint, ids: NDArray[np.int64], scratch: Path) -> None:
        """Build the model's frame and every sample's first states.

        Args:
            checkpoint: the float model.
            ids: token ids, [samples, length].
            scratch: where the states go if memory is short.

        Raises:
            InputError: the model cannot be walked, or lacks tensors.
        """
        self.checkpoint = checkpoint
        self.net = skeleton(checkpoint).eval()
        check_tensors(checkpoint, self.net)
        self.list_name, self.layers = decoder_layers(self.net, checkpoint.name)
        self._groups: dict[tuple[str, ...], tuple[Group, ...]] = {}
        hidden = self.net.config.get_text_config().hidden_size
        self.states = _allocate((*ids.shape, hidden), scratch / "states")
        self._arguments = self._enter(ids)

    def __len__(self) -> int:
        """How many layers there are."""
        return len(self.layers)

    def layer(self, index: int) -> Layer:
        """Layer ``index`` with its float weights, to be run on the states as they are now."""
        name = f"{self.list_name}.{index}"
        module = self.layers[index]
        for parameter in [name for name, _ in module.named_parameters()]:
            tensor = float_tensor(self.checkpoint, f"{name}.{parameter}", "float32")
            set_parameter(module, parameter, tensor)
        layer = Layer(name, module, self.states, self._arguments[index], self.checkpoint)
        parts = tuple(part for part, _ in module.named_modules())
        if parts not in self._groups:
            self._groups[parts] = layer.find_groups()
        layer.groups = self._groups[parts]
        return layer

    def _enter(self, ids: NDArray[np.int64]) -> list[_Arguments]:
        """Fill the states with what the first layer is given; return what else each is given."""
        embedding = self.net.get_input_embeddings()
        used, compact = np.unique(ids, return_inverse=True)
        self._fill_frame(embedding, used)
        body = self.net.base_model
        entrance = _Entrance(self.layers, self.states)
        with torch.inference_mode(), entrance:
            for sample, row in enumerate(torch.from_numpy(compact.reshape(ids.shape))):
                entrance.sample = sample
                body(input_ids=row[None], use_cache=False)
        embedding.weight = nn.Parameter(torch.empty(0), requires_grad=False)
        if not entrance.same:
            raise InputError(
                f"{self.checkpoint.name}: its layers are given more of each text than the states, "
                "so it cannot be walked layer by layer"
            )
        return entrance.arguments

    def _fill_frame(self, embedding: Any, used: NDArray[np.int64]) -> None:
        """Fill what is no layer, the embedding with the rows of the ids in use alone."""
        skipped = {id(embedding.weight), id(self.net.get_output_embeddings().weight)}
        for name, parameter in list(self.net.named_parameters()):
            if id(parameter) not in skipped and not name.startswith(f"{self.list_name}."):
                set_parameter(self.net, name, float_tensor(self.checkpoint, name, "float32"))
        name = f"{name_of(self.net, embedding)}.weight"
        rows, width = self.checkpoint.shapes()[name]
        step = rows_at_once(width)
        parts = [np.empty((0, width), np.float32)]
        for start in range(0, rows, step):
            stop = min(start + step, rows)
            here = used[(used >= start) & (used < stop)] - start
            if len(here):
                parts.append(self.checkpoint.rows(name, start, stop)[here])
        weight = torch.from_numpy(np.concatenate(parts))
        embedding.weight = nn.Parameter(weight, requires_grad=False)
        embedding.padding_idx = None


@dataclass(frozen=True)
class _Arguments:
    """What a layer is given besides the states."""

    positional: tuple[Any, ...]
    named: Mapping[str, Any]


class _Entrance:
    """Stands in the place of every layer: notes what it is given and returns the states."""

    def __init__(self, layers: nn.ModuleList, states: torch.Tensor) -> None:
        self.layers = layers
        self.states = states
        self.sample = 0
        self.arguments: list[Any] = [None] * len(layers)
        self.same = True
        self._tuples = False

    def __enter__(self) -> None:
        for index, layer in enumerate(self.layers):
            layer.forward = lambda x, *a, index=index, **k: self._note(index, x, _Arguments(a, k))

    def __exit__(self, *error: object) -> None:
        for layer in self.layers:
            del layer.forward

    def _note(self, index: int, x: torch.Tensor, given: _Arguments) -> Any:
        if index == 0:
            self.states[self.sample] = x[0]
        # Before transformers 4.54 a layer returned a tuple; then the first of what it is returned
        # here is one sample's states without their first dimension.
        self._tuples |= x.ndim == 2
        earlier = self.arguments[index]
        self.arguments[index] = given
        if earlier is not None:
            self.same &= _same(earlier.positional, given.positional)
            self.same &= _same(dict(earlier.named), dict(given.named))
        x = x[None] if x.ndim == 2 else x
        return (x,) if self._tuples else x


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and torch.equal(a, b)
    if isinstance(a, tuple | list):
        return len(a) == len(b) and all(map(_same, a, b))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    return bool(a == b)


class Layer:
    """One decoder layer with its weights in memory.

    Attributes:
        name: as its tensors' names begin, e.g. ``model.layers.3``.
        groups: its linears by the input they share.
    """

    groups: tuple[Group, ...]

    def __init__(
        self,
        name: str,
        module: nn.Module,
        states: torch.Tensor,
        given: _Arguments,
        checkpoint: Checkpoint,
    ) -> None:
        """Hold the layer and the states it is to be run on."""
        self.name = name
        self._module = module
        self._states = states
        self._given = given
        self._checkpoint = checkpoint
        self._model = checkpoint.name

    def find_groups(self) -> tuple[Group, ...]:
        """The layer's linears by the input they share, found by running one sample."""
        with torch.inference_mode():
            states = self._states[0][None]
            return input_groups(self._module, lambda: self._run(0) - states, self._model)

    def scale_input(self, group: Group, factors: torch.Tensor) -> torch.Tensor:
        """Move factors from a group's input to its columns; what the columns were multiplied by.

        Raises:
            ValueError: nothing can be scaled in the place of the input.
        """
        if group.producer is None:
            raise ValueError(f"{group.linears} of {self.name} have no producer")
        norm = f"{self.name}.{group.producer.name}.weight"
        stored = getattr(torch, self._checkpoint.float_type(norm))
        return scale_input(self._module, group.linears, group.producer, factors, stored)

    def part(self, name: str) -> Any:
        """A module of the layer by its name within it."""
        return self._module.get_submodule(name)

    def digest(self) -> str:
        """SHA-256 of the float weights, which tells whether they are those of another run."""
        digest = hashlib.sha256()
        for name, parameter in self._module.named_parameters():
            digest.update(name.encode())
            digest.update(parameter.detach().numpy().data)
        return digest.hexdigest()

    def floats(self) -> dict[str, NDArray[np.float32]]:
        """What of the layer is no linear's weight, by the checkpoint's names."""
        weights = {f"{linear}.weight" for group in self.groups for linear in group.linears}
        return {
            f"{self.name}.{name}": parameter.detach().numpy()
            for name, parameter in self._module.named_parameters()
            if name not in weights
        }

    def set(self, name: str, values: NDArray[np.float32]) -> None:
        """Put values into the parameter that the checkpoint calls ``name``."""
        set_parameter(self._module, name.removeprefix(f"{self.name}."), torch.from_numpy(values))

    def put(self, done: DoneLayer) -> None:
        """Take what an earlier run made of this layer.

        Raises:
            InputError: it was made of other weights.
        """
        if self.digest() != done.source_sha256:
            raise InputError(
                f"{self._model} has changed since {self.name} was quantised; "
                "delete what is kept beside OUT to begin anew"
            )
        for name, tensor in done.weights.items():
            self.set(name, tensor.dequantize())
        for name, values in done.floats.items():
            self.set(name, values)

    def gather(
        self,
        groups: Sequence[Group],
        tick: Callable[[float], None],
        *,
        grams: bool = True,
        advance: bool = False,
    ) -> list[Inputs]:
        """What the linears of some groups are given over all samples, as the layer is now.

        Each sample's run ends where the last of the groups has its input, or with ``advance`` goes
        on, the outputs becoming the states.
        """
        linears = [self.part(group.linears[0]) for group in groups]
        gatherers = [_Gatherer(linear.in_features, grams) for linear in linears]
        handles = [
            linear.register_forward_pre_hook(lambda _, x, own=own: own.add(x[0]))
            for linear, own in zip(linears, gatherers, strict=True)
        ]
        if not advance:
            handles.append(linears[-1].register_forward_pre_hook(_stop))
        try:
            self.advance(tick) if advance else list(self._runs(tick))
        finally:
            for handle in handles:
                handle.remove()
        inputs = [own.inputs() for own in gatherers]
        if not all(bool(torch.isfinite(one.mean_square).all()) for one in inputs):
            raise InputError(f"{self._model}: the inputs of {self.name} are not finite")
        return inputs

    def advance(self, tick: Callable[[float], None]) -> None:
        """Run every sample; the outputs become the states."""
        for sample, out in enumerate(self._runs(tick)):
            self._states[sample] = out[0]

    def release(self) -> None:
        """Give the weights' memory back."""
        for name, parameter in list(self._module.named_parameters()):
            set_parameter(self._module, name, torch.empty_like(parameter, device="meta"))

    def _runs(self, tick: Callable[[float], None]) -> Iterator[Any]:
        count = len(self._states)
        for sample in range(count):
            with torch.inference_mode():
                try:
                    out = self._run(sample)
                except _Reached:
                    out = None
                yield out
            tick((sample + 1) / count)

    def _run(self, sample: int) -> Any:
        out = self._module(self._states[sample][None], *self._given.positional, **self._given.named)
        return out[0] if isinstance(out, tuple) else out


def _stop(*_: object) -> None:
    raise _Reached


def _allocate(shape: tuple[int, ...], file: Path) -> torch.Tensor:
    """Memory for the states, in ``file`` where they take much of what is free."""
    count = int(np.prod(shape))
    if 4 * count <= _STATES_SHARE * psutil.virtual_memory().available:
        return torch.empty(shape)
    return torch.from_file(str(file), shared=True, size=count).reshape(shape)
