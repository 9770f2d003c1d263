"""Compiles the kernels' own source with g++ against the host shim, as it is or edited."""

from __future__ import annotations

import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[3]
KERNELS = ROOT / "csrc" / "cuda"
SHIM = ROOT / "tests" / "cuda_host"
FLAGS = (
    *("-std=c++20", "-O2", "-g1", "-fPIC", "-mf16c", "-mfma"),
    # A kernel that wants a * b + c in one rounding says so; words are read as pairs of halves; two
    # libraries in a process share no statics.
    *("-ffp-contract=off", "-fno-strict-aliasing", "-fno-gnu-unique"),
    *("-Wall", "-Wextra", "-Wno-unknown-pragmas", "-DSLLMBENCH_CUDA_HOST"),
)
SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")


@dataclass(frozen=True)
class Edit:
    """One place in a kernel's source, which must be there once, and what to put in its stead."""

    file: str  # in csrc/cuda
    old: str
    new: str


@dataclass(frozen=True)
class Build:
    """A shared library and the objects that it was linked from."""

    library: Path
    objects: Path


def sources() -> list[Path]:
    """What makes up the library: every kernel, the probes of single instructions, the shim."""
    return sorted([*KERNELS.glob("*.cu"), *SHIM.glob("*.cu"), *SHIM.glob("*.cpp")])


def build(folder: Path, *flags: str) -> Build:
    """Compile and link everything; CalledProcessError where the compiler refuses."""
    folder.mkdir(parents=True, exist_ok=True)
    _compile(sources(), folder, ROOT / "csrc", flags)
    return _link(folder, sorted(folder.glob("*.o")), flags)


def build_edited(plain: Build, folder: Path, edit: Edit) -> Build:
    """The same library with one edit: what depends on the edited file is compiled anew."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copytree(KERNELS, folder / "csrc" / "cuda", dirs_exist_ok=True)
    edited = folder / "csrc" / "cuda" / edit.file
    text = edited.read_text()
    if text.count(edit.old) != 1:
        raise ValueError(f"{edit.file} has {text.count(edit.old)} times, not once: {edit.old}")
    edited.write_text(text.replace(edit.old, edit.new))
    changed = [s for s in KERNELS.glob("*.cu") if _depends(plain, s, edit.file)]
    if not changed:
        raise ValueError(f"no kernel includes {edit.file}")
    copies = [folder / "csrc" / "cuda" / source.name for source in changed]
    _compile(copies, folder, folder / "csrc", ())
    others = [o for o in plain.objects.glob("*.o") if not (folder / o.name).exists()]
    return _link(folder, sorted([*others, *folder.glob("*.o")]), ())


def _compile(files: list[Path], folder: Path, include: Path, flags: tuple[str, ...]) -> None:
    def compile_one(source: Path) -> None:
        target = folder / f"{source.name}.o"
        includes = [f"-I{include}", f"-I{SHIM}"]
        command = ["g++", *FLAGS, *flags, *includes, "-MMD", "-x", "c++", "-c", str(source)]
        subprocess.run([*command, "-o", str(target)], check=True)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(compile_one, files))


def _link(folder: Path, objects: list[Path], flags: tuple[str, ...]) -> Build:
    library = folder / "libkernels.so"
    command = ["g++", *flags, "-shared", *map(str, objects), "-o", str(library)]
    subprocess.run(command, check=True)
    return Build(library, folder)


def _depends(plain: Build, source: Path, file: str) -> bool:
    names = (plain.objects / f"{source.name}.d").read_text().split()
    return any(Path(name).parent == KERNELS and Path(name).name == file for name in names)
