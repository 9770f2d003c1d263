"""Two records of the same kernels → what got worse."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from pydantic import ValidationError

from sllmbench.errors import InputError
from sllmbench.record import CubinRecord

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sllmbench.record import KernelCode, MainLoop

_ROUNDING = 1e-9
_BUILD = re.compile(r"(?<=_GLOBAL__N__)[0-9a-f]{8}|(?<=_cu_)[0-9a-f]{8}")
"""What nvcc puts into the names of an anonymous namespace: it changes with path and build."""


def read(path: Path) -> CubinRecord:
    """A record that ``sllmbench cubin -o json`` wrote.

    Raises:
        InputError: the file cannot be read or holds something else.
    """
    try:
        return CubinRecord.model_validate_json(path.read_bytes())
    except OSError as error:
        raise InputError(f"--baseline {path}: {error.strerror}") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the whole"
        raise InputError(
            f"--baseline {path}: no report of `sllmbench cubin -o json` of this version:"
            f" {where}: {first['msg']}"
        ) from None


def worse(now: CubinRecord, before: CubinRecord) -> list[str]:
    """What got worse, a line each, with the kernel's name.

    A kernel that is gone counts: a baseline that fits nothing any more would pass for ever.

    Raises:
        InputError: the records are of different architectures or devices.
    """
    if (now.arch, now.device) != (before.arch, before.device):
        raise InputError(
            f"--baseline is of {before.arch} on {before.device}, this is {now.arch} on {now.device}"
        )
    kernels = {_identity(kernel): kernel for kernel in now.kernels}
    lines = []
    for old in before.kernels:
        new = kernels.get(_identity(old))
        if new is None:
            lines.append(f"{old.name}: is gone")
        else:
            lines += [f"{old.name}: {what}" for what in _changes(new, old)]
    return lines


def added(now: CubinRecord, before: CubinRecord) -> list[str]:
    """Names of kernels that the baseline does not know, so that nothing of them was compared."""
    known = {_identity(kernel) for kernel in before.kernels}
    return [kernel.name for kernel in now.kernels if _identity(kernel) not in known]


def _identity(kernel: KernelCode) -> str:
    return _BUILD.sub("", kernel.mangled)


def _changes(new: KernelCode, old: KernelCode) -> Iterator[str]:
    yield from _more(
        "instructions a weight", new.instructions_per_weight, old.instructions_per_weight
    )
    yield from _more(
        "other instructions a tensor instruction",
        new.instructions_per_tensor,
        old.instructions_per_tensor,
    )
    yield from _more(
        "spills (local loads and stores)",
        new.local_loads + new.local_stores,
        old.local_loads + old.local_stores,
    )
    if new.occupancy is not None and old.occupancy is not None:
        if new.occupancy.blocks < old.occupancy.blocks:
            yield (
                f"{new.occupancy.blocks} blocks on a multiprocessor, not {old.occupancy.blocks}"
                f" ({new.registers} registers, were {old.registers};"
                f" {new.shared_bytes} bytes shared, were {old.shared_bytes})"
            )
    elif old.occupancy is not None:
        yield "occupancy is not known any more"
    if new.main_loop is not None and old.main_loop is not None:
        for what, are, were in _widths(new.main_loop, old.main_loop):
            if are is not None and were is not None and are < were - _ROUNDING:
                yield f"{what} are narrower: {are:.3g} bytes each, not {were:.3g}"
    elif old.main_loop is not None:
        yield "the main loop is not known any more"
    yield from _more("sectors a request", _sectors(new), _sectors(old))
    yield from _more("bank conflicts a request", _conflicts(new), _conflicts(old))


def _more(what: str, new: float | None, old: float | None) -> Iterator[str]:
    if old is None:
        return
    if new is None:
        yield f"{what} is not known any more"
    elif new > old + _ROUNDING:
        yield f"{new:.4g} {what}, not {old:.4g}"


def _widths(new: MainLoop, old: MainLoop) -> Iterator[tuple[str, float | None, float | None]]:
    yield "global loads", _mean_bytes(new.global_loads), _mean_bytes(old.global_loads)
    yield "weight loads", _mean_bytes(new.read_once_loads), _mean_bytes(old.read_once_loads)


def _mean_bytes(widths: dict[str, int]) -> float | None:
    count = sum(widths.values())
    return sum(int(bits) * n for bits, n in widths.items()) / 8 / count if count else None


def _sectors(kernel: KernelCode) -> float | None:
    known = [e.sectors_per_request for e in kernel.emulated if e.sectors_per_request is not None]
    return max(known, default=None)


def _conflicts(kernel: KernelCode) -> float | None:
    launches = [e for e in kernel.emulated if e.shared_requests]
    return max((e.bank_conflicts / e.shared_requests for e in launches), default=None)
