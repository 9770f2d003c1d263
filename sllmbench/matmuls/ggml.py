"""ggml's ``mul_mat``, which llama.cpp runs on, on one matrix of each block type."""

from __future__ import annotations

import ctypes
import weakref
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from sllmbench.errors import InputError
from sllmbench.matmuls.base import BoundMatmul, MatmulPath, Operands
from sllmbench.matmuls.ggml_library import (
    InitParams,
    ThreadpoolParams,
    block_type,
    folder,
    library,
    quantize_blocks,
)
from sllmbench.record import KernelUse

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from sllmbench.matmuls.ggml_library import GgmlLibrary

NAMES = tuple(f"ggml:{type}" for type in ("q4_0", "q4_1", "q5_0", "q8_0", "q4_k", "q5_k", "q6_k"))
_F32 = 0
"""``GGML_TYPE_F32``."""
_GRAPH_SIZE = 8
"""Nodes and leaves that a graph may hold; one has three."""
_MOST_EXTRA_TYPES = 4
"""Layouts that are tried; a build for x86 has two, AMX's and the repacked one."""


def resolve(name: str) -> MatmulPath:
    """Return the kernel called ``name``, one of :data:`NAMES`."""
    return GgmlMatmul(name, name.removeprefix("ggml:"))


class GgmlMatmul(MatmulPath):
    """``ggml_mul_mat`` with the weight where ggml multiplies it best; int8 activations."""

    def __init__(self, name: str, type: str) -> None:
        """Take blocks of ``type``."""
        super().__init__(name, f"ggml's mul_mat on {type.upper()} blocks, int8 activations")
        self._type = type

    def unavailable(self) -> str | None:
        """It takes llama-cpp-python's libraries, or those in ``SLLMBENCH_GGML_LIB``."""
        where = folder()
        if isinstance(where, str):
            return where
        try:
            library()
        except InputError as error:
            return str(error)
        return None

    def unsupported_shape(self, n: int, k: int) -> str | None:
        """It wants whole blocks."""
        block = block_type(self._type)[1]
        return f"needs k in whole blocks of {block}" if k % block else None

    def bits_per_weight(self, k: int) -> float:
        """The block's."""
        _, block, block_bytes = block_type(self._type)
        return 8 * block_bytes / block

    def bind(self, operands: Operands) -> BoundMatmul:
        """Let ggml round the weight, and repack it where it has a layout of its own."""
        from gguf import GGMLQuantizationType
        from gguf.quants import dequantize

        blocks = _rounded(operands.weight, self._type)
        products = _Products(library(), self._type, blocks, operands)
        use = KernelUse(
            f"ggml.mul_mat {self._type} ({products.buffer_type})",
            library().isa(),
            "int8",
            self._type,
        )
        return BoundMatmul(
            calls=[partial(products.run, plan) for plan in products.plans],
            product=partial(products.product, 0),
            use=lambda: use,
            weight_bytes=blocks.nbytes,
            values=dequantize(blocks, GGMLQuantizationType[self._type.upper()]),
        )


_latest: tuple[NDArray[np.float32], str, NDArray[np.uint8]] | None = None


def _rounded(weight: NDArray[np.float32], type: str) -> NDArray[np.uint8]:
    """Quantise, or return the latest result where the very same array is asked for again."""
    global _latest
    if _latest is None or _latest[0] is not weight or _latest[1] != type:
        _latest = (weight, type, quantize_blocks(weight, type))
    return _latest[2]


class _Products:
    """A graph a copy, planned; it owns ggml's memory and threads and frees them with itself."""

    def __init__(
        self, ggml: GgmlLibrary, type: str, blocks: NDArray[np.uint8], operands: Operands
    ) -> None:
        """Place everything."""
        self._ggml = ggml
        self._owned = ExitStack()
        weakref.finalize(self, self._owned.close)
        self._backend = self._new_backend(operands.threads)
        self._context = self._new_context(operands.copies)
        (m, k), n = operands.x.shape, operands.weight.shape[0]
        host = ggml.backend_cpu_buffer_type()
        self._x = ggml.new_tensor_2d(self._context, _F32, k, m)
        self._place(self._x, host)
        ggml.backend_tensor_set(self._x, operands.x.ctypes.data, 0, operands.x.nbytes)
        new_weight = partial(ggml.new_tensor_2d, self._context, block_type(type)[0], k, n)
        stored_in = self._weights_buffer_type(new_weight) or host
        self.buffer_type: str = ggml.backend_buft_name(stored_in).decode()
        weights = [new_weight() for _ in range(operands.copies)]
        for i, weight in enumerate(weights):
            self._place(weight, stored_in)
            turned = np.roll(blocks, i, axis=0)
            ggml.backend_tensor_set(weight, turned.ctypes.data, 0, turned.nbytes)
        self._products = [ggml.mul_mat(self._context, weight, self._x) for weight in weights]
        for product in self._products:
            self._place(product, host)
        self._shape = m, n
        self.plans = [self._plan(product) for product in self._products]

    def run(self, plan: int) -> int:
        """Multiply with one copy; 0 if ggml succeeds."""
        status: int = self._ggml.backend_graph_plan_compute(self._backend, plan)
        return status

    def product(self, copy: int) -> NDArray[np.float32]:
        """Multiply with one copy and read the product.

        Raises:
            InputError: ggml says that it failed.
        """
        status = self.run(self.plans[copy])
        if status:
            raise InputError(f"ggml's mul_mat failed with status {status}")
        out = np.empty(self._shape, np.float32)
        self._ggml.backend_tensor_get(self._products[copy], out.ctypes.data, 0, out.nbytes)
        return out

    def _new_backend(self, threads: int) -> int:
        """The CPU backend with a pool of its own, at the polling that llama.cpp has by default.

        Without one, every call would make a pool and end it. A build with OpenMP takes the
        threads from there and ignores the polling.
        """
        ggml, parameters = self._ggml, ThreadpoolParams()
        ggml.threadpool_params_init(ctypes.byref(parameters), threads)
        pool = ggml.threadpool_new(ctypes.byref(parameters))
        self._owned.callback(ggml.threadpool_free, pool)
        backend: int = ggml.backend_cpu_init()
        self._owned.callback(ggml.backend_free, backend)
        ggml.backend_cpu_set_n_threads(backend, threads)
        ggml.backend_cpu_set_threadpool(backend, pool)
        return backend

    def _new_context(self, copies: int) -> int:
        """Room for the descriptions of tensors and graphs; their data lies in buffers."""
        ggml = self._ggml
        tensors = 1 + 2 * copies + 2 * _MOST_EXTRA_TYPES
        size = tensors * ggml.tensor_overhead()
        size += copies * ggml.graph_overhead_custom(_GRAPH_SIZE, False)
        context: int = ggml.init(InitParams(size, None, True))
        self._owned.callback(ggml.free, context)
        return context

    def _place(self, tensor: int, buffer_type: int) -> None:
        """Give a tensor memory of its own.

        Raises:
            InputError: there is too little memory.
        """
        ggml = self._ggml
        size = ggml.backend_buft_get_alloc_size(buffer_type, tensor)
        buffer = ggml.backend_buft_alloc_buffer(buffer_type, size)
        if not buffer:
            raise InputError(f"ggml cannot allocate {size / 1e6:.0f} MB; use a smaller shape")
        self._owned.callback(ggml.backend_buffer_free, buffer)
        ggml.backend_tensor_alloc(buffer, tensor, ggml.backend_buffer_get_base(buffer))

    def _weights_buffer_type(self, new_weight: Callable[[], int]) -> int | None:
        """The first of ggml's own layouts that can hold and multiply such a weight.

        That a layout serves a weight shows only once the weight lies in it: so llama.cpp, too,
        finds out.
        """
        ggml = self._ggml
        device = ggml.backend_get_device(self._backend)
        for buffer_type in ggml.extra_buffer_types(device)[:_MOST_EXTRA_TYPES]:
            weight = new_weight()
            self._place(weight, buffer_type)
            product = ggml.mul_mat(self._context, weight, self._x)
            if ggml.backend_dev_supports_op(device, product):
                return buffer_type
        return None

    def _plan(self, product: int) -> int:
        ggml = self._ggml
        graph = ggml.new_graph_custom(self._context, _GRAPH_SIZE, False)
        ggml.build_forward_expand(graph, product)
        plan: int = ggml.backend_graph_plan_create(self._backend, graph)
        self._owned.callback(ggml.backend_graph_plan_free, self._backend, plan)
        return plan
