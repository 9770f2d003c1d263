"""JSON files that somebody else wrote."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from sllmbench.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path


def read_object(file: Path) -> dict[str, Any]:
    """The object that ``file`` holds.

    Raises:
        InputError: it cannot be read, is no JSON, or holds something else.
    """
    try:
        value = json.loads(file.read_text("utf-8"))
    except RecursionError as error:
        raise InputError(f"cannot read {file}: it is nested too deeply") from error
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {file}: {error}") from error
    if not isinstance(value, dict):
        raise InputError(f"cannot read {file}: it holds no JSON object")
    return value
