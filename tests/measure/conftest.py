"""Machines laid out as files, fresh pages, and the loss of root's right to read everything."""

from __future__ import annotations

import mmap
import os
import re
import tempfile
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sllmbench.hardware.roots import Roots

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sllmbench.measure.energy import EnergyWindow

_NOBODY = 65534


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Models this small are only slowed by a second thread, on a busy machine by far."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def roots() -> Iterator[Roots]:
    """Empty folders for /proc and /sys, which any user may enter."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        made = Roots(folder / "proc", folder / "sys")
        (made.proc / "self").mkdir(parents=True)
        made.sys.mkdir()
        yield made


@pytest.fixture
def write() -> Callable[[Path, str], Path]:
    """A writer of a file in folders that need not exist yet."""

    def write(file: Path, text: str) -> Path:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return file

    return write


@pytest.fixture
def add_zone(roots: Roots, write: Callable[[Path, str], Path]) -> Callable[..., Path]:
    """A writer of one powercap zone; it returns the zone's counter."""

    def add_zone(zone: str, name: str, energy_uj: int, range_uj: int = 262_143_328_850) -> Path:
        folder = roots.sys / "class/powercap" / zone
        write(folder / "name", f"{name}\n")
        write(folder / "max_energy_range_uj", f"{range_uj}\n")
        return write(folder / "energy_uj", f"{energy_uj}\n")

    return add_zone


@pytest.fixture
def assert_refused() -> Callable[[EnergyWindow, str], None]:
    """A check that a window holds no figure, and why."""

    def assert_refused(window: EnergyWindow, pattern: str) -> None:
        assert window.energy_j is window.above_idle_j is window.uncertainty_j is None
        assert window.source is None
        assert window.domains_j == {}
        assert window.reason is not None
        assert re.search(pattern, window.reason), window.reason

    return assert_refused


@pytest.fixture
def unprivileged() -> Callable[[], AbstractContextManager[None]]:
    """A span in which file permissions hold, for tests that run as root."""

    @contextmanager
    def unprivileged() -> Iterator[None]:
        user = os.geteuid()
        if user == 0:
            os.seteuid(_NOBODY)
        try:
            yield
        finally:
            os.seteuid(user)

    return unprivileged


@pytest.fixture
def touch_fresh_pages() -> Callable[[int], None]:
    """Make bytes resident and give them back: malloc might hand out pages it still holds."""

    def touch(size_bytes: int) -> None:
        with mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as pages:
            for page in range(0, size_bytes, mmap.PAGESIZE):
                pages[page] = 1

    return touch
