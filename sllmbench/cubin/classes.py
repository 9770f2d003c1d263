"""What an instruction does, in the classes of the report: which unit of the device it keeps busy.

The names are of NVIDIA's "CUDA Binary Utilities", tables "Instruction Set" for Turing to Hopper.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sllmbench.cubin.sass import Instruction

_NAMES = {
    "tensor": "HMMA IMMA BMMA DMMA HGMMA IGMMA QGMMA BGMMA",
    "half": "HADD2 HFMA2 HMUL2 HSET2 HSETP2 HMNMX2 HADD2_32I HFMA2_32I HMUL2_32I",
    "float": "FADD FFMA FMUL FADD32I FFMA32I FMUL32I FMNMX FSEL FSET FSETP FSWZADD FCHK",
    "double": "DADD DFMA DMUL DSETP DMNMX",
    "special": "MUFU RRO",
    "multiply": "IMAD IMUL IMAD32I IMUL32I XMAD",
    "dot": "IDP IDP4A IDP2A",
    "integer": "IADD3 IADD IADD32I IABS IMNMX VIMNMX ISCADD ISCADD32I ISETP LEA SHF SHL SHR BMSK"
    " BREV FLO POPC SGXT VABSDIFF VABSDIFF4 VIADD VIADDMNMX VIMNMX3 ICMP ISET",
    "logic": "LOP3 LOP LOP32I PLOP3 PRMT SEL BFE BFI",
    "conversion": "F2F F2I I2F I2I F2FP F2IP I2IP I2FP FRND",
    "move": "MOV MOV32I MOVM CS2R S2R R2P P2R R2B B2R SHFL VOTE VOTEU MATCH REDUX CSMTEST PSETP"
    " PSET LEPC S2UR R2UR GETLMEMBASE ELECT",
    "global": "LDG STG LD ST LDGSTS ATOM ATOMG RED CCTL CCTLL CCTLT UBLKCP UTMALDG UTMASTG LDGMC"
    " REDG",
    "shared": "LDS STS LDSM STSM ATOMS SYNCS STAS",
    "local": "LDL STL",
    "constant": "LDC LDCU ULDC",
    "control": "BRA BRX JMP JMX BRXU EXIT RET CALL BAR BSSY BSYNC BREAK BMOV WARPSYNC YIELD NOP"
    " NANOSLEEP KILL BPT RTT DEPBAR LDGDEPBAR MEMBAR ERRBAR ENDCOLLECTIVE COLLECTIVE ARRIVES"
    " WARPGROUP UCGABAR_ARV UCGABAR_WAIT ACQBULK PREEXIT RPCMOV",
}
_CLASS_OF = {name: kind for kind, names in _NAMES.items() for name in names.split()}
CLASSES = (*_NAMES, "uniform", "other")
"""In the order in which reports show them."""


def class_of(instruction: Instruction) -> str:
    """One of :data:`CLASSES`; ``other`` is what these tables do not know."""
    name = instruction.name
    if name == "IMAD" and "MOV" in instruction.modifiers:
        return "move"
    known = _CLASS_OF.get(name)
    if known is not None:
        return known
    return "uniform" if name.startswith("U") else "other"


def is_tensor(instruction: Instruction) -> bool:
    """A matrix product of tensor cores."""
    return class_of(instruction) == "tensor"


def by_class(instructions: Iterable[Instruction]) -> dict[str, int]:
    """How many instructions there are of each class that occurs."""
    counted = Counter(map(class_of, instructions))
    return {kind: counted[kind] for kind in CLASSES if counted[kind]}


def unknown_opcodes(instructions: Iterable[Instruction]) -> tuple[str, ...]:
    """Names of the instructions in class ``other``."""
    return tuple(sorted({i.name for i in instructions if class_of(i) == "other"}))
