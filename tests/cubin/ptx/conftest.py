"""Kernels of a few lines of PTX, one thread an element, and numbers rounded by hand."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from sllmbench.cubin.ptx import Memory, Module, Trace, run

Array = NDArray[Any]
HEADER = ".version 9.0\n.target sm_75\n.address_size 64\n"
REGISTERS = """
    .reg .pred %p<8>; .reg .b16 %h<16>; .reg .b32 %r<32>; .reg .b64 %rd<32>;
    .reg .f32 %f<8>; .reg .u32 %tid, %ctaid, %at; .reg .u64 %to, %from;
"""
_STEP_BYTES = 16  # from one thread's element to the next one's


class Launch:
    """A kernel's buffers, at addresses of their own choice, and its one launch."""

    def __init__(self) -> None:
        self.memory = Memory()
        self.addresses: list[int] = []

    def buffer(self, data: Array, **options: bool) -> int:
        """Put a copy on the GPU; its address."""
        address = 0x7F0000000000 + len(self.addresses) * 0x1000000
        self.memory.register(address, data, **options)
        self.addresses.append(address)
        return address

    def run(
        self,
        body: str,
        *,
        grid: tuple[int, ...] = (1,),
        block: tuple[int, ...] = (32,),
        module: str = "",
        trace: Trace | None = None,
    ) -> Trace:
        """Run a kernel whose parameters p0, p1 .. are the buffers' addresses."""
        names = [f"p{i}" for i in range(len(self.addresses))]
        parameters = ", ".join(f".param .u64 {name}" for name in names)
        loads = "".join(f"ld.param.u64 %rd{20 + i}, [p{i}];\n" for i in range(len(names)))
        # A scope of its own, so that a body may declare registers too.
        entry = f".visible .entry k({parameters})\n{{{REGISTERS}{loads}{{{body}}}\nret;\n}}"
        arguments = [address.to_bytes(8, "little") for address in self.addresses]
        return run(
            Module.parse(HEADER + module + entry).entry("k"),
            grid,
            block,
            arguments,
            self.memory,
            trace,
        )

    def read(self, index: int, dtype: Any) -> Array:
        """What a buffer holds now."""
        return self.memory.read(self.addresses[index]).view(dtype)


@pytest.fixture
def launch() -> Launch:
    return Launch()


Evaluate = Callable[..., Array]


@pytest.fixture
def evaluate() -> Evaluate:
    """evaluate(code, dtype of %d, a=array, b=..): the code's %d where %a, %b .. are the elements.

    `code` names each as a register of its width: a result of 32 bits is %d.
    """

    def evaluate(code: str, result: Any, **sources: Array) -> Array:
        launch, count = Launch(), len(next(iter(sources.values())))
        result = np.dtype(result)
        out = np.zeros((count, _STEP_BYTES), np.uint8)
        launch.buffer(out)
        bits = {name: 8 * values.itemsize for name, values in sources.items()}
        loads = ""
        for number, (name, values) in enumerate(sources.items(), 1):
            padded = np.zeros((count, _STEP_BYTES), np.uint8)
            padded[:, : values.itemsize] = values.reshape(count, 1).view(np.uint8)
            launch.buffer(padded)
            loads += f"add.u64 %from, %rd{20 + number}, %rd1;\n"
            loads += f"ld.global.b{bits[name]} %{name}, [%from];\n"
        registers = "".join(f".reg .b{max(width, 16)} %{name};" for name, width in bits.items())
        width = result.itemsize * 8
        launch.run(
            f"""{registers} .reg .b{max(width, 16)} %d;
            mov.u32 %tid, %tid.x; mov.u32 %ctaid, %ctaid.x;
            mad.lo.u32 %at, %ctaid, 32, %tid;
            setp.ge.u32 %p7, %at, {count}; @%p7 bra END;
            mul.wide.u32 %rd1, %at, {_STEP_BYTES}; add.u64 %to, %rd20, %rd1;
            {loads}{code}
            st.global.b{width} [%to], %d;
            END:""",
            grid=(-(-count // 32),),
        )
        rows = launch.read(0, np.uint8).reshape(count, _STEP_BYTES)[:, : result.itemsize]
        return np.ascontiguousarray(rows).view(result)[:, 0]

    return evaluate


def round_exactly(value: Fraction, dtype: Any, mode: str = "rn") -> float:
    """A number rounded to a NumPy type of floats, by integer arithmetic alone."""
    info = np.finfo(dtype)
    if value == 0:
        return 0.0
    exponent = 0
    while abs(value) >= Fraction(2) ** (exponent + 1):
        exponent += 1
    while abs(value) < Fraction(2) ** exponent:
        exponent -= 1
    unit = Fraction(2) ** (max(exponent, int(info.minexp)) - int(info.nmant))
    steps = value / unit
    down = steps.numerator // steps.denominator
    whole = {
        "rn": round(steps),  # to even
        "rm": down,
        "rp": -(-steps.numerator // steps.denominator),
        "rz": down if value > 0 else -(-steps.numerator // steps.denominator),
    }[mode]
    result = whole * unit
    if abs(result) > Fraction(float(info.max)):
        outward = mode == "rn" or ((mode == "rp") == (value > 0) and mode != "rz")
        return float(np.copysign(np.inf if outward else float(info.max), float(value > 0) - 0.5))
    return float(result)


@pytest.fixture
def rounded() -> Callable[..., float]:
    return round_exactly
