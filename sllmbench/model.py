"""A transformers model whose linear layers run on a path."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from sllmbench import _native, paths
from sllmbench.checkpoints import open_checkpoint
from sllmbench.checkpoints.base import Progress, silent
from sllmbench.errors import InputError
from sllmbench.hardware import cuda
from sllmbench.paths import Arithmetic, KernelUse, Path, PathLinear
from sllmbench.paths.cuda import CudaLinear
from sllmbench.paths.native import NativeLinear
from sllmbench.paths.torch_float import TorchFloatPath, TorchLinear, float_tensor

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sllmbench.checkpoints.base import Checkpoint


@dataclass(frozen=True)
class ModelFacts:
    """What a loaded model holds and which kernels its layers have run.

    Attributes:
        path: the path's name.
        format: how weights are stored.
        n_params: parameters, tied ones once.
        weights_bytes: bytes of every weight in memory, as packed, tied ones once.
        lm_head: how the output layer and the embedding are stored.
        layers: the layers of each kernel that has run, by kernel.
    """

    path: str
    format: str
    n_params: int
    weights_bytes: int
    lm_head: str
    layers: dict[KernelUse, tuple[str, ...]]

    def summary(self) -> KernelUse:
        """The kernels of the format that most layers run on, as one: names joined by ``+``."""
        if not self.layers:
            raise ValueError("no layer has run yet, so no kernel can be named")
        layers_of_format = Counter[str]()
        for use, names in self.layers.items():
            layers_of_format[use.format] += len(names)
        main = layers_of_format.most_common(1)[0][0]
        uses = [use for use in self.layers if use.format == main]
        return KernelUse(
            kernel="+".join(sorted({use.kernel for use in uses})),
            isa="+".join(sorted({use.isa for use in uses})),
            arithmetic="+".join(sorted({use.arithmetic for use in uses})),
            format=main,
        )


class TiedEmbedding(nn.Module):
    """An embedding that looks its rows up in the quantised output layer it is tied to."""

    def __init__(
        self, head: NativeLinear | CudaLinear, like: nn.Embedding, float_type: torch.dtype
    ) -> None:
        """Share ``head``'s weight; ``like`` is the embedding that this one replaces."""
        super().__init__()
        self._head = [head]  # in a list: the model registers the module once, as its lm_head
        self._float_type = float_type
        # Gemma multiplies what it looks up by a constant of the embedding's class.
        self._scale = getattr(like, "embed_scale", None)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Look up [...] ids → [..., hidden]."""
        rows = self._head[0].embedding_rows(ids).to(self._float_type)
        return rows if self._scale is None else rows * self._scale


def load_model(
    model: str | Checkpoint,
    path: str = "fp32",
    *,
    arithmetic: Arithmetic | None = None,
    device: str = "cpu",
    threads: int | None = None,
    progress: Progress = silent,
) -> Any:
    """Load a causal language model with its linear layers on a path.

    Args:
        model: a built-in name, ``random:NAME``, a Hugging Face id, a folder or a ``.gguf`` file.
        path: as ``sllmbench paths`` lists them.
        arithmetic: how our own kernels compute: ``int8`` quantises activations on the fly,
            ``exact`` keeps them as they are, float32 on a CPU and float16 on a GPU; None takes
            int8 on a CPU and exact on a GPU.
        device: ``cpu``, ``cuda`` or ``cuda:N``.
        threads: of torch and of our kernels; None leaves both as they are.
        progress: told what is being loaded.

    Returns:
        A ``transformers`` model in eval mode, ready for ``model(...)`` and ``model.generate(...)``.

    Raises:
        InputError: a model, path or device that is unknown, cannot run here or fits no other.
    """
    cuda.require(device)
    checkpoint = open_checkpoint(model, progress) if isinstance(model, str) else model
    chosen = paths.resolve(path, arithmetic or cuda.usual_arithmetic(device), device)
    reason = chosen.unsupported(checkpoint)
    if reason is not None:
        raise InputError(f"path {path} cannot run here: {reason}")
    set_threads(threads)
    net = skeleton(checkpoint)
    _Loader(checkpoint, chosen, net, progress).fill()
    net.to(chosen.device)  # the buffers, rotary tables; parameters are there already
    net.sllmbench_path = chosen
    return net.eval()


def set_threads(threads: int | None) -> None:
    """Give torch and our kernels so many threads; None leaves both as they are.

    Raises:
        InputError: fewer than one, or more than the kernels have.
    """
    if threads is None:
        return
    if threads < 1:
        raise InputError(f"threads must be at least 1, not {threads}")
    try:
        _native.set_threads(threads)
    except ValueError as error:
        raise InputError(str(error)) from error
    torch.set_num_threads(threads)


def describe(net: Any) -> ModelFacts:
    """Say what a model from :func:`load_model` holds and which kernels have run in it."""
    path: Path = net.sllmbench_path
    head = net.get_output_embeddings()
    layers: dict[KernelUse, list[str]] = {}
    linears = {name: part for name, part in net.named_modules() if isinstance(part, PathLinear)}
    for name, linear in linears.items():
        for use in sorted(linear.kernel_uses, key=str):
            layers.setdefault(use, []).append(name)
    weights = {id(part.weight) for part in linears.values() if isinstance(part, TorchLinear)}
    others = [
        p for p in net.parameters() if id(p) not in weights
    ]  # parameters() yields tied ones once
    return ModelFacts(
        path=path.name,
        format=path.format,
        n_params=sum(part.in_features * part.out_features for part in linears.values())
        + sum(p.numel() for p in others),
        weights_bytes=sum(part.stored_bytes for part in linears.values())
        + sum(p.nbytes for p in others),
        lm_head=_head_storage(net, head),
        layers={use: tuple(names) for use, names in layers.items()},
    )


def required_tensors(checkpoint: Checkpoint, path_names: Iterable[str]) -> tuple[str, ...]:
    """Return the names of the tensors that loading reads, without reading any.

    Raises:
        InputError: transformers has no causal language model for the configuration; the checkpoint
            lacks a tensor of it or has one of another shape; or a path cannot quantise the model.
    """
    net = skeleton(checkpoint)
    for name in path_names:
        _check_layers(checkpoint, paths.resolve(name), net)
    return check_tensors(checkpoint, net)


def estimate_bytes(checkpoint: Checkpoint, chosen: Path) -> int:
    """Bytes of weights that a path will hold in memory, from the tensors' shapes alone."""
    shapes = checkpoint.shapes()
    float_bits = 8 * getattr(torch, chosen.float_type).itemsize
    bits = 0.0
    for name, shape in shapes.items():
        is_head = "lm_head" in name or ("embed" in name and "lm_head.weight" not in shapes)
        if is_head and len(shape) == 2:
            bits += chosen.head_bits_per_weight(shape[1]) * prod(shape)
        elif "embed" in name or len(shape) != 2:
            bits += float_bits * prod(shape)
        else:
            bits += chosen.bits_per_weight(shape[1]) * prod(shape)
    return int(bits / 8)


def skeleton(checkpoint: Checkpoint) -> Any:
    """The model's modules with every parameter on the meta device: shapes, no memory.

    Raises:
        InputError: transformers has no causal language model for the configuration.
    """
    from accelerate import init_empty_weights
    from transformers import AutoModelForCausalLM

    config = checkpoint.config()
    auto: Any = AutoModelForCausalLM
    # Buffers are made for real: rotary tables are computed in constructors, not read from files.
    try:
        with init_empty_weights(include_buffers=False):
            net = auto.from_config(config)
    except (ValueError, TypeError, AttributeError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{checkpoint.name} is no causal language model: {reason}") from error
    if net.get_output_embeddings() is None:
        raise InputError(f"{checkpoint.name}: the model has no output layer to run")
    return net


def check_tensors(checkpoint: Checkpoint, net: Any) -> tuple[str, ...]:
    """The tensors that a skeleton needs, each in the checkpoint and of the shape it asks for.

    Raises:
        InputError: the checkpoint lacks one or has one of another shape.
    """
    shapes = checkpoint.shapes()
    tied_head = f"{name_of(net, net.get_output_embeddings())}.weight" if is_tied(net) else None
    wanted = {
        name: list(parameter.shape)
        for name, parameter in net.named_parameters(remove_duplicate=False)
        if name != tied_head
    }
    for name, shape in wanted.items():
        if name not in shapes:
            raise InputError(f"{checkpoint.name} lacks the tensor {name}")
        if list(shapes[name]) != shape:
            raise InputError(
                f"{checkpoint.name}: {name} is {list(shapes[name])}, "
                f"but its configuration asks for {shape}"
            )
    ignored = [re.compile(key) for key in net._keys_to_ignore_on_load_unexpected or ()]
    for name in sorted(shapes.keys() - wanted.keys()):
        # Others are tables that old checkpoints carry and transformers computes.
        if name.endswith((".weight", ".bias")) and not any(key.search(name) for key in ignored):
            raise InputError(
                f"{checkpoint.name} holds {name}, which its configuration has no place for"
            )
    return tuple(wanted)


def _check_layers(checkpoint: Checkpoint, path: Path, net: Any) -> None:
    """Refuse to call a model quantised whose matrices are not where a path would find them."""
    if isinstance(path, TorchFloatPath):
        return
    reached = {
        id(parameter)
        for part in net.modules()
        if isinstance(part, nn.Linear | nn.Embedding)
        for parameter in part.parameters(recurse=False)
    }
    for name, parameter in net.named_parameters():
        if parameter.ndim > 1 and id(parameter) not in reached:
            raise InputError(
                f"path {path.name} cannot run {checkpoint.name}: {name} is not in a linear layer, "
                "so it would stay in float; the float paths can run it"
            )


def is_tied(net: Any) -> bool:
    """Whether the output layer and the embedding are one tensor."""
    return bool(net.config.get_text_config().tie_word_embeddings)


def name_of(net: Any, wanted: nn.Module) -> str:
    """The name of one of a model's modules."""
    names: dict[int, str] = {id(part): name for name, part in net.named_modules()}
    return names[id(wanted)]


def set_parameter(net: nn.Module, name: str, tensor: torch.Tensor) -> None:
    """Make ``tensor`` the parameter ``name``."""
    owner, _, attribute = name.rpartition(".")
    setattr(net.get_submodule(owner), attribute, nn.Parameter(tensor, requires_grad=False))


class _Loader:
    """Puts a checkpoint's tensors into a skeleton, one layer in memory at a time."""

    def __init__(self, checkpoint: Checkpoint, path: Path, net: Any, progress: Progress) -> None:
        self.checkpoint = checkpoint
        self.path = path
        self.net = net
        self.progress = progress
        self.float_type: torch.dtype = getattr(torch, path.float_type)

    def fill(self) -> None:
        check_tensors(self.checkpoint, self.net)
        _check_layers(self.checkpoint, self.path, self.net)
        head = self.net.get_output_embeddings()
        linears = [
            (name, part)
            for name, part in self.net.named_modules()
            if isinstance(part, nn.Linear) and part is not head
        ]
        self._fill_head()
        for done, (name, linear) in enumerate(linears):
            self.progress(f"loading {self.path.name}", done / len(linears))
            bias = self._bias(name, linear)
            self._replace(name, self.path.linear(self.checkpoint, f"{name}.weight", bias))
        for name, parameter in list(self.net.named_parameters()):
            if parameter.is_meta:
                set_parameter(self.net, name, self._float(name))

    def _fill_head(self) -> None:
        """Make the output layer, and the embedding where the two are one tensor."""
        head, embedding = self.net.get_output_embeddings(), self.net.get_input_embeddings()
        name, embedding_name = name_of(self.net, head), name_of(self.net, embedding)
        source = embedding_name if is_tied(self.net) else name
        layer = self.path.lm_head(self.checkpoint, f"{source}.weight", self._bias(name, head))
        self._replace(name, layer)
        if not is_tied(self.net):
            return
        if isinstance(layer, NativeLinear | CudaLinear):
            self._replace(embedding_name, TiedEmbedding(layer, embedding, self.float_type))
        else:
            embedding.weight = layer.weight

    def _bias(self, name: str, linear: Any) -> torch.Tensor | None:
        return None if linear.bias is None else self._float(f"{name}.bias")

    def _float(self, name: str) -> torch.Tensor:
        return float_tensor(self.checkpoint, name, self.path.float_type).to(self.path.device)

    def _replace(self, name: str, layer: nn.Module) -> None:
        owner, _, attribute = name.rpartition(".")
        setattr(self.net.get_submodule(owner), attribute, layer)


def _head_storage(net: Any, head: PathLinear) -> str:
    embedding = net.get_input_embeddings()
    if isinstance(embedding, TiedEmbedding) or embedding.weight is getattr(head, "weight", None):
        return f"{head.format}, tied to the embedding"
    return f"{head.format}; embedding {str(embedding.weight.dtype).removeprefix('torch.')}"
