"""How options are read."""

from __future__ import annotations

import pytest

from sllmbench.cli.arguments import fraction
from sllmbench.errors import InputError


@pytest.mark.parametrize(
    ("text", "value"),
    [("1%", 0.01), ("0.5%", 0.005), (" 2.5 % ", 0.025), ("0.01", 0.01), ("1e-3", 0.001)],
)
def test_shares(text: str, value: float) -> None:
    assert fraction("--precision", text) == pytest.approx(value)


@pytest.mark.parametrize("text", ["", "%", "1", "0", "0%", "100%", "-1%", "1%%", "1%x", "nan", "x"])
def test_what_is_no_share(text: str) -> None:
    with pytest.raises(InputError, match="--precision takes a share between 0 and 100%, as 1%"):
        fraction("--precision", text)
