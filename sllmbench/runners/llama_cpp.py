"""llama.cpp on the whole model, through llama-cpp-python's bindings of its C interface.

Tokens are those that every other path reads: llama.cpp's own tokenizer and sampler are not used.
"""

from __future__ import annotations

import hashlib
import re
from importlib import metadata
from typing import TYPE_CHECKING, Any

import numpy as np

from sllmbench import hardware
from sllmbench.assets import cache
from sllmbench.checkpoints.gguf_header import read_header
from sllmbench.convert.gguf import write_gguf
from sllmbench.convert.gguf_mixes import FILE_TYPES
from sllmbench.errors import InputError
from sllmbench.matmuls.ggml_library import ISA_FLAGS
from sllmbench.model import ModelFacts
from sllmbench.record import KernelUse
from sllmbench.runners.base import ModelPath, Runner

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    import torch
    from numpy.typing import NDArray

    from sllmbench.checkpoints.base import Checkpoint, Progress

_STORED = "llama.cpp"
_PACKAGE = "llama-cpp-python"
NAMES = (_STORED, *(f"{_STORED}:{file_type.lower()}" for file_type in FILE_TYPES))
_BATCH = 512
"""Tokens that llama.cpp takes at a time, its own default."""
_WARNINGS = (3, 4)
"""``GGML_LOG_LEVEL_WARN`` and ``_ERROR``."""
_FLOAT_ARITHMETIC = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}


def resolve(name: str, device: str = "cpu") -> ModelPath:
    """Return the path called ``name``, one of :data:`NAMES`.

    Raises:
        InputError: a device other than the CPU.
    """
    if device != "cpu":
        raise InputError(f"path {name} runs on the CPU only, not on {device}")
    return LlamaCppPath(name)


class LlamaCppPath(ModelPath):
    """A GGUF file as llama.cpp runs it: the user's own, or one that is made of the checkpoint."""

    libraries = (_PACKAGE,)

    def __init__(self, name: str) -> None:
        """Take the type of the file from the name."""
        self._file_type = name.partition(":")[2].upper() or None
        what = (
            "a GGUF file as it is"
            if self._file_type is None
            else f"the model converted to GGUF {self._file_type}"
        )
        super().__init__(name, f"peer: llama.cpp on {what}, whole model")

    def unsupported(
        self, checkpoint: Checkpoint | None = None, installed: Mapping[str, str] | None = None
    ) -> str | None:
        """It wants llama-cpp-python and, to run what is stored, a GGUF file."""
        if installed is not None and _PACKAGE not in installed:
            return f"{_PACKAGE} is not installed in the interpreter that --in gives it"
        if installed is None and not hardware.libraries(self.libraries):
            return f"{_PACKAGE} is not installed; pip install 'sllmbench[llama-cpp]'"
        if checkpoint is None or self._file_type is not None or _is_gguf(checkpoint):
            return None
        return f"the model is no GGUF file; name a type to convert it to, as {NAMES[1]}"

    def prepare(self, checkpoint: Checkpoint, progress: Progress) -> int:
        """Convert the model where the cache lacks its conversion; the file's bytes.

        Raises:
            InputError: the model cannot be converted, or the cache cannot be written.
        """
        return self._file(checkpoint, progress).stat().st_size

    def start_libraries(self, checkpoint: Checkpoint) -> None:
        """Load llama.cpp."""
        import llama_cpp

        llama_cpp.llama_backend_init()

    def load(self, checkpoint: Checkpoint, threads: int, progress: Progress) -> Runner:
        """Read the file into memory: a mapped file would be counted otherwise than other paths'.

        Raises:
            InputError: llama.cpp refuses the file.
        """
        file = self._file(checkpoint, progress)
        progress(f"loading {self.name}", None)
        return LlamaCppRunner(file, self.name, threads)

    def _file(self, checkpoint: Checkpoint, progress: Progress) -> Path:
        if self._file_type is None:
            assert checkpoint.location is not None
            return checkpoint.location
        return converted(checkpoint, self._file_type, progress)


class LlamaCppRunner(Runner):
    """A model and a context of llama.cpp on the CPU."""

    def __init__(self, file: Path, path: str, threads: int) -> None:
        """Load ``file``.

        Raises:
            InputError: llama.cpp refuses it.
        """
        import llama_cpp

        self._llama: Any = llama_cpp
        self._log = _Log(llama_cpp)
        parameters = llama_cpp.llama_model_default_params()
        parameters.n_gpu_layers = 0
        parameters.load_mode = llama_cpp.LLAMA_LOAD_MODE_NONE
        self._model = llama_cpp.llama_model_load_from_file(str(file).encode(), parameters)
        if not self._model:
            raise InputError(f"llama.cpp cannot load {file}: {self._log.complaint()}")
        self.path = path
        vocabulary = llama_cpp.llama_model_get_vocab(self._model)
        self.vocab_size = llama_cpp.llama_vocab_n_tokens(vocabulary)
        self.positions = llama_cpp.llama_model_n_ctx_train(self._model)
        self._header = read_header(file)
        self._threads = threads
        self._context: Any = None
        self._room = 0
        self._has_run = False

    def __del__(self) -> None:
        """Give back what Python does not count."""
        if getattr(self, "_context", None):
            self._llama.llama_free(self._context)
        if getattr(self, "_model", None):
            self._llama.llama_model_free(self._model)

    def clear(self, n_tokens: int) -> None:
        """Empty the cache; a larger one, where this one is too small for ``n_tokens``."""
        if self._room < n_tokens:
            self._make_context(n_tokens)
        memory = self._llama.llama_get_memory(self._context)
        self._llama.llama_memory_clear(memory, False)

    def feed(self, ids: Sequence[int]) -> NDArray[np.float32]:
        """Decode ``ids``, a batch at a time, with the logits of each batch's last token."""
        for start in range(0, len(ids), _BATCH):
            part = ids[start : start + _BATCH]
            tokens = (self._llama.llama_token * len(part))(*part)
            self._decode(self._llama.llama_batch_get_one(tokens, len(part)))
        logits: NDArray[np.float32] = self._floats(
            self._llama.llama_get_logits_ith(self._context, -1), 1
        )[0]
        return logits

    def sequence_logits(self, ids: Sequence[int], rows: int) -> Iterator[torch.Tensor]:
        """Decode ``ids`` from an empty cache, a slice at a time, with the logits of every token."""
        import torch

        self.clear(len(ids))
        step = min(rows, _BATCH)
        batch = self._llama.llama_batch_init(step, 0, 1)
        try:
            for start in range(0, len(ids), step):
                part = ids[start : start + step]
                batch.n_tokens = len(part)
                for at, token in enumerate(part):
                    batch.token[at], batch.pos[at] = token, start + at
                    batch.n_seq_id[at], batch.seq_id[at][0], batch.logits[at] = 1, 0, 1
                self._decode(batch)
                logits = self._llama.llama_get_logits(self._context)
                yield torch.from_numpy(self._floats(logits, len(part)))
        finally:
            self._llama.llama_batch_free(batch)

    def cache_bytes(self) -> int | None:
        """What llama.cpp would save of the sequence: keys, values and each token's position."""
        return int(self._llama.llama_state_seq_get_size(self._context, 0))

    def facts(self) -> ModelFacts:
        """The file's tensors by block type, and the buffers that llama.cpp put them into."""
        matrices = {
            name.removesuffix(".weight"): tensor.block_type
            for name, tensor in self._header.tensors.items()
            if len(tensor.shape) == 2
        }
        embedding = matrices.pop("token_embd")
        tied = "output" not in matrices
        if tied:
            matrices["output"] = embedding
        layers: dict[KernelUse, list[str]] = {}
        for name, block_type in matrices.items() if self._has_run else ():
            layers.setdefault(self._use(block_type), []).append(name)
        head = matrices["output"].lower()
        return ModelFacts(
            path=self.path,
            format=self.path.partition(":")[2] or "as stored in the file",
            n_params=int(self._llama.llama_model_n_params(self._model)),
            weights_bytes=int(self._llama.llama_model_size(self._model)),
            lm_head=f"{head}, tied to the embedding"
            if tied
            else f"{head}; embedding {embedding.lower()}",
            layers={use: tuple(names) for use, names in layers.items()},
        )

    def _use(self, block_type: str) -> KernelUse:
        buffers = "+".join(self._log.buffers) or "CPU"
        arithmetic = _FLOAT_ARITHMETIC.get(block_type, "int8")
        return KernelUse(f"ggml.mul_mat ({buffers})", self._isa(), arithmetic, block_type.lower())

    def _isa(self) -> str:
        """The instruction sets that the build says it has."""
        said = self._llama.llama_print_system_info().decode()
        has = {name.lower() for name in re.findall(r"(\w+) = 1", said)}
        return "+".join(flag for flag in ISA_FLAGS if flag in has) or "generic"

    def _make_context(self, n_tokens: int) -> None:
        if self._context:
            self._llama.llama_free(self._context)
            self._context, self._room = None, 0
        parameters = self._llama.llama_context_default_params()
        parameters.n_ctx = n_tokens
        parameters.n_batch = parameters.n_ubatch = _BATCH
        parameters.n_threads = parameters.n_threads_batch = self._threads
        parameters.no_perf = True
        self._context = self._llama.llama_init_from_model(self._model, parameters)
        if not self._context:
            raise InputError(
                f"llama.cpp makes no context of {n_tokens} tokens: {self._log.complaint()}"
            )
        self._room = n_tokens

    def _decode(self, batch: Any) -> None:
        code = self._llama.llama_decode(self._context, batch)
        if code != 0:
            raise RuntimeError(f"llama_decode returned {code}: {self._log.complaint()}")
        self._has_run = True

    def _floats(self, pointer: Any, rows: int) -> NDArray[np.float32]:
        """llama.cpp's own memory as [rows, vocab], valid until it decodes again."""
        floats: NDArray[np.float32] = np.ctypeslib.as_array(pointer, (rows, self.vocab_size))
        return floats


class _Log:
    """What llama.cpp says: of buffers, and of what went wrong; the rest is dropped."""

    def __init__(self, llama_cpp: Any) -> None:
        self.buffers: list[str] = []
        self._complaints: list[str] = []
        self._callback = llama_cpp.llama_log_callback(self._hear)
        _hearing.append(self._callback)  # llama.cpp keeps no reference and may call at any time
        llama_cpp.llama_log_set(self._callback, None)

    def complaint(self) -> str:
        """The last complaints in one line."""
        return " ".join(" ".join(self._complaints[-3:]).split()) or "it does not say why"

    def _hear(self, level: int, text: bytes, _data: int | None) -> None:
        line = text.decode(errors="replace")
        found = re.search(r"(\w+) model buffer size", line)
        if found:
            self.buffers.append(found[1])
        if level in _WARNINGS:
            self._complaints.append(line)


_hearing: list[Any] = []


def converted(checkpoint: Checkpoint, file_type: str, progress: Progress) -> Path:
    """The checkpoint as a GGUF file of ``file_type``, made where the cache lacks it.

    Raises:
        InputError: the model cannot be converted, or the cache cannot be written.
    """
    version = metadata.version("sllmbench")
    key = hashlib.sha256(f"{_identity(checkpoint)} {version}".encode()).hexdigest()[:16]
    stem = re.sub(r"[^\w.-]", "_", checkpoint.name.rstrip("/").rpartition("/")[2])[:80]
    folder = cache.cache_dir() / "gguf"
    file = folder / f"{stem}-{file_type}-{key}.gguf"
    with cache.cache_errors():
        if not file.exists():
            folder.mkdir(parents=True, exist_ok=True)
            with cache.exclusive(f"gguf-{file.stem}"):
                if not file.exists():  # another process may have just made it
                    write_gguf(checkpoint, file, file_type, progress=progress)
    return file


def _identity(checkpoint: Checkpoint) -> str:
    """What tells these weights from others, and from their own next version, without reading."""
    where = checkpoint.location
    if where is None:
        return checkpoint.name
    files = sorted(where.iterdir()) if where.is_dir() else [where]
    stats = [(file.name, file.stat()) for file in files if file.is_file()]
    return f"{where.resolve()} {[(name, s.st_size, s.st_mtime_ns) for name, s in stats]}"


def _is_gguf(checkpoint: Checkpoint) -> bool:
    return checkpoint.location is not None and checkpoint.location.suffix == ".gguf"
