"""NVIDIA's compiler and disassembler: where they are, and what they say of a file."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sllmbench.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

_DISASSEMBLER = "pip install 'sllmbench[cubin]', or put the CUDA toolkit's bin folder into PATH"
_REMEDIES = {
    "nvcc": "install the CUDA toolkit, or put its bin folder into PATH",
    "cuobjdump": _DISASSEMBLER,
    "nvdisasm": _DISASSEMBLER,
}
_NO_CODE = "does not contain device code"


@dataclass(frozen=True)
class Dump:
    """What cuobjdump prints of one architecture's machine code in a file."""

    arch: str
    sass: str
    resources: str
    elf: str


def find(tool: str) -> Path:
    """Where a tool is: in PATH, else in the folder where NVIDIA's PyPI packages put it.

    Raises:
        InputError: nowhere.
    """
    found = shutil.which(tool)
    if found is not None:
        return Path(found)
    packages = Path(sysconfig.get_path("purelib"), "nvidia")
    for candidate in sorted(packages.glob(f"*/bin/{tool}"), reverse=True):
        if os.access(candidate, os.X_OK):
            return candidate
    raise InputError(f"{tool} is not here: {_REMEDIES[tool]}")


def compiler_version() -> str:
    """The release of nvcc, as ``13.0``.

    Raises:
        InputError: there is none, or it does not say.
    """
    said = _run([str(find("nvcc")), "--version"])
    release = re.search(r"release (\S+),", said)
    if release is None:
        raise InputError("nvcc --version names no release: is it NVIDIA's?")
    return release.group(1)


def compile_source(
    source: Path, cubin: Path, arch: str, includes: Sequence[Path], options: Sequence[str] = ()
) -> None:
    """Make a cubin of a .cu file.

    Raises:
        InputError: nvcc is missing or refuses the file.
    """
    command = [str(find("nvcc")), "-std=c++20", f"-arch={arch}", "-cubin", "-o", str(cubin)]
    command += [f"-I{folder}" for folder in includes]
    _run([*command, *options, str(source)])


def architectures(file: Path) -> tuple[str, ...]:
    """The architectures that a cubin, an object or a library holds machine code for; may be none.

    Raises:
        InputError: cuobjdump is missing or cannot read the file.
    """
    ended = _cuobjdump("-lelf", file)
    listed = re.findall(r"\.(sm_\d+[a-z]?)\.cubin", ended.stdout)
    # A file may hold architectures that this cuobjdump is too new for, behind those it lists.
    if not listed and _NO_CODE not in ended.stdout + ended.stderr:
        _said(ended)
    return tuple(sorted(set(listed), key=lambda arch: int(re.sub(r"\D", "", arch))))


def dump(file: Path, arch: str) -> Dump:
    """Disassemble a file's machine code for one architecture.

    Raises:
        InputError: a tool is missing or cannot read the file.
    """
    sass, resources, elf = (
        _said(_cuobjdump(option, file, arch)) for option in ("-sass", "-res-usage", "-elf")
    )
    return Dump(arch, sass, resources, elf)


def _cuobjdump(
    option: str, file: Path, arch: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Run cuobjdump, which itself runs nvdisasm."""
    only = [] if arch is None else ["-arch", arch]
    command = [str(find("cuobjdump")), option, *only, str(file)]
    return _ended(command, NVDISASM_PATH=str(find("nvdisasm").parent))


def _run(command: Sequence[str]) -> str:
    return _said(_ended(command))


def _ended(command: Sequence[str], **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        env={**os.environ, **environ},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )


def _said(ended: subprocess.CompletedProcess[str]) -> str:
    if ended.returncode != 0:
        said = [line for line in (ended.stderr + ended.stdout).splitlines() if line.strip()]
        wrong = next((s for s in said if re.search("error|fatal", s)), said[0] if said else "")
        tool = Path(ended.args[0]).name
        raise InputError(f"{tool} failed (code {ended.returncode}): {wrong}")
    return ended.stdout
