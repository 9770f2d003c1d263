"""Everything here needs a GPU and says why it was skipped without one."""

from __future__ import annotations

from pathlib import Path

import pytest

from sllmbench.hardware import cuda

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    mine = [item for item in items if HERE in item.path.parents]
    reason = cuda.unavailable() if mine else None
    for item in mine:
        item.add_marker(pytest.mark.gpu)
        if reason is not None:
            item.add_marker(pytest.mark.skip(reason=reason))
