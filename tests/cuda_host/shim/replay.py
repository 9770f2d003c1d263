"""Launches again what the shim has launched, on the PTX that nvcc makes of the same sources."""

from __future__ import annotations

import subprocess
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np

from shim.build import KERNELS, ROOT, SHIM
from sllmbench.cubin.ptx import Memory, Module, Trace, run

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from shim.library import Launch, Run
    from sllmbench.cubin.ptx.syntax import Entry


class Kernels:
    """The PTX of every kernel's file and of the probes, for one architecture."""

    def __init__(self, nvcc: str, arch: int, folder: Path) -> None:
        """Compile what ``folder`` lacks; CalledProcessError where nvcc refuses."""
        folder.mkdir(exist_ok=True)
        sources = sorted([*KERNELS.glob("*.cu"), *SHIM.glob("*.cu")])

        def compiled(source: Path) -> Module:
            target = folder / f"{source.stem}.ptx"
            flags = ["-std=c++20", f"-arch=sm_{arch}", f"-I{ROOT / 'csrc'}", "-ptx"]
            if not target.exists():
                subprocess.run([nvcc, *flags, str(source), "-o", str(target)], check=True)
            return Module.parse(target.read_text())

        with ThreadPoolExecutor(2) as pool:
            self._modules = list(pool.map(compiled, sources))
        self.launched = set[str]()

    @property
    def names(self) -> set[str]:
        """All kernels' mangled names."""
        return {name for module in self._modules for name in module.names}

    def has_launched(self, symbol: str) -> bool:
        """Whether that kernel has been."""
        return self._entry(symbol).name in self.launched

    def launch(self, launch: Launch, memory: Memory, trace: Trace | None = None) -> Trace:
        """One launch; KeyError where no module has the kernel, a PtxError where it does wrong."""
        entry = self._entry(launch.symbol)
        self.launched.add(entry.name)
        return run(entry, launch.grid, launch.block, launch.arguments, memory, trace)

    def _entry(self, symbol: str) -> Entry:
        for module in self._modules:
            try:
                return module.entry(symbol)
            except KeyError:
                continue
        raise KeyError(symbol)


def differences(
    done: Run, kernels: Kernels, canonical: Callable[[Any], Any] = np.asarray
) -> list[str]:
    """Where the PTX leaves other bits in memory than the shim did, in words.

    What kernels are to write holds nothing defined at first: to read of it before is a Fault.
    ``canonical`` makes of an array's bytes what is compared.
    """
    memory = memory_before(done)
    for launch in done.launches:
        kernels.launch(launch, memory)
    wrong = list[str]()
    for array in done.memory.arrays:
        if len(array.view):
            here, there = canonical(array.view), canonical(memory.read(array.address))
            if (places := np.flatnonzero(here != there)).size:
                wrong.append(f"{places.size} of {here.size} differ, the first at {places[0]}")
    return wrong


def memory_before(done: Run) -> Memory:
    """The interpreter's memory as the shim's was before the launches."""
    memory = Memory()
    for array in done.memory.arrays:
        given = np.frombuffer(array.before, np.uint8)
        if len(given):
            memory.register(
                array.address, given, writable=not array.read_only, defined=array.defined
            )
    return memory


def with_one_nan(data: Any) -> Any:
    """Halves with every NaN the same: which one comes out, PTX does not say of every operation."""
    halves = np.ascontiguousarray(data).view(np.uint16)
    return np.where(halves & 0x7FFF > 0x7C00, 0x7FFF, halves)
