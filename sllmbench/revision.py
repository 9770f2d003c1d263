"""Which commit the user's repository is at: what a history of measurements is drawn over."""

from __future__ import annotations

import subprocess
from pathlib import Path

_ENOUGH_S = 10


def current(folder: Path | None = None) -> str | None:
    """The commit's full name, ``+`` behind it where tracked files differ; None without git."""
    commit = _git(folder, "rev-parse", "HEAD")
    if commit is None:
        return None
    changed = _git(folder, "status", "--porcelain", "--untracked-files=no")
    return commit + ("+" if changed else "")


def _git(folder: Path | None, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder or Path.cwd()), *arguments],
            check=True,
            capture_output=True,
            text=True,
            timeout=_ENOUGH_S,
        )
    except (OSError, subprocess.SubprocessError):  # no git, no repository, or one that hangs
        return None
    return done.stdout.strip()
