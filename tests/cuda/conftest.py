"""The kernels of ``csrc/cuda`` as g++ compiles them against the host shim."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "cuda_host"))

if TYPE_CHECKING:
    from shim.build import Build
    from shim.library import Library


@pytest.fixture(scope="session")
def plain_build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """The kernels as they are, compiled once a session."""
    from shim.build import build

    return build(tmp_path_factory.mktemp("kernels"))


@pytest.fixture(scope="session")
def library(plain_build: Build) -> Library:
    """The same, loaded into this process: for what no kernel should end."""
    from shim.library import Library

    return Library(plain_build.library)
