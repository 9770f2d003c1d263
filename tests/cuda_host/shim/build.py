"""Compiles the kernels' own source with g++ against the host shim, as it is or edited."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[3]
KERNELS = ROOT / "csrc" / "cuda"
LAUNCHERS = (KERNELS / "decode.cpp", KERNELS / "prefill.cpp")
SHIM = ROOT / "tests" / "cuda_host"
FLAGS = (
    *("-std=c++20", "-O2", "-g1", "-fPIC", "-mf16c", "-mfma"),
    # A kernel that wants a * b + c in one rounding says so; words are read as pairs of halves; two
    # libraries in a process share no statics.
    *("-ffp-contract=off", "-fno-strict-aliasing", "-fno-gnu-unique"),
    *("-Wall", "-Wextra", "-Wno-unknown-pragmas", "-DSLLMBENCH_CUDA_HOST"),
)
LIBRARY = "libkernels.so"
SANITIZERS = ("-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")


@dataclass(frozen=True)
class Edit:
    """One place in the sources of a kernel, which must be there once, and what to put there."""

    kernel: str  # its file, without .cu
    file: str  # in csrc/cuda: the same, or one that it includes or calls
    old: str
    new: str


@dataclass(frozen=True)
class Build:
    """A shared library and the objects that it was linked from."""

    library: Path
    objects: Path
    sanitized: bool


def sources() -> list[Path]:
    """What the library is made of: kernels, what launches them, single instructions, the shim."""
    return sorted([*KERNELS.glob("*.cu"), *LAUNCHERS, *SHIM.glob("*.cu"), *SHIM.glob("*.cpp")])


def missing() -> str | None:
    """Why this machine cannot build or run the library, or None."""
    if shutil.which("g++") is None:
        return "no g++"
    if platform.machine() != "x86_64":
        return "the host shim is for x86-64"
    lacking = {"f16c", "fma", "avx2"} - set(Path("/proc/cpuinfo").read_text().split())
    return f"the CPU has no {', '.join(sorted(lacking))}" if lacking else None


def build(folder: Path, *flags: str) -> Build:
    """Compile and link everything, with SANITIZERS or without; once a folder.

    Raises:
        CalledProcessError: g++ refuses.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / LIBRARY).exists():
        _compile(sources(), folder, ROOT / "csrc", flags)
        _link(folder, sorted(folder.glob("*.o")), flags)
    return Build(folder / LIBRARY, folder, sanitized=bool(flags))


def build_edited(whole: Build, folder: Path, edit: Edit, *flags: str) -> Build:
    """The same library with one edit: the kernel's file is compiled anew, or the edited one."""
    copy = folder / "csrc" / "cuda"
    shutil.copytree(KERNELS, copy, dirs_exist_ok=True)
    text = (copy / edit.file).read_text()
    if text.count(edit.old) != 1:
        raise ValueError(f"{edit.file} has {text.count(edit.old)} times, not once: {edit.old}")
    (copy / edit.file).write_text(text.replace(edit.old, edit.new))
    source = copy / (edit.file if edit.file.endswith((".cu", ".cpp")) else f"{edit.kernel}.cu")
    _compile([source], folder, folder / "csrc", flags)
    edited = folder / f"{source.name}.o"
    others = [o for o in whole.objects.glob("*.o") if o.name != edited.name]
    # The edited one first: of functions that are in several objects the linker takes the first.
    _link(folder, [edited, *sorted(others)], flags)
    return Build(folder / LIBRARY, folder, sanitized=bool(flags))


def _compile(files: list[Path], folder: Path, include: Path, flags: tuple[str, ...]) -> None:
    def compile_one(source: Path) -> None:
        target = folder / f"{source.name}.o"
        includes = [f"-I{include}", f"-I{SHIM}"]
        command = ["g++", *FLAGS, *flags, *includes, "-x", "c++", "-c", str(source)]
        subprocess.run([*command, "-o", str(target)], check=True)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(compile_one, files))


def _link(folder: Path, objects: list[Path], flags: tuple[str, ...]) -> None:
    command = ["g++", *flags, "-shared", *map(str, objects), "-o", str(folder / LIBRARY)]
    subprocess.run(command, check=True)
