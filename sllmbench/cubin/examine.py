"""A file with kernels → a record of what its machine code says."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from importlib import metadata
from pathlib import Path

from sllmbench.cubin import names, resources, sass, tools
from sllmbench.cubin.devices import Device, capability_number, device_of, runs
from sllmbench.cubin.kernel import Kernel, kernel_code
from sllmbench.errors import InputError
from sllmbench.record import CubinRecord, KernelCode


@dataclass(frozen=True)
class Question:
    """What is asked of a file."""

    device: str = "t4"
    kernel: str = "*"
    """A glob of names, with template arguments."""
    arch: str | None = None
    """Of the machine code; None: the device's own, or the file's best that runs on it."""
    includes: tuple[Path, ...] = field(default=())
    """Where nvcc looks for headers of a .cu file."""
    threads: int | None = None
    """Of a block; None: the kernel's ``__launch_bounds__``."""
    weights_per_trip: float | None = None
    """Of a lane and a trip of the main loop, for kernels that are not ours."""


def examine(file: Path | None, question: Question) -> CubinRecord:
    """Disassemble a .cubin, .o, .so or .cu, or this package's own extension, and count.

    Raises:
        InputError: the file cannot be read or compiled, has no machine code that runs on the
            device, or no kernel of that name; a tool is missing.
    """
    device = device_of(question.device)
    path = _own_extension() if file is None else file
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    compiler = None
    if path.suffix == ".cu":
        compiler = tools.compiler_version()
        arch = question.arch or f"sm_{device.capability.sm}"
        _check_runs(arch, device)
        with tempfile.TemporaryDirectory() as folder:
            cubin = Path(folder, path.stem + ".cubin")
            tools.compile_source(path, cubin, arch, question.includes)
            dump = tools.dump(cubin, arch)
    else:
        dump = tools.dump(path, _chosen_architecture(path, device, question.arch))
    return CubinRecord(
        sllmbench_version=metadata.version("sllmbench"),
        file=path.name,
        arch=dump.arch,
        device=device.name,
        compiler=compiler,
        kernels=read(dump, device, question),
    )


def read(dump: tools.Dump, device: Device, question: Question) -> tuple[KernelCode, ...]:
    """The kernels of a disassembled file that are asked for, by name.

    Raises:
        InputError: there is none.
    """
    functions, used = sass.parse(dump.sass), resources.parse(dump)
    kernels = {name: names.demangle(name) for name in used if name in functions}
    wanted = {
        mangled: name
        for mangled, name in kernels.items()
        if fnmatchcase(names.short(name), question.kernel)
    }
    if not wanted:
        there = ", ".join(sorted(map(names.short, kernels.values()))) or "none"
        raise InputError(f"no kernel matches {question.kernel!r}; there is {there}")
    found = [
        kernel_code(
            Kernel(functions[mangled], name, used[mangled]),
            device,
            question.threads,
            question.weights_per_trip,
        )
        for mangled, name in wanted.items()
    ]
    return tuple(sorted(found, key=lambda kernel: (kernel.name, kernel.mangled)))


def _own_extension() -> Path:
    from sllmbench import _native

    path = Path(_native.__file__)
    if not tools.architectures(path):
        raise InputError(
            "this installation has no CUDA kernels: name a FILE, or install sllmbench where nvcc is"
            " (SLLMBENCH_CUDA=ON)"
        )
    return path


def _chosen_architecture(path: Path, device: Device, wanted: str | None) -> str:
    """The architecture that is asked for, or what a driver would take: the latest that runs."""
    there = tools.architectures(path)
    if not there:
        raise InputError(f"{path}: no machine code for a GPU in it")
    if wanted is not None:
        if wanted not in there:
            raise InputError(f"{path}: no machine code for {wanted}; there is {', '.join(there)}")
        _check_runs(wanted, device)
        return wanted
    fitting = [arch for arch in there if runs(arch, device)]
    if not fitting:
        raise InputError(
            f"{path}: its machine code, for {', '.join(there)}, does not run on {device.title}"
            f" (sm_{device.capability.sm}); choose another --device"
        )
    return max(fitting, key=lambda arch: (capability_number(arch), arch))


def _check_runs(arch: str, device: Device) -> None:
    if not runs(arch, device):
        raise InputError(
            f"machine code for {arch} does not run on {device.title} (sm_{device.capability.sm});"
            " choose another --device"
        )
