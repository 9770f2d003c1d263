"""What an emulated launch's addresses show → the record of the kernel that was launched."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sllmbench.errors import InputError
from sllmbench.record import CubinRecord, Emulated

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sllmbench.cubin.ptx import Trace


def emulate(launch: str, trace: Trace) -> Emulated:
    """Sum a launch's memory accesses.

    Args:
        launch: its shape and grid, in words.
        trace: of the launch, with ``addresses``.

    Raises:
        InputError: the trace is of no launch, or was not asked to look at addresses.
    """
    if trace.entry is None or not trace.addresses:
        raise InputError(
            "a trace says nothing of memory unless it is Trace(addresses=True) of a run"
        )
    loads = [
        access
        for number, access in trace.accesses.items()
        if access.space == "global" and trace.entry.instructions[number].opcode == "ld"
    ]
    shared = [access for access in trace.accesses.values() if access.space == "shared"]
    requests = sum(access.requests for access in loads)
    return Emulated(
        launch=launch,
        sectors_per_request=sum(a.sectors for a in loads) / requests if requests else None,
        ideal_sectors_per_request=sum(a.least_sectors for a in loads) / requests
        if requests
        else None,
        bank_conflicts=sum(access.bank_conflicts for access in shared),
        shared_requests=sum(access.requests for access in shared),
    )


def joined(record: CubinRecord, launches: Mapping[str, Sequence[Emulated]]) -> CubinRecord:
    """The record with launches beside their kernels, which are named as they are mangled.

    Raises:
        InputError: a launch is of a kernel that the record does not have.
    """
    unknown = set(launches) - {kernel.mangled for kernel in record.kernels}
    if unknown:
        raise InputError(f"launched, but not in {record.file}: {', '.join(sorted(unknown))}")
    kernels = tuple(
        kernel.model_copy(
            update={"emulated": (*kernel.emulated, *launches.get(kernel.mangled, ()))}
        )
        for kernel in record.kernels
    )
    return record.model_copy(update={"kernels": kernels})
