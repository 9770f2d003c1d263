"""A pytest plugin that ``sllmbench ab --rev`` copies beside the tests: who was really measured?

Loaded first (``-p``), it takes away the import hooks of editable installations, which come before
any path. After the tests it writes the file of every module that the revision's build installs.
It may import nothing of sllmbench, which may be what is measured.
"""

from __future__ import annotations

import json
import os
import sys

sys.meta_path[:] = [
    finder
    for finder in sys.meta_path
    if "editable" not in (getattr(finder, "__module__", "") or type(finder).__module__).lower()
]


def pytest_sessionfinish() -> None:
    """Write the modules' files to the file that the environment names."""
    wanted = os.environ["SLLMBENCH_AB_MODULES"].split(",")
    files = {}
    for name in wanted:
        module = sys.modules.get(name)
        if module is not None:
            where = getattr(module, "__file__", None) or next(iter(module.__path__), None)
            files[name] = where
    with open(os.environ["SLLMBENCH_AB_WITNESS"], "w", encoding="utf-8") as out:
        json.dump(files, out)
