"""What a file's machine code says, as tables, markdown, JSON and CSV. Reads the record only."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING

from sllmbench.report.columns import MISSING, Column, number
from sllmbench.report.grids import csv_rows, markdown_grid, markdown_notes, notes_grid, text_grid

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rich.console import RenderableType

    from sllmbench.record import CubinRecord, KernelCode, MainLoop

_NAME_WIDTH = 40
_PIPES = (
    ("tensor", ("tensor",)),
    ("half", ("half",)),
    ("float", ("float", "double", "special")),
    ("mul", ("multiply", "dot")),
    ("int", ("integer", "logic")),
    ("move", ("move", "conversion")),
    ("mem", ("global", "shared", "local", "constant")),
    ("ctl", ("control", "uniform", "other")),
)
"""Columns of the main loop's mix and the classes that they sum."""
_MEANINGS = (
    ("inst", "instructions of a trip through the main loop; one behind a branch counts fully"),
    ("inst/w", "those for each weight that a lane multiplies, however many rows x has"),
    ("inst/tc", "those that are none of tensor cores, for each one that is"),
    ("loads", "from global memory, by the bits that a lane gets"),
    ("KiB/SM", "those under way at once: of a lane, times the lanes that fit; w: of weights alone"),
)


def text(record: CubinRecord, width: int) -> RenderableType:
    """Three tables and their notes for a terminal of ``width`` columns."""
    from rich.console import Group

    parts: list[RenderableType] = [_title(record), ""]
    for columns in _tables(record.kernels, _NAME_WIDTH):
        parts += [text_grid(columns, width), ""]
    return Group(*parts, notes_grid(_notes(record)))


def markdown(record: CubinRecord) -> str:
    """Render the same tables and notes in GitHub's markdown, names in full."""
    lines = [_title(record), ""]
    for columns in _tables(record.kernels, None):
        lines += [*markdown_grid(columns), ""]
    return "\n".join([*lines, *markdown_notes(_notes(record))]) + "\n"


def json(record: CubinRecord) -> str:
    """Render the record, which ``--baseline`` reads."""
    return record.model_dump_json(indent=2) + "\n"


def csv(record: CubinRecord) -> str:
    """One kernel a row; what is not a plain value is JSON in its cell."""
    whole = {"file": record.file, "arch": record.arch, "device": record.device}
    return csv_rows([whole | kernel.model_dump(mode="json") for kernel in record.kernels])


def _title(record: CubinRecord) -> str:
    built = "" if record.compiler is None else f" by nvcc {record.compiler}"
    return f"{record.file}: {record.arch}{built}, occupancy on {record.device}"


def _tables(kernels: Sequence[KernelCode], longest: int | None) -> list[list[Column]]:
    """Resources of all kernels, the loops of those that have one, addresses of the emulated."""
    looping = [kernel for kernel in kernels if kernel.main_loop is not None]
    emulated = [kernel for kernel in kernels if kernel.emulated]
    tables = [
        (kernels, _resources(kernels)),
        (looping, _loop(looping)),
        (looping, _mix(looping)),
        (emulated, _emulated(emulated)),
    ]
    return [
        [Column("kernel", tuple(_cut(k.name, longest) for k in rows), 0), *_not_empty(columns)]
        for rows, columns in tables
        if rows
    ]


def _not_empty(columns: Sequence[Column]) -> list[Column]:
    return [column for column in columns if any(cell != MISSING for cell in column.cells)]


def _cut(name: str, longest: int | None) -> str:
    if longest is None or len(name) <= longest:
        return name
    kept = longest - 1
    return f"{name[: kept // 2]}…{name[-(kept - kept // 2) :]}"


def _resources(kernels: Sequence[KernelCode]) -> list[Column]:
    return [
        _column("regs", kernels, 1, lambda k: str(k.registers)),
        _column("spills", kernels, 3, lambda k: str(k.local_loads + k.local_stores)),
        _column("shared B", kernels, 4, lambda k: str(k.shared_bytes)),
        _column(
            "threads",
            kernels,
            5,
            lambda k: None if k.occupancy is None else str(k.occupancy.threads),
        ),
        _column(
            "occ",
            kernels,
            2,
            lambda k: None if k.occupancy is None else f"{k.occupancy.fraction:.0%}",
        ),
        _column("limit", kernels, 6, _limit),
    ]


def _limit(kernel: KernelCode) -> str | None:
    return None if kernel.occupancy is None else ", ".join(kernel.occupancy.limited_by)


def _loop(kernels: Sequence[KernelCode]) -> list[Column]:
    return [
        _in_loop("inst", kernels, 5, lambda loop: str(loop.instructions)),
        _column("inst/w", kernels, 1, lambda k: _number(k.instructions_per_weight)),
        _column("inst/tc", kernels, 2, lambda k: _number(k.instructions_per_tensor)),
        _in_loop("loads", kernels, 4, lambda loop: _widths(loop.global_loads)),
        _column("KiB/SM", kernels, 6, lambda k: _kib(k.bytes_outstanding)),
        _column("w KiB/SM", kernels, 3, lambda k: _kib(k.weight_bytes_outstanding)),
    ]


def _mix(kernels: Sequence[KernelCode]) -> list[Column]:
    return [
        _in_loop(title, kernels, rank, _share(classes))
        for rank, (title, classes) in enumerate(_PIPES, 1)
    ]


def _share(classes: Sequence[str]) -> Callable[[MainLoop], str]:
    return lambda loop: str(sum(loop.classes.get(name, 0) for name in classes))


def _emulated(kernels: Sequence[KernelCode]) -> list[Column]:
    return [
        _column(
            "sectors/request (ideal)",
            kernels,
            1,
            lambda k: (
                "; ".join(
                    f"{number(e.sectors_per_request)} ({number(e.ideal_sectors_per_request)})"
                    for e in k.emulated
                    if e.sectors_per_request is not None and e.ideal_sectors_per_request is not None
                )
                or None
            ),
        ),
        _column(
            "bank conflicts",
            kernels,
            2,
            lambda k: (
                "; ".join(f"{e.bank_conflicts}/{e.shared_requests}" for e in k.emulated) or None
            ),
        ),
    ]


def _column(
    title: str, kernels: Sequence[KernelCode], rank: int, cell: Callable[[KernelCode], str | None]
) -> Column:
    return Column(title, tuple(MISSING if (c := cell(k)) is None else c for k in kernels), rank)


def _in_loop(
    title: str, kernels: Sequence[KernelCode], rank: int, cell: Callable[[MainLoop], str | None]
) -> Column:
    return _column(
        title, kernels, rank, lambda k: None if k.main_loop is None else cell(k.main_loop)
    )


def _number(value: float | None) -> str | None:
    return None if value is None else number(value)


def _kib(value: int | None) -> str | None:
    return None if value is None else number(value / 1024)


def _widths(counts: dict[str, int]) -> str | None:
    return " ".join(f"{count}×{bits}" for bits, count in counts.items()) or None


def _notes(record: CubinRecord) -> list[tuple[str, str]]:
    looping = any(kernel.main_loop is not None for kernel in record.kernels)
    notes = list(_MEANINGS) if looping else []
    reasons = dict.fromkeys(chain.from_iterable(k.reasons for k in record.kernels))
    for reason in reasons:
        named = [k.name for k in record.kernels if reason in k.reasons]
        of = "" if len(named) == len(record.kernels) else f" ({_some(named)})"
        notes.append((MISSING, reason + of))
    nested = [k.name for k in record.kernels if k.main_loop is not None and k.main_loop.inner_loops]
    if nested:
        notes.append(("inst", f"a loop inside counts once ({_some(nested)})"))
    unknown = sorted(set(chain.from_iterable(k.unknown_opcodes for k in record.kernels)))
    if unknown:
        notes.append(("ctl", f"holds what no class is known of: {', '.join(unknown)}"))
    return sorted(notes, key=lambda note: note[0] == MISSING)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
