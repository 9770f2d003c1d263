"""How many blocks of a kernel a multiprocessor holds at once, and what keeps it from more."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sllmbench.cubin import devices
from sllmbench.errors import InputError
from sllmbench.record import Occupancy

if TYPE_CHECKING:
    from sllmbench.cubin.devices import Device


def occupancy(device: Device, threads: int, registers: int, static_shared_bytes: int) -> Occupancy:
    """Blocks and warps of a kernel on one multiprocessor.

    Args:
        device: the GPU.
        threads: of a block.
        registers: of a thread.
        static_shared_bytes: of a block; shared memory asked for at the launch is not known here.

    Raises:
        InputError: ``threads`` is no size of a block.
    """
    if not 1 <= threads <= devices.MAX_THREADS_PER_BLOCK:
        raise InputError(f"a block has 1 to {devices.MAX_THREADS_PER_BLOCK} threads, not {threads}")
    can = device.capability
    warps = -(-threads // devices.WARP)
    limits = {
        "warps": can.warps // warps,
        "blocks": can.blocks,
        "registers": _by_registers(warps, registers),
        "shared memory": _by_shared_memory(device, static_shared_bytes),
    }
    blocks = min(limits.values())
    return Occupancy(
        threads=threads,
        blocks=blocks,
        warps=blocks * warps,
        max_warps=can.warps,
        limits=limits,
        limited_by=tuple(what for what, most in limits.items() if most == blocks),
    )


def _by_registers(warps: int, registers: int) -> int:
    """A warp's registers lie in one partition, in whole units; a block spreads over all."""
    of_warp = _round_up(registers * devices.WARP, devices.REGISTER_UNIT)
    # The device refuses a launch as if every partition held as many warps as the fullest.
    if of_warp * _round_up(warps, devices.PARTITIONS) > devices.REGISTERS:
        return 0
    in_partition = devices.REGISTERS // devices.PARTITIONS // of_warp
    return in_partition * devices.PARTITIONS // warps


def _by_shared_memory(device: Device, static_bytes: int) -> int:
    can = device.capability
    of_block = _round_up(static_bytes + can.reserved_bytes, can.shared_unit_bytes)
    return can.shared_bytes // of_block if of_block else can.blocks


def _round_up(value: int, unit: int) -> int:
    return -(-value // unit) * unit
