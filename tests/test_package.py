"""The package's front door: public names, and how fast it opens."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import sllmbench

if TYPE_CHECKING:
    from pathlib import Path


def test_every_public_name_is_there() -> None:
    for name in sllmbench.__all__:
        value = getattr(sllmbench, name)
        assert callable(value), name


def test_the_version_is_the_distributions() -> None:
    from importlib.metadata import version

    assert sllmbench.__version__ == version("sllmbench")


def test_importing_leaves_torch_and_transformers_alone(tmp_path: Path) -> None:
    code = (
        "import sys, sllmbench, sllmbench.cli; "
        "print([m for m in ('torch', 'transformers', 'scipy') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
