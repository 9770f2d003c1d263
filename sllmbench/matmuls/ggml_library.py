"""ggml's shared libraries through ctypes: where they are, what they export, its block types.

llama-cpp-python brings them. Its Python package is never imported: that would load all of
llama.cpp.
"""

from __future__ import annotations

import ctypes
import os
import sys
from ctypes import POINTER, c_bool, c_char_p, c_float, c_int, c_int64, c_size_t, c_void_p
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sllmbench.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

FOLDER_VARIABLE = "SLLMBENCH_GGML_LIB"
"""Names the folder of another build of the libraries than the installed one."""
_NEEDED = ("libggml-base.so", "libggml-cpu.so")

_MAX_THREADS = 512
"""``GGML_MAX_N_THREADS``."""
ISA_FLAGS = (
    *("avx2", "avx_vnni", "avx512", "avx512_vnni", "avx512_bf16", "amx_int8"),
    *("neon", "dotprod", "matmul_int8", "sve"),
)


class InitParams(ctypes.Structure):
    """``ggml_init_params``."""

    _fields_ = (("mem_size", c_size_t), ("mem_buffer", c_void_p), ("no_alloc", c_bool))


class ThreadpoolParams(ctypes.Structure):
    """``ggml_threadpool_params``."""

    _fields_ = (
        ("cpumask", c_bool * _MAX_THREADS),
        ("n_threads", c_int),
        ("prio", c_int),
        ("poll", ctypes.c_uint32),
        ("strict_cpu", c_bool),
        ("paused", c_bool),
    )


_LogCallback = ctypes.CFUNCTYPE(None, c_int, c_char_p, c_void_p)
_WARNINGS = (3, 4)
"""``GGML_LOG_LEVEL_WARN`` and ``_ERROR``."""

_BASE: dict[str, tuple[Any, ...]] = {
    "ggml_log_set": (None, _LogCallback, c_void_p),
    "ggml_init": (c_void_p, InitParams),
    "ggml_free": (None, c_void_p),
    "ggml_tensor_overhead": (c_size_t,),
    "ggml_graph_overhead_custom": (c_size_t, c_size_t, c_bool),
    "ggml_new_tensor_2d": (c_void_p, c_void_p, c_int, c_int64, c_int64),
    "ggml_mul_mat": (c_void_p, c_void_p, c_void_p, c_void_p),
    "ggml_new_graph_custom": (c_void_p, c_void_p, c_size_t, c_bool),
    "ggml_build_forward_expand": (None, c_void_p, c_void_p),
    "ggml_nbytes": (c_size_t, c_void_p),
    "ggml_quantize_chunk": (
        *(c_size_t, c_int, POINTER(c_float), c_void_p, c_int64, c_int64, c_int64, c_void_p),
    ),
    "ggml_threadpool_params_init": (None, POINTER(ThreadpoolParams), c_int),
    "ggml_backend_get_device": (c_void_p, c_void_p),
    "ggml_backend_dev_backend_reg": (c_void_p, c_void_p),
    "ggml_backend_dev_supports_op": (c_bool, c_void_p, c_void_p),
    "ggml_backend_reg_get_proc_address": (c_void_p, c_void_p, c_char_p),
    "ggml_backend_cpu_buffer_type": (c_void_p,),
    "ggml_backend_buft_name": (c_char_p, c_void_p),
    "ggml_backend_buft_get_alloc_size": (c_size_t, c_void_p, c_void_p),
    "ggml_backend_buft_alloc_buffer": (c_void_p, c_void_p, c_size_t),
    "ggml_backend_buffer_free": (None, c_void_p),
    "ggml_backend_buffer_get_base": (c_void_p, c_void_p),
    "ggml_backend_tensor_alloc": (c_int, c_void_p, c_void_p, c_void_p),
    "ggml_backend_tensor_set": (None, c_void_p, c_void_p, c_size_t, c_size_t),
    "ggml_backend_tensor_get": (None, c_void_p, c_void_p, c_size_t, c_size_t),
    "ggml_backend_graph_plan_create": (c_void_p, c_void_p, c_void_p),
    "ggml_backend_graph_plan_compute": (c_int, c_void_p, c_void_p),
    "ggml_backend_graph_plan_free": (None, c_void_p, c_void_p),
    "ggml_backend_free": (None, c_void_p),
}
_CPU: dict[str, tuple[Any, ...]] = {
    "ggml_backend_cpu_init": (c_void_p,),
    "ggml_backend_cpu_set_n_threads": (None, c_void_p, c_int),
    "ggml_backend_cpu_set_threadpool": (None, c_void_p, c_void_p),
    "ggml_threadpool_new": (c_void_p, POINTER(ThreadpoolParams)),
    "ggml_threadpool_free": (None, c_void_p),
    **{f"ggml_cpu_has_{flag}": (c_int,) for flag in ISA_FLAGS},
}


class GgmlLibrary:
    """The functions of one build, called by their names less ``ggml_``."""

    def __init__(self, folder: Path) -> None:
        """Load ``folder``'s libraries.

        Raises:
            InputError: one is missing, does not load, or lacks a function.
        """
        try:
            for file, signatures in zip(_NEEDED, (_BASE, _CPU), strict=True):
                library = ctypes.CDLL(str(folder / file))
                for name, (result, *arguments) in signatures.items():
                    function = getattr(library, name)
                    function.restype, function.argtypes = result, arguments
                    setattr(self, name.removeprefix("ggml_"), function)
        except (OSError, AttributeError) as error:
            raise InputError(f"ggml's libraries in {folder} cannot be used: {error}") from error
        self._log = _LogCallback(_log)  # ggml keeps no reference

    def listen(self) -> None:
        """Hear what ggml says: a process has one listener, and importing llama_cpp sets another."""
        self.log_set(self._log, None)

    def __getattr__(self, name: str) -> Any:
        """Let the type checker know that functions are found by name."""
        raise AttributeError(name)

    def isa(self) -> str:
        """The instruction sets that the build says it has."""
        flags = [flag for flag in ISA_FLAGS if getattr(self, f"cpu_has_{flag}")()]
        return "+".join(flags) or "generic"

    def extra_buffer_types(self, device: int) -> list[int]:
        """Where it would rather keep weights, in the order of its own preference."""
        registry = self.backend_dev_backend_reg(device)
        found = self.backend_reg_get_proc_address(registry, b"ggml_backend_dev_get_extra_bufts")
        if not found:
            return []
        listed = ctypes.CFUNCTYPE(POINTER(c_void_p), c_void_p)(found)(device)
        types: list[int] = []
        while listed[len(types)]:
            types.append(listed[len(types)])
        return types


def _log(level: int, text: bytes, _data: int | None) -> None:
    """Pass on what went wrong; else ggml tells of every tensor that it repacks."""
    if level in _WARNINGS:
        sys.stderr.write(text.decode(errors="replace"))


def folder() -> Path | str:
    """The libraries' folder, or why there is none."""
    named = os.environ.get(FOLDER_VARIABLE)
    if named:
        where = Path(named).absolute()
    else:
        package = find_spec("llama_cpp")
        if package is None or package.origin is None:
            return (
                "llama-cpp-python, which brings ggml, is not installed; "
                "pip install 'sllmbench[llama-cpp]'"
            )
        where = Path(package.origin).parent / "lib"
    for file in _NEEDED:
        if not (where / file).is_file():
            return (
                f"{where} has no {file}; name the folder of ggml's libraries in {FOLDER_VARIABLE}"
            )
    return where


def library() -> GgmlLibrary:
    """Load the libraries, once, and listen to them.

    Raises:
        InputError: there are none, or they cannot be used.
    """
    where = folder()
    if isinstance(where, str):
        raise InputError(where)
    loaded = _load(where)
    loaded.listen()
    return loaded


_load = cache(GgmlLibrary)


def quantize_blocks(weight: NDArray[np.float32], type: str) -> NDArray[np.uint8]:
    """Round a float32 [n, k] weight to ggml's blocks of ``type`` (e.g. ``q4_k``), by ggml itself.

    Returns:
        uint8 [n, bytes], each row as a GGUF file stores it.

    Raises:
        InputError: ggml is missing, or k is not in whole blocks.
    """
    kind, block, block_bytes = block_type(type)
    n, k = weight.shape
    if k % block:
        raise InputError(f"{type} needs k in whole blocks of {block}, not {k}")
    weight = np.ascontiguousarray(weight, np.float32)
    blocks = np.empty((n, k // block * block_bytes), np.uint8)
    source = weight.ctypes.data_as(POINTER(c_float))
    written = library().quantize_chunk(kind, source, blocks.ctypes.data, 0, n, k, None)
    assert written == blocks.nbytes
    return blocks


def block_type(type: str) -> tuple[int, int, int]:
    """ggml's number of a block type, and a block's values and bytes."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    kind = GGMLQuantizationType[type.upper()]
    return (int(kind), *GGML_QUANT_SIZES[kind])
