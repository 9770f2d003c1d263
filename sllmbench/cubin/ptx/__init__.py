"""A PTX interpreter: executes what nvcc emits, and says what a GPU would not have said."""

from sllmbench.cubin.ptx.faults import Fault, ParseError, PtxError, UnknownInstructionError
from sllmbench.cubin.ptx.machine import run
from sllmbench.cubin.ptx.memory import Memory
from sllmbench.cubin.ptx.parser import Module
from sllmbench.cubin.ptx.trace import Access, Trace

__all__ = [
    "Access",
    "Fault",
    "Memory",
    "Module",
    "ParseError",
    "PtxError",
    "Trace",
    "UnknownInstructionError",
    "run",
]
