"""What a decoder layer is made of, found by running it: no architecture is known by name.

A run of one sample shows which linears are given the same input, and in which order. What can
absorb a factor a channel of that input is tried out: the norm that returned it, or an earlier
linear whose rows reach it (``up`` reaches ``down``, ``v`` reaches ``o`` where every head has a
value of its own). If the layer computes the same with the factors taken out there and put into the
linears' columns, it is the input's producer, whatever the architecture calls it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from sllmbench.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


_SAME = 1e-3
"""Of what a layer adds to the states, the most that a change may alter which should alter nothing;
a wrong producer alters about all of it."""


@dataclass(frozen=True)
class Producer:
    """The part of a layer that can take a factor a channel out of a group's input.

    Attributes:
        name: of the module, within its layer.
        offset: what a norm adds to its weight before it multiplies (1 in Gemma); 0 for a linear.
    """

    name: str
    offset: float


@dataclass(frozen=True)
class Group:
    """Linears of a layer that are given one input.

    Attributes:
        linears: their names within the layer, in the order they are called.
        producer: what can be scaled in the place of the input, or None where nothing can.
    """

    linears: tuple[str, ...]
    producer: Producer | None


def decoder_layers(net: Any, model: str) -> tuple[str, nn.ModuleList]:
    """The list of a model's decoder layers and its name.

    Raises:
        InputError: there is none, or more than one.
    """
    count = getattr(net.config.get_text_config(), "num_hidden_layers", None)
    found = [
        (name, part)
        for name, part in net.named_modules()
        if isinstance(part, nn.ModuleList)
        and len(part) == count
        and all(any(isinstance(p, nn.Linear) for p in layer.modules()) for layer in part)
    ]
    if len(found) != 1:
        kind = type(net).__name__
        raise InputError(
            f"{model}: {kind} is not one list of decoder layers with linears in them, so it cannot "
            "be walked layer by layer"
        )
    return found[0]


def input_groups(
    layer: nn.Module, run: Callable[[], torch.Tensor], model: str
) -> tuple[Group, ...]:
    """The linears of a layer by the input they share, in the order of their calls.

    Args:
        layer: a decoder layer with its weights.
        run: runs it on one sample and returns what it adds to the states.
        model: the model's name, for errors.

    Raises:
        InputError: a matrix of the layer is in no linear, or a linear is not called exactly once.
    """
    _check_matrices(layer, model)
    calls, outputs = _observe(layer, run)
    shared: dict[int, list[str]] = {}
    for name, x in calls:
        shared.setdefault(id(x), []).append(name)
    inputs = {id(x): x for _, x in calls}
    groups: list[Group] = []
    for key, names in shared.items():
        norms = [name for name, out in outputs if out is inputs[key]]
        earlier = [name for group in groups for name in group.linears]
        groups.append(Group(tuple(names), _producer(layer, run, names, [*norms, *earlier])))
    return tuple(groups)


def scale_input(
    layer: nn.Module,
    linears: Sequence[str],
    producer: Producer,
    factors: torch.Tensor,
    stored: torch.dtype = torch.float32,
) -> torch.Tensor:
    """Multiply the columns of linears by ``factors`` [k], and divide what makes their input.

    A norm is written in the type it was ``stored`` in. It is rounded to that first, and the columns
    are multiplied by just what it lost, which is returned: so the rounding costs nothing.
    """
    made: Any = layer.get_submodule(producer.name)
    if made.weight.ndim == 2:
        made.weight.data = made.weight.data / factors[:, None]
    else:
        whole = made.weight.data + producer.offset
        rounded = (whole / factors - producer.offset).to(stored).float()
        left = rounded + producer.offset
        factors = torch.where(left == 0, factors, whole / left)
        made.weight.data = rounded
    if getattr(made, "bias", None) is not None:
        made.bias.data = made.bias.data / factors
    for name in linears:
        linear: Any = layer.get_submodule(name)
        linear.weight.data = linear.weight.data * factors
    return factors


def _check_matrices(layer: nn.Module, model: str) -> None:
    reached = {
        id(p)
        for part in layer.modules()
        if isinstance(part, nn.Linear)
        for p in part.parameters(recurse=False)
    }
    for name, parameter in layer.named_parameters():
        if parameter.ndim > 1 and id(parameter) not in reached:
            raise InputError(
                f"{model}: {name} of a layer is not in a linear layer, so it would stay in float"
            )


def _observe(
    layer: nn.Module, run: Callable[[], Any]
) -> tuple[list[tuple[str, torch.Tensor]], list[tuple[str, torch.Tensor]]]:
    """Each linear's input in the order of the calls, and what each norm returned."""
    calls: list[tuple[str, torch.Tensor]] = []
    outputs: list[tuple[str, torch.Tensor]] = []
    handles = []
    for name, part in layer.named_modules():
        if isinstance(part, nn.Linear):
            handles.append(
                part.register_forward_pre_hook(lambda _, x, name=name: calls.append((name, x[0])))
            )
        elif any(p.ndim == 1 for p in part.parameters(recurse=False)):
            handles.append(
                part.register_forward_hook(lambda _, x, y, name=name: outputs.append((name, y)))
            )
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    called = [name for name, _ in calls]
    for name, part in layer.named_modules():
        if isinstance(part, nn.Linear) and called.count(name) != 1:
            raise InputError(
                f"{name} is called {called.count(name)} times in a layer; only a layer "
                "that calls each of its linears once can be quantised"
            )
    return calls, outputs


def _producer(
    layer: nn.Module, run: Callable[[], torch.Tensor], linears: list[str], candidates: list[str]
) -> Producer | None:
    """The candidate that can be scaled in the place of the linears' input, or None."""
    consumer: Any = layer.get_submodule(linears[0])
    factors = 2.0 ** (torch.arange(consumer.in_features) % 3 - 1)  # which round nothing
    before = run()
    for name in candidates:
        made: Any = layer.get_submodule(name)
        if getattr(made, "weight", None) is None or len(made.weight) != consumer.in_features:
            continue
        for offset in (0.0, 1.0) if made.weight.ndim == 1 else (0.0,):
            producer = Producer(name, offset)
            kept = [(parameter, parameter.data) for parameter in layer.parameters()]
            scale_input(layer, linears, producer, factors)
            try:
                off = run() - before
            finally:
                for parameter, data in kept:
                    parameter.data = data
            if off.norm() <= _SAME * before.norm():
                return producer
    return None
