"""GPUs and what one of their multiprocessors holds.

Limits per compute capability: NVIDIA's "CUDA C++ Programming Guide", table "Technical
Specifications per Compute Capability". Granularities of allocation: ``cuda_occupancy.h`` of the
CUDA toolkit, which the tests compile as their oracle. Multiprocessors per card: NVIDIA's white
papers (Turing, Ampere GA102, Ada) and the data sheets of A100, A10, L4 and H100 (SXM).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from sllmbench.errors import InputError

REGISTERS = 65536
"""32-bit registers of a multiprocessor, of every capability here."""
PARTITIONS = 4
"""Parts of a multiprocessor, each with its share of the warps and registers."""
REGISTER_UNIT = 256
"""Registers that are given to a warp at a time."""
MAX_THREADS_PER_BLOCK = 1024
WARP = 32


@dataclass(frozen=True)
class Capability:
    """What is the same for all GPUs of a compute capability."""

    sm: int
    warps: int
    blocks: int
    shared_bytes: int
    """Of a multiprocessor, at the largest carve-out from L1."""
    reserved_bytes: int
    """Shared memory that the driver takes of every block's."""
    shared_unit_bytes: int


@dataclass(frozen=True)
class Device:
    """A GPU by the name that ``--device`` takes."""

    name: str
    title: str
    capability: Capability
    multiprocessors: int
    tensor_cores: bool


_KIB = 1024
_CAPABILITIES = {
    c.sm: c
    for c in (
        Capability(75, 32, 16, 64 * _KIB, 0, 256),
        Capability(80, 64, 32, 164 * _KIB, _KIB, 128),
        Capability(86, 48, 16, 100 * _KIB, _KIB, 128),
        Capability(89, 48, 24, 100 * _KIB, _KIB, 128),
        Capability(90, 64, 32, 228 * _KIB, _KIB, 128),
    )
}
DEVICES = {
    d.name: d
    for d in (
        Device("t4", "T4", _CAPABILITIES[75], 40, True),
        Device("gtx1650", "GeForce GTX 1650", _CAPABILITIES[75], 14, False),
        Device("rtx2080", "GeForce RTX 2080", _CAPABILITIES[75], 46, True),
        Device("a100", "A100", _CAPABILITIES[80], 108, True),
        Device("a10", "A10", _CAPABILITIES[86], 72, True),
        Device("l4", "L4", _CAPABILITIES[89], 58, True),
        Device("rtx4090", "GeForce RTX 4090", _CAPABILITIES[89], 128, True),
        Device("h100", "H100 SXM", _CAPABILITIES[90], 132, True),
    )
}


def device_of(name: str) -> Device:
    """A device by its name.

    Raises:
        InputError: there is none of that name.
    """
    found = DEVICES.get(name.lower())
    if found is None:
        raise InputError(f"--device {name}: there is {', '.join(DEVICES)}")
    return found


def capability_number(arch: str) -> int:
    """75 for ``sm_75``, 90 for ``sm_90a``.

    Raises:
        InputError: it is no architecture.
    """
    match = re.fullmatch(r"sm_(\d+)[af]?", arch)
    if match is None:
        raise InputError(f"{arch!r} is no architecture, as sm_75")
    return int(match.group(1))


def runs(arch: str, device: Device) -> bool:
    """Whether machine code for ``arch`` runs on a device: same major capability, no later minor."""
    code, sm = capability_number(arch), device.capability.sm
    return code == sm if arch.endswith("a") else code // 10 == sm // 10 and code <= sm
