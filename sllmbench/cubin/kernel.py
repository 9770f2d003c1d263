"""One kernel's machine code → its figures, each there or with the reason why not."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from sllmbench.cubin import access, classes, weights
from sllmbench.cubin.loops import Loop, find_loops, has_indirect_branches, main_loop
from sllmbench.cubin.names import short
from sllmbench.cubin.occupancy import occupancy
from sllmbench.record import KernelCode, MainLoop

if TYPE_CHECKING:
    from sllmbench.cubin.devices import Device
    from sllmbench.cubin.resources import Resources
    from sllmbench.cubin.sass import Function


class Kernel(NamedTuple):
    """What a file holds of a kernel."""

    function: Function
    demangled: str
    used: Resources


def kernel_code(
    kernel: Kernel, device: Device, threads: int | None, weights_per_trip: float | None
) -> KernelCode:
    """Count and work out a kernel's figures.

    Args:
        kernel: its machine code.
        device: the GPU that occupancy is for.
        threads: of a block; None: what ``__launch_bounds__`` allows.
        weights_per_trip: of a lane and a trip, for a kernel that is not ours.
    """
    function, demangled, used = kernel
    threads = threads or used.max_threads
    loops = find_loops(function)
    chosen = main_loop(loops)
    loop = None if chosen is None else _trip(chosen)
    known = _weights(demangled, loop, weights_per_trip)
    resident = None
    if threads is not None:
        resident = occupancy(device, threads, used.registers, used.shared_bytes)
    reasons = (
        "occupancy: no __launch_bounds__ in the source; give --threads"
        if threads is None
        else None,
        known.reason,
        "loops: an indirect branch may hide some" if has_indirect_branches(function) else None,
    )
    return KernelCode(
        name=short(demangled),
        mangled=function.name,
        registers=used.registers,
        local_loads=sum(i.name == "LDL" for i in function.instructions),
        local_stores=sum(i.name == "STL" for i in function.instructions),
        stack_bytes=used.stack_bytes,
        shared_bytes=used.shared_bytes,
        occupancy=resident,
        loops=len(loops),
        main_loop=loop,
        weight_bits=known.bits,
        weights_per_trip=known.per_trip,
        weights_source=known.source,
        instructions_per_weight=_per_weight(loop, known.per_trip),
        instructions_per_tensor=_per_tensor(loop),
        bytes_outstanding=None
        if loop is None or resident is None
        else loop.bytes_in_flight * resident.blocks * resident.threads,
        emulated=(),
        unknown_opcodes=classes.unknown_opcodes(function.instructions),
        reasons=tuple(reason for reason in reasons if reason is not None),
    )


def _trip(loop: Loop) -> MainLoop:
    trip = loop.instructions
    loads = [i for i in trip if access.is_global_load(i)]
    return MainLoop(
        first=trip[0].address,
        last=trip[-1].address,
        instructions=len(trip),
        classes=classes.by_class(trip),
        inner_loops=len(loop.inner),
        global_loads=access.widths(loads),
        read_once_loads=access.widths(i for i in loads if access.is_read_once(i)),
        shared_loads=access.widths(i for i in trip if i.name in ("LDS", "LDSM")),
        bytes_in_flight=access.bytes_in_flight(trip),
    )


def _weights(demangled: str, loop: MainLoop | None, given: float | None) -> weights.Weights:
    if loop is None:
        return weights.Weights(reason="instructions per weight: the kernel has no loop")
    return weights.of_kernel(demangled, loop, given)


def _per_weight(loop: MainLoop | None, per_trip: float | None) -> float | None:
    return None if loop is None or per_trip is None else loop.instructions / per_trip


def _per_tensor(loop: MainLoop | None) -> float | None:
    tensor = 0 if loop is None else loop.classes.get("tensor", 0)
    return None if loop is None or not tensor else (loop.instructions - tensor) / tensor
