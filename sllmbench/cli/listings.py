"""What ``machine``, ``models`` and ``paths`` show on a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rich.console import RenderableType

    from sllmbench.checkpoints import BuiltinModel
    from sllmbench.hardware import Machine
    from sllmbench.hardware.load import Load


def machine_listing(machine: Machine) -> RenderableType:
    """Facts with a label each, then the measured roofs, then the energy sensors."""
    active = next((isa.name for isa in machine.isas if isa.active), "none")
    cores, memory = machine.cores, machine.memory
    facts = [
        ("CPU", machine.cpu_model + (", in a virtual machine" if machine.virtual else "")),
        (
            "cores",
            f"{cores.physical or 'unknown'} physical, {cores.logical} logical,"
            f" {cores.usable} usable",
        ),
        (
            "caches",
            ", ".join(
                f"L{cache.level} {cache.kind} {cache.instances} × {_binary(cache.bytes)}"
                for cache in machine.caches
            )
            or f"unknown: {machine.caches_reason}",
        ),
        (
            "memory",
            f"{_binary(memory.total_bytes)}, {_binary(memory.available_bytes)} available"
            + (f" ({memory.reason})" if memory.reason else ""),
        ),
        ("system", machine.os),
        (
            "kernels",
            f"{active} is used"
            + "".join(
                f"; {isa.name}: {'can run' if isa.supported else isa.reason}"
                for isa in machine.isas
                if not isa.active
            ),
        ),
        (
            "GPU",
            ", ".join(f"{gpu.name} {_binary(gpu.memory_bytes)}" for gpu in machine.gpus)
            or f"none: {machine.gpu_reason}",
        ),
        ("load", _load(machine.load)),
        ("libraries", ", ".join(f"{name} {v}" for name, v in machine.libraries.items())),
    ]
    sensors = [
        (
            sensor.name,
            "available"
            if sensor.available
            else f"{sensor.reason}" + (f"; {sensor.remedy}" if sensor.remedy else ""),
        )
        for sensor in machine.energy_sensors
    ]
    parts: list[RenderableType] = [_labelled(facts), ""]
    if machine.read_bandwidth:
        parts += [_bandwidths(machine), ""]
    if machine.peak_rates:
        parts += [_rates(machine), ""]
    if machine.roofs_reason:
        parts += [Text(f"Bandwidths and rates: {machine.roofs_reason}"), ""]
    return Group(*parts, Text("Energy sensors", style="bold"), _labelled(sensors))


def models_listing(models: Sequence[BuiltinModel]) -> RenderableType:
    """Every model, and what else can be given in its place."""
    table = _table(("model", "parameters", "licence", "here"), numbers={1})
    for model in models:
        if model.cached is None:
            here = "made here"
        else:
            here = "yes" if model.cached else f"downloads {model.download_bytes / 1e6:.0f} MB"
        size = f"{model.parameters / 1e6:.0f} M"
        table.add_row(model.name, size, model.licence or "–", here)
    notes = [f"{model.name}: {model.summary}" for model in models if model.cached is not None]
    others = "A Hugging Face id, a folder with safetensors or a .gguf file can be given too."
    return Group(table, "", *(Text(note) for note in notes), Text(others))


def paths_listing(rows: Iterable[tuple[str, str, str | None]]) -> RenderableType:
    """Every path's name, summary and why it cannot run here, if it cannot."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(ratio=1)
    for name, summary, reason in rows:
        table.add_row(
            Text(name, style="bold"),
            Text(summary + (f" (cannot run here: {reason})" if reason else "")),
        )
    return table


def _labelled(rows: Iterable[tuple[str, str]]) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(ratio=1)
    for label, text in rows:
        table.add_row(Text(label, style="bold"), Text(text))
    return table


def _table(titles: Sequence[str], numbers: set[int]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for index, title in enumerate(titles):
        table.add_column(title, justify="right" if index in numbers else "left", no_wrap=True)
    return table


def _bandwidths(machine: Machine) -> Table:
    table = _table(("read bandwidth", "working set", "threads", "GB/s"), numbers={1, 2, 3})
    for band in machine.read_bandwidth:
        size = _binary(band.working_set_bytes)
        table.add_row(band.level, size, str(band.threads), f"{band.best_gbs:.1f}")
    return table


def _rates(machine: Machine) -> Table:
    table = _table(("peak rate", "ISA", "threads", "GOP/s"), numbers={2, 3})
    for rate in machine.peak_rates:
        table.add_row(rate.kind, rate.isa, str(rate.threads), f"{rate.best_gops:.1f}")
    return table


def _load(load: Load) -> str:
    parts = []
    if load.busy_percent is not None:
        parts.append(f"{load.busy_percent:.0f}% busy")
    if load.steal_percent is not None:
        parts.append(f"{load.steal_percent:.1f}% stolen by the host")
    if load.load_average is not None:
        parts.append(f"load average {load.load_average[0]:.2f}")
    if load.reason:
        parts.append(load.reason)
    parts += [f"{p.name} ({p.pid}) takes {p.cpu_percent:.0f}%" for p in load.processes]
    return ", ".join(parts)


def _binary(size: int | None) -> str:
    if size is None:
        return "unknown"
    value, unit = float(size), "B"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):  # noqa: B007  (the last one tried is wanted)
        if value < 1024:
            break
        value /= 1024
    return f"{value:.4g} {unit}"
