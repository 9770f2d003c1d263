"""What the machine code of a file's kernels says, of ``sllmbench cubin``."""

from __future__ import annotations

from typing import Literal

from sllmbench.record.base import Frozen

CUBIN_SCHEMA_VERSION = 1


class Occupancy(Frozen):
    """How many blocks of a kernel one multiprocessor holds."""

    threads: int
    """Of a block."""
    blocks: int
    warps: int
    max_warps: int
    limits: dict[str, int]
    """Blocks that each resource alone would allow."""
    limited_by: tuple[str, ...]
    """The resources that allow no more blocks than there are."""

    @property
    def fraction(self) -> float:
        """Warps of those that a multiprocessor could hold."""
        return self.warps / self.max_warps


class MainLoop(Frozen):
    """A trip through a kernel's main loop, the same for every lane.

    Instructions are counted as they stand: one behind a branch inside the loop counts fully, one of
    an inner loop once.
    """

    first: int
    last: int
    """Addresses of its instructions, bytes from the kernel's start."""
    instructions: int
    classes: dict[str, int]
    inner_loops: int
    global_loads: dict[str, int]
    """How many, by bits that a lane loads."""
    read_once_loads: dict[str, int]
    """Those of them that are not to be kept in L1."""
    shared_loads: dict[str, int]
    bytes_in_flight: int
    """Of a lane's global loads asked for and not yet waited for, at the most."""


class Emulated(Frozen):
    """What the addresses of an emulated launch show."""

    launch: str
    """Shape and grid, in words."""
    sectors_per_request: float | None
    """32-byte pieces of memory that a warp's global load touches; None without such loads."""
    ideal_sectors_per_request: float | None
    """The same were its lanes' bytes contiguous."""
    bank_conflicts: int
    """Extra passes that shared-memory accesses take because lanes hit the same bank."""
    shared_requests: int


class KernelCode(Frozen):
    """One kernel's machine code. Figures are None where ``reasons`` says why."""

    name: str
    """With template arguments, without namespaces and parameters."""
    mangled: str
    registers: int
    local_loads: int
    local_stores: int
    """Of the whole kernel: spilled registers, or arrays that are indexed."""
    stack_bytes: int
    shared_bytes: int
    """Static; what a launch asks for is not in the file."""
    occupancy: Occupancy | None
    loops: int
    main_loop: MainLoop | None
    weight_bits: float | None
    weights_per_trip: float | None
    """Weights that a lane multiplies in a trip through the main loop, each once, whatever m is."""
    weights_source: str | None
    """How ``weights_per_trip`` was found."""
    instructions_per_weight: float | None
    instructions_per_tensor: float | None
    """Other instructions of the main loop for each of its tensor instructions."""
    bytes_outstanding: int | None
    """Of global loads, on one multiprocessor: of a lane, times the lanes that occupancy allows."""
    emulated: tuple[Emulated, ...]
    unknown_opcodes: tuple[str, ...]
    reasons: tuple[str, ...]
    """Why figures are missing, a sentence each."""


class CubinRecord(Frozen):
    """The kernels of one file for one architecture. No machine is in it: nothing was run."""

    kind: Literal["cubin"] = "cubin"
    schema_version: int = CUBIN_SCHEMA_VERSION
    sllmbench_version: str
    file: str
    """Its name, without folders."""
    arch: str
    device: str
    compiler: str | None
    """The release of nvcc where the source was compiled here; None for a file that was built."""
    kernels: tuple[KernelCode, ...]
