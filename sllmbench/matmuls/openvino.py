"""openvino's compressed matrix product on one matrix: int8, bfloat16 or float32 activations."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from sllmbench.errors import InputError
from sllmbench.matmuls.base import BoundMatmul, MatmulPath, Operands, missing_library
from sllmbench.matmuls.native import quantized
from sllmbench.record import KernelUse

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from sllmbench.formats import QuantTensor

GROUPS = (32, 64, 128)
_ARITHMETICS = {"": "int8", "-bf16": "bfloat16", "-exact": "float32"}
NAMES = tuple(f"openvino:int4-g{group}{kind}" for group in GROUPS for kind in _ARITHMETICS)
_NAME = re.compile(r"openvino:int4-g(\d+)(-\w+)?")
_ISA = re.compile(r"(?:sse|avx|amx)\w*?(?=_(?:f32|bf16|f16|i8)$|$)")


def resolve(name: str) -> MatmulPath:
    """Return the kernel called ``name``, one of :data:`NAMES`."""
    match = cast("re.Match[str]", _NAME.fullmatch(name))
    return OpenVinoInt4(name, int(match[1]), _ARITHMETICS[match[2] or ""])


class OpenVinoInt4(MatmulPath):
    """A ``MatMul`` on int4 constants: our codes less 8, our scales."""

    def __init__(self, name: str, group: int, arithmetic: str) -> None:
        """Take groups of ``group``; int8 is openvino's dynamic quantisation in the same groups.

        2048×2048, g128, 2 threads of a Zen 4: it took 55 µs at m = 1 and 1.5 ms at 128; without
        it bf16 took 155 µs and 3.0 ms, float32 157 µs and 5.1 ms. Groups of 32 for the
        activations of g128 weights: 57 µs and 2.1 ms.
        """
        super().__init__(name, f"openvino's int4 kernel, groups of {group}, {arithmetic}")
        self._group = group
        self._arithmetic = arithmetic

    def unavailable(self) -> str | None:
        """It takes openvino, and for bfloat16 a CPU that multiplies it."""
        missing = missing_library(("openvino",), "peers")
        if missing is not None or self._arithmetic != "bfloat16":
            return missing
        import openvino

        if "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            return None
        return "openvino multiplies no bfloat16 on this CPU"

    def unsupported_shape(self, n: int, k: int) -> str | None:
        """It wants whole groups."""
        return f"needs k in whole groups of {self._group}" if k % self._group else None

    def bits_per_weight(self, k: int) -> float:
        """Codes and float32 scales."""
        return 4 + 32 / self._group

    def bind(self, operands: Operands) -> BoundMatmul:
        """Compile one model of a product a copy; a call runs all.

        A model a copy brings threads of its own, 124 for 60 copies of 2048×2048, and took 211 µs
        a product where one model took 155.

        Raises:
            InputError: openvino expanded the weights at load, so it is no int4 kernel.
        """
        weight = quantized(operands.weight, f"int4-g{self._group}")
        model = self._compiled(_model(weight, self._group, operands), operands.threads)
        kernel, isa = _kernel(model)
        out = np.empty((operands.x.shape[0], weight.n), np.float32)
        call = _bind_arrays(model, operands, out)

        def product() -> NDArray[np.float32]:
            call()
            return out

        use = KernelUse(kernel, isa, self._arithmetic, weight.format.name)
        return BoundMatmul(
            calls=[call],
            product=product,
            use=lambda: use,
            weight_bytes=round(weight.n * weight.k * self.bits_per_weight(weight.k) / 8),
            values=weight.dequantize(),
            products_per_call=operands.copies,
        )

    def _compiled(self, model: Any, threads: int) -> Any:
        import openvino

        int8, bfloat16 = self._arithmetic == "int8", self._arithmetic == "bfloat16"
        options = {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": "bf16" if bfloat16 else "f32",
            "DYNAMIC_QUANTIZATION_GROUP_SIZE": self._group if int8 else 0,
        }
        return openvino.Core().compile_model(model, "CPU", options)


def _model(weight: QuantTensor, group: int, operands: Operands) -> Any:
    """A model that multiplies one input with every copy.

    Our code c stands for c - 8, which is c with its high bit turned as a signed 4-bit number: so
    there is no zero point to subtract.
    """
    import openvino
    from openvino import opset13

    n, k = weight.n, weight.k
    x = opset13.parameter(list(operands.x.shape), np.float32)
    products = []
    for i in range(operands.copies):
        signed = np.roll(weight.codes.view(np.uint8), i, axis=0) ^ 0x88
        tensor = openvino.Tensor(signed, openvino.Shape([n, k // group, group]), openvino.Type.i4)
        codes = openvino.op.Constant(tensor, shared_memory=False)
        scales = np.roll(weight.scales, i, axis=0).reshape(n, k // group, 1)
        grouped = opset13.multiply(opset13.convert(codes, "f16"), opset13.constant(scales))
        matrix = opset13.reshape(grouped, opset13.constant([n, k]), special_zero=False)
        floats = opset13.convert(matrix, "f32")
        products.append(opset13.matmul(x, floats, transpose_a=False, transpose_b=True))
    return openvino.Model(products, [x], "matmul")


def _kernel(model: Any) -> tuple[str, str]:
    """What openvino says that it runs, and on which instruction set."""
    for node in model.get_runtime_model().get_ops():
        facts = node.get_rt_info()
        layer = facts["layerType"].astype(str)
        if layer in ("FullyConnected", "MatMul"):
            primitive = facts["primitiveType"].astype(str)
            stored = facts["runtimePrecision"].astype(str)
            if stored != "i4":
                raise InputError(f"openvino keeps these weights as {stored}, not as int4")
            isa = _ISA.search(primitive)
            return f"openvino.{layer} {primitive}", isa[0] if isa else "not said by openvino"
    raise InputError("openvino does not say how it multiplies")


def _bind_arrays(model: Any, operands: Operands, out: NDArray[np.float32]) -> Any:
    """A call that does nothing but run; the products after the first share one array."""
    import openvino

    spare = np.empty_like(out)
    request = model.create_infer_request()
    request.set_input_tensor(openvino.Tensor(operands.x, shared_memory=True))
    for i in range(operands.copies):
        array = spare if i else out
        request.set_output_tensor(i, openvino.Tensor(array, shared_memory=True))

    def call(_kept: tuple[object, ...] = (operands.x, out, spare)) -> None:
        request.infer(share_outputs=True)  # else it copies what it has written

    return call
