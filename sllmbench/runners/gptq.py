"""auto-gptq and gptqmodel: a GPTQ folder that another library loads and multiplies.

What they load is a transformers model whose linear layers are theirs.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from sllmbench import hardware
from sllmbench.checkpoints.hf import one_line
from sllmbench.checkpoints.safetensors_file import read_header
from sllmbench.errors import InputError
from sllmbench.model import ModelFacts
from sllmbench.paths.torch_float import torch_isa
from sllmbench.record import KernelUse
from sllmbench.runners.base import ModelPath
from sllmbench.runners.transformers import TransformersRunner, import_architecture

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from sllmbench.checkpoints.base import Checkpoint, Progress
    from sllmbench.runners.base import Runner


_HEAD = "lm_head.weight"


@dataclass(frozen=True)
class _Library:
    """A library that runs GPTQ checkpoints.

    Attributes:
        package: its name in the package index.
        formats: of checkpoints that it reads, by the names that they give themselves.
        wants_head: whether a tied output layer must be in the file too.
        start: imports it.
        load: loads a folder on a device, in float32 on the CPU and float16 on a GPU, with the
            library's own choice of kernels there → its transformers model.
    """

    package: str
    formats: tuple[str, ...]
    wants_head: bool
    start: Callable[[], object]
    load: Callable[[Path, str], Any]


def _start_auto_gptq() -> None:
    import auto_gptq  # noqa: F401


def _load_auto_gptq(folder: Path, device: str) -> Any:
    from auto_gptq import AutoGPTQForCausalLM

    on_cpu = device == "cpu"
    loaded = AutoGPTQForCausalLM.from_quantized(
        str(folder),
        device="cpu" if on_cpu else torch.device(device),
        use_triton=False,
        disable_exllama=True if on_cpu else None,
        disable_exllamav2=on_cpu,
        torch_dtype=_float_type(device),
        model_basename="model",
        use_safetensors=True,
        inject_fused_attention=False,
        inject_fused_mlp=False,
    )
    return loaded.model


def _start_gptqmodel() -> None:
    import gptqmodel  # noqa: F401


def _load_gptqmodel(folder: Path, device: str) -> Any:
    from gptqmodel import BACKEND, GPTQModel

    backend = BACKEND.TORCH if device == "cpu" else BACKEND.AUTO
    dtype = _float_type(device)
    return GPTQModel.load(str(folder), device=device, backend=backend, dtype=dtype).model


def _float_type(device: str) -> torch.dtype:
    return torch.float32 if device == "cpu" else torch.float16


_LIBRARIES = {
    "auto-gptq": _Library("auto-gptq", ("gptq",), True, _start_auto_gptq, _load_auto_gptq),
    "gptqmodel": _Library(
        "gptqmodel", ("gptq", "gptq_v2"), False, _start_gptqmodel, _load_gptqmodel
    ),
}
NAMES = tuple(_LIBRARIES)


def resolve(name: str, device: str = "cpu") -> ModelPath:
    """Return the path called ``name``, one of :data:`NAMES`."""
    return GptqPath(name, _LIBRARIES[name], device)


class GptqPath(ModelPath):
    """A GPTQ checkpoint as ``library`` runs it, in float32, on a GPU in float16."""

    def __init__(self, name: str, library: _Library, device: str = "cpu") -> None:
        """Take the library that runs it."""
        super().__init__(name, f"peer: a GPTQ checkpoint as {library.package} runs it, whole model")
        self.libraries = (library.package,)
        self._library = library
        self._device = device

    def unsupported(
        self, checkpoint: Checkpoint | None = None, installed: Mapping[str, str] | None = None
    ) -> str | None:
        """It wants its library and a folder that the library reads."""
        package = self._library.package
        if installed is not None and package not in installed:
            return f"{package} is not installed in the interpreter that --in gives it"
        if installed is None and not hardware.libraries(self.libraries):
            return (
                f"{package} is not installed here; it wants other releases than sllmbench does, so "
                f"give it an environment of its own: pip install 'sllmbench[{self.name}]' there, "
                f"and --in {self.name}=ENVIRONMENT/bin/python here"
            )
        if checkpoint is None:
            return None
        found = quantization(checkpoint)
        if found is None:
            return (
                f"{checkpoint.name} is no GPTQ checkpoint; `sllmbench quantize --method gptq --to "
                "gptq` makes one"
            )
        stored = found.get("checkpoint_format") or "gptq"
        if stored not in self._library.formats:
            return f"{package} does not read checkpoints of the format {stored}"
        if self._library.wants_head and _lacks_head(checkpoint):
            return (
                f"the output layer of {checkpoint.name} is tied and stored under the embedding's "
                f"name alone, so {package} would overwrite both by what memory holds; `sllmbench "
                "quantize` stores both"
            )
        return None

    def prepare(self, checkpoint: Checkpoint, progress: Progress) -> int:
        """Nothing is to be made; halves become floats in memory, so twice the files at most."""
        assert checkpoint.location is not None
        return 2 * sum(file.stat().st_size for file in checkpoint.location.glob("*.safetensors"))

    def start_libraries(self, checkpoint: Checkpoint) -> None:
        """Import the library and the model's classes."""
        self._library.start()
        import_architecture(checkpoint)

    def load(self, checkpoint: Checkpoint, threads: int, progress: Progress) -> Runner:
        """Let the library load the folder; ``threads`` are torch's.

        Raises:
            InputError: it cannot.
        """
        folder, stored = checkpoint.location, quantization(checkpoint)
        assert folder is not None
        assert stored is not None
        torch.set_num_threads(threads)
        progress(f"loading {self.name}", None)
        try:
            model = self._library.load(folder, self._device)
        except Exception as error:  # of whatever type: the folder's content decides
            raise InputError(
                f"{self._library.package} cannot load {checkpoint.name}: {one_line(error)}"
            ) from error
        return GptqRunner(model.eval(), self.name, _format_name(stored))


class GptqRunner(TransformersRunner):
    """A model whose linear layers are another library's; each notes the kernel that it ran."""

    def __init__(self, model: Any, path: str, format: str) -> None:
        """Watch every linear layer until its first call; afterwards nothing is watched."""
        super().__init__(model, path)
        self._format = format
        self._linears: dict[str, Any] = {
            name: part
            for name, part in model.named_modules()
            if isinstance(part, torch.nn.Linear) or _is_quantised(part)
        }
        self._uses: dict[str, KernelUse] = {}
        for name, part in self._linears.items():
            self._watch(name, part)

    def facts(self) -> ModelFacts:
        """What the layers hold as stored: codes, scales, zeros and order; floats as loaded."""
        layers: dict[KernelUse, list[str]] = {}
        for name, use in self._uses.items():
            layers.setdefault(use, []).append(name)
        held = {t.data_ptr(): t for t in self.model.state_dict().values()}  # tied ones once
        quantised = [part for part in self._linears.values() if _is_quantised(part)]
        floats = {id(p): p.numel() for p in self.model.parameters()}
        return ModelFacts(
            path=self.path,
            format=self._format,
            n_params=sum(floats.values()) + sum(_weights(part) for part in quantised),
            weights_bytes=sum(tensor.nbytes for tensor in held.values()),
            lm_head=self._head(),
            layers={use: tuple(names) for use, names in layers.items()},
        )

    def _watch(self, name: str, part: Any) -> None:
        def note(module: Any, _: Any, out: torch.Tensor) -> None:
            handle.remove()
            float_type = str(out.dtype).removeprefix("torch.")
            if _is_quantised(module):
                kind = type(module)
                package, _, file = kind.__module__.partition(".")
                kernel = f"{package} {file.rpartition('.')[2]}.{kind.__name__}"
                use = KernelUse(kernel, torch_isa(out.device), float_type, self._format)
            else:
                use = KernelUse("torch.linear", torch_isa(out.device), float_type, float_type)
            self._uses[name] = use

        handle = part.register_forward_hook(note)

    def _head(self) -> str:
        head, embedding = self.model.get_output_embeddings(), self.model.get_input_embeddings()
        stored = self._format if _is_quantised(head) else _type_name(head.weight)
        if getattr(head, "weight", None) is embedding.weight:
            return f"{stored}, tied to the embedding"
        return f"{stored}; embedding {_type_name(embedding.weight)}"


def quantization(checkpoint: Checkpoint) -> dict[str, Any] | None:
    """What a GPTQ folder says of itself, None for anything else."""
    folder = checkpoint.location
    if folder is None or not folder.is_dir():
        return None
    for file, key in (("config.json", "quantization_config"), ("quantize_config.json", None)):
        try:
            found = json.loads((folder / file).read_text("utf-8"))
        except (OSError, ValueError):
            continue
        said = found.get(key) if key else found
        if isinstance(said, dict):
            return said if said.get("quant_method", "gptq") == "gptq" else None
    return None


def _lacks_head(checkpoint: Checkpoint) -> bool:
    """Whether the output layer is in no file, being the embedding."""
    folder = checkpoint.location
    if folder is None or not checkpoint.config().get_text_config().tie_word_embeddings:
        return False
    return all(_HEAD not in read_header(file) for file in folder.glob("*.safetensors"))


def _format_name(stored: dict[str, Any]) -> str:
    """As ``gptq int4-g64``, in the words of our formats."""
    group = stored.get("group_size", -1)
    return (
        f"gptq int{stored.get('bits')}-{f'g{group}' if group > 0 else 'row'}"
        + ("" if stored.get("sym", True) else "-asym")
        + (", activation order" if stored.get("desc_act") else "")
    )


def _is_quantised(part: Any) -> bool:
    return isinstance(getattr(part, "qweight", None), torch.Tensor)


def _weights(part: Any) -> int:
    """Weights of a quantised layer: rows of packed int32, [k * bits / 32, n]."""
    return int(part.qweight.shape[0]) * 32 // int(part.bits) * int(part.qweight.shape[1])


def _type_name(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
