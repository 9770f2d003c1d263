"""Machine code that nvcc made once of kernels.cu, and the tools where they are."""

from __future__ import annotations

from pathlib import Path

import pytest

from sllmbench.cubin import tools
from sllmbench.errors import InputError

KERNELS = Path(__file__).with_name("kernels.cu")
HEADERS = Path(__file__).parents[2] / "csrc"
STORED = Path(__file__).parents[1] / "data" / "cubin"


@pytest.fixture(scope="session")
def stored() -> tools.Dump:
    """What cuobjdump 13.5 said of kernels.cu compiled by nvcc 13.0 for sm_75, its notes only."""
    texts = [
        (STORED / f"kernels.{kind}").read_text(encoding="utf-8")
        for kind in ("sass", "resources", "elf")
    ]
    return tools.Dump("sm_75", *texts)


@pytest.fixture(scope="session")
def disassembler() -> None:
    """Skips where NVIDIA's disassembler is not."""
    for tool in ("cuobjdump", "nvdisasm"):
        _need(tool)


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory, disassembler: None) -> Path:
    """kernels.cu as a cubin, made here and now."""
    _need("nvcc")
    cubin = tmp_path_factory.mktemp("cubin") / "kernels.cubin"
    tools.compile_source(KERNELS, cubin, "sm_75", [HEADERS])
    return cubin


def _need(tool: str) -> None:
    try:
        tools.find(tool)
    except InputError as missing:
        pytest.skip(str(missing))
