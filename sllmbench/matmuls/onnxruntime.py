"""onnxruntime's ``MatMulNBits`` on one matrix, with int8 or float32 activations."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np

from sllmbench.matmuls.base import BoundMatmul, MatmulPath, Operands, missing_library
from sllmbench.matmuls.native import quantized
from sllmbench.record import KernelUse

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from sllmbench.formats import QuantTensor

GROUPS = (32, 64, 128)
NAMES = tuple(f"onnxruntime:int4-g{group}{exact}" for group in GROUPS for exact in ("", "-exact"))
_NAME = re.compile(r"onnxruntime:int4-g(\d+)(-exact)?")
_OPSET, _IR_VERSION = 21, 10
"""The model's: onnxruntime 1.20 and newer read them."""


def resolve(name: str) -> MatmulPath:
    """Return the kernel called ``name``, one of :data:`NAMES`."""
    match = cast("re.Match[str]", _NAME.fullmatch(name))
    return OnnxRuntimeInt4(name, int(match[1]), "float32" if match[2] else "int8")


class OnnxRuntimeInt4(MatmulPath):
    """``com.microsoft.MatMulNBits``: our codes, our scales as float32."""

    def __init__(self, name: str, group: int, arithmetic: Literal["int8", "float32"]) -> None:
        """Take groups of ``group``; int8 is the operator's accuracy level 4, float32 its 0."""
        super().__init__(name, f"onnxruntime's int4 kernel, groups of {group}, {arithmetic}")
        self._group = group
        self._arithmetic = arithmetic

    def unavailable(self) -> str | None:
        """It takes onnxruntime, and onnx to write the model."""
        return missing_library(("onnxruntime", "onnx"), "peers")

    def bits_per_weight(self, k: int) -> float:
        """Codes and float32 scales, a short last group filled up."""
        groups = -(-k // self._group)
        return groups * (4 * self._group + 32) / k

    def bind(self, operands: Operands) -> BoundMatmul:
        """Make one session of a node a copy; it cannot run one node alone, so a call runs all.

        A session a copy would have a pool of threads each, and pools that share a process spoil
        each other; ``only_execute_path_to_fetches`` changed nothing in 1.32.
        """
        weight = quantized(operands.weight, f"int4-g{self._group}")
        level = 4 if self._arithmetic == "int8" else 0
        session, held = _session(weight, self._group, level, operands)
        out = np.empty((operands.x.shape[0], weight.n), np.float32)
        call = _bind_arrays(session, held, operands, out)

        def product() -> NDArray[np.float32]:
            call()
            return out

        kernel = f"onnxruntime.MatMulNBits accuracy_level={level}"
        use = KernelUse(kernel, "not said by onnxruntime", self._arithmetic, weight.format.name)
        return BoundMatmul(
            calls=[call],
            product=product,
            use=lambda: use,
            weight_bytes=round(weight.n * weight.k * self.bits_per_weight(weight.k) / 8),
            values=weight.dequantize(),
            products_per_call=operands.copies,
        )


def _session(weight: QuantTensor, group: int, level: int, operands: Operands) -> tuple[Any, Any]:
    """A session that multiplies ``x`` with every copy, and what must live as long as it does.

    The weights stay outside the model, which is a protobuf message and could hold 2 GiB of them:
    with those that the operator packs for itself 2.4 times the weights in memory, while the session
    is made and after; inside the model it was 4.9 times, then 3.3.
    """
    import onnxruntime

    arrays: tuple[NDArray[Any], ...] = _blocks(weight, group)
    values = {}
    for i in range(operands.copies):
        for name, array in zip(_inputs(i), arrays, strict=True):
            copy = np.roll(array, i, axis=0)
            values[name] = onnxruntime.OrtValue.ortvalue_from_numpy(copy)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = operands.threads
    options.inter_op_num_threads = 1
    options.add_external_initializers(list(values), list(values.values()))
    model = _model(weight, group, level, operands, arrays)
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return session, values  # onnxruntime reads these where they lie


def _inputs(copy: int) -> tuple[str, str]:
    return f"codes{copy}", f"scales{copy}"


def _model(
    weight: QuantTensor,
    group: int,
    level: int,
    operands: Operands,
    arrays: tuple[NDArray[Any], ...],
) -> bytes:
    """The ONNX model, which knows its weights by name and shape alone."""
    from onnx import TensorProto, helper

    m = operands.x.shape[0]
    outputs = [f"y{i}" for i in range(operands.copies)]
    graph = helper.make_graph(
        [
            helper.make_node(
                "MatMulNBits",
                ["x", *_inputs(i)],
                [y],
                domain="com.microsoft",
                K=weight.k,
                N=weight.n,
                bits=4,
                block_size=group,
                accuracy_level=level,
            )
            for i, y in enumerate(outputs)
        ],
        "matmul",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [m, weight.k])],
        [helper.make_tensor_value_info(y, TensorProto.FLOAT, [m, weight.n]) for y in outputs],
        [
            _outside(name, array)
            for i in range(operands.copies)
            for name, array in zip(_inputs(i), arrays, strict=True)
        ],
    )
    opsets = [helper.make_opsetid("", _OPSET), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=_IR_VERSION)
    written: bytes = model.SerializeToString()
    return written


def _outside(name: str, array: NDArray[Any]) -> Any:
    """A tensor without its data, which the session is given under the same name."""
    from onnx import StringStringEntryProto, TensorProto, helper

    location = StringStringEntryProto(key="location", value="the session")  # it wants one
    return TensorProto(
        name=name,
        data_type=helper.np_dtype_to_tensor_dtype(array.dtype),
        dims=array.shape,
        data_location=TensorProto.EXTERNAL,
        external_data=[location],
    )


def _blocks(weight: QuantTensor, group: int) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """uint8 [n, groups, group/2] and float32 [n, groups]; the codes beyond k are zeros.

    The operator multiplies them with nothing, so it does not matter what they hold.
    """
    groups = -(-weight.k // group)
    codes = cast("NDArray[np.uint8]", weight.codes)
    padded = np.pad(codes, ((0, 0), (0, groups * group // 2 - codes.shape[1])))
    return padded.reshape(weight.n, groups, group // 2), weight.scales.astype(np.float32)


def _bind_arrays(session: Any, held: Any, operands: Operands, out: NDArray[np.float32]) -> Any:
    """A call that does nothing but run; the products after the first share one array."""
    import onnxruntime

    binding = session.io_binding()
    x = onnxruntime.OrtValue.ortvalue_from_numpy(operands.x)
    binding.bind_ortvalue_input("x", x)
    spare = np.empty_like(out)
    for i in range(operands.copies):
        array = spare if i else out
        binding.bind_output(f"y{i}", "cpu", 0, np.float32, out.shape, array.ctypes.data)

    def call(_kept: tuple[object, ...] = (out, spare, x, held)) -> None:
        session.run_with_iobinding(binding)

    return call
