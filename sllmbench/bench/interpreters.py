"""Another interpreter, asked whether a path can run in it."""

from __future__ import annotations

import json
import subprocess
from importlib import metadata

from sllmbench.checkpoints.hf import one_line
from sllmbench.errors import InputError

_TIMEOUT_S = 300
_QUESTION = """
import json
from importlib import metadata
try:
    import sllmbench.trial
    from sllmbench import _native
    answer = {"version": metadata.version("sllmbench")}
except Exception as error:
    answer = {"error": f"{type(error).__name__}: {error}"}
found = [(d.metadata["Name"] or "", d.version) for d in metadata.distributions()]
installed = {name.lower().replace("_", "-"): version for name, version in found}
print(json.dumps({**answer, "installed": installed}))
"""


def inspect(path: str, python: str) -> dict[str, str]:
    """Ask ``python`` what is installed in it: versions by names in lower case, with hyphens.

    Raises:
        InputError: it is no Python that can run sllmbench, or has none or another version of it.
    """
    where = f"--in {path}={python}"
    try:
        # -P: as the path's own process is started.
        asked = subprocess.run(
            [python, "-P", "-c", _QUESTION],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_TIMEOUT_S,
            check=False,
        )
    except OSError as error:
        raise InputError(f"{where}: it cannot be started: {error.strerror}") from error
    except subprocess.TimeoutExpired:
        raise InputError(f"{where}: it does not answer within {_TIMEOUT_S} s") from None
    try:
        answer = json.loads(asked.stdout)
        installed: dict[str, str] = answer["installed"]
    except (ValueError, TypeError, KeyError):
        said = one_line(ValueError(asked.stderr or asked.stdout or "nothing"))
        raise InputError(
            f"{where}: it is no Python 3.11 or later; asked what it has, it said: {said}"
        ) from None
    if "error" in answer:
        raise InputError(
            f"{where}: sllmbench cannot be imported there ({answer['error']}); install it there "
            f"with {python} -m pip install"
        )
    ours = metadata.version("sllmbench")
    if answer["version"] != ours:
        raise InputError(
            f"{where}: it has sllmbench {answer['version']} and this one is {ours}; install the "
            "same there"
        )
    return installed
