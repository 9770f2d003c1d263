"""A transformers model whose linear layers run on a path."""

from __future__ import annotations

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
from sllmbench.paths import Arithmetic, KernelUse, Path, PathLinear
from sllmbench.paths.native import NativeLinear
from sllmbench.paths.torch_float import TorchLinear, float_tensor

if TYPE_CHECKING:
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

    def __init__(self, head: NativeLinear, like: nn.Embedding, float_type: torch.dtype) -> None:
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
    arithmetic: Arithmetic = "int8",
    threads: int | None = None,
    progress: Progress = silent,
) -> Any:
    """Load a causal language model with its linear layers on a path.

    Args:
        model: a built-in name, ``random:NAME``, a Hugging Face id, a folder or a ``.gguf`` file.
        path: as ``sllmbench paths`` lists them.
        arithmetic: how our own kernels compute: ``int8`` quantises activations on the fly,
            ``exact`` keeps them in float32.
        threads: of torch and of our kernels; None leaves both as they are.
        progress: told what is being loaded.

    Returns:
        A ``transformers`` model in eval mode, ready for ``model(...)`` and ``model.generate(...)``.

    Raises:
        InputError: the model or path is unknown, does not fit the other or cannot run here.
    """
    checkpoint = open_checkpoint(model, progress) if isinstance(model, str) else model
    chosen = paths.resolve(path, arithmetic)
    reason = chosen.unsupported(checkpoint)
    if reason is not None:
        raise InputError(f"path {path} cannot run here: {reason}")
    if threads is not None:
        if threads < 1:
            raise InputError(f"threads must be at least 1, not {threads}")
        torch.set_num_threads(threads)
        _native.set_threads(threads)
    net = _skeleton(checkpoint)
    _Loader(checkpoint, chosen, net, progress).fill()
    net.sllmbench_path = chosen
    return net.eval()


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


def estimate_bytes(checkpoint: Checkpoint, path: str) -> int:
    """Bytes of weights that ``path`` will hold in memory, from the tensors' shapes alone."""
    chosen = paths.resolve(path)
    bits = 0.0
    for name, shape in checkpoint.shapes().items():
        if len(shape) != 2:
            bits += 32 * prod(shape)
        elif "embed" in name or "lm_head" in name:
            bits += chosen.head_bits_per_weight(shape[1]) * prod(shape)
        else:
            bits += chosen.bits_per_weight(shape[1]) * prod(shape)
    return int(bits / 8)


def _skeleton(checkpoint: Checkpoint) -> Any:
    """The model's modules with every parameter on the meta device: shapes, no memory."""
    from accelerate import init_empty_weights
    from transformers import AutoModelForCausalLM

    # Buffers are made for real: rotary tables are computed in constructors, not read from files.
    with init_empty_weights(include_buffers=False):
        net: Any = AutoModelForCausalLM
        return net.from_config(checkpoint.config())


class _Loader:
    """Puts a checkpoint's tensors into a skeleton, one layer in memory at a time."""

    def __init__(self, checkpoint: Checkpoint, path: Path, net: Any, progress: Progress) -> None:
        self.checkpoint = checkpoint
        self.path = path
        self.net = net
        self.progress = progress
        self.float_type: torch.dtype = getattr(torch, path.float_type)
        self.shapes = checkpoint.shapes()

    def fill(self) -> None:
        head = self.net.get_output_embeddings()
        linears = [
            (name, part)
            for name, part in self.net.named_modules()
            if isinstance(part, nn.Linear) and part is not head
        ]
        self._fill_head()
        for done, (name, linear) in enumerate(linears):
            self.progress(f"loading {self.path.name}", done / len(linears))
            weight = self._checked(f"{name}.weight", linear.weight)
            self._replace(name, self.path.linear(self.checkpoint, weight, self._bias(name, linear)))
        for name, parameter in list(self.net.named_parameters()):
            if parameter.is_meta:
                self._set(name, self._float(self._checked(name, parameter)))

    def _fill_head(self) -> None:
        """Make the output layer, and the embedding where the two are one tensor."""
        name, head = self._named(self.net.get_output_embeddings())
        embedding_name, embedding = self._named(self.net.get_input_embeddings())
        tied = bool(self.net.config.get_text_config().tie_word_embeddings)
        source = f"{embedding_name}.weight" if tied else f"{name}.weight"
        weight = self._checked(source, head.weight)
        layer = self.path.lm_head(self.checkpoint, weight, self._bias(name, head))
        self._replace(name, layer)
        if not tied:
            return
        if isinstance(layer, NativeLinear):
            self._replace(embedding_name, TiedEmbedding(layer, embedding, self.float_type))
        else:
            embedding.weight = layer.weight

    def _named(self, wanted: nn.Module) -> tuple[str, Any]:
        for name, part in self.net.named_modules():
            if part is wanted:
                return name, part
        raise InputError(f"{self.checkpoint.name}: the model has no output layer to run")

    def _bias(self, name: str, linear: Any) -> torch.Tensor | None:
        if linear.bias is None:
            return None
        return self._float(self._checked(f"{name}.bias", linear.bias))

    def _float(self, name: str) -> torch.Tensor:
        return float_tensor(self.checkpoint, name, self.path.float_type)

    def _checked(self, name: str, expected: torch.Tensor) -> str:
        shape = self.shapes.get(name)
        if shape is None:
            raise InputError(f"{self.checkpoint.name} lacks the tensor {name}")
        if tuple(shape) != tuple(expected.shape):
            raise InputError(
                f"{self.checkpoint.name}: {name} is {list(shape)}, "
                f"but its configuration asks for {list(expected.shape)}"
            )
        return name

    def _replace(self, name: str, layer: nn.Module) -> None:
        owner, _, attribute = name.rpartition(".")
        setattr(self.net.get_submodule(owner), attribute, layer)

    def _set(self, name: str, tensor: torch.Tensor) -> None:
        owner, _, attribute = name.rpartition(".")
        parameter = nn.Parameter(tensor, requires_grad=False)
        setattr(self.net.get_submodule(owner), attribute, parameter)


def _head_storage(net: Any, head: PathLinear) -> str:
    embedding = net.get_input_embeddings()
    if isinstance(embedding, TiedEmbedding) or embedding.weight is getattr(head, "weight", None):
        return f"{head.format}, tied to the embedding"
    return f"{head.format}; embedding {str(embedding.weight.dtype).removeprefix('torch.')}"
