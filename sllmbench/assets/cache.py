"""The user's cache: where it is, who may write it now, and the programs that fill it.

What lands there is made under a scratch name and renamed: it is whole or it is absent.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import platformdirs

from sllmbench.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping


def cache_dir() -> Path:
    """Where downloads and conversions are kept: ``$SLLMBENCH_CACHE``, else the user's cache."""
    chosen = os.environ.get("SLLMBENCH_CACHE")
    return (
        Path(chosen).expanduser().absolute()
        if chosen
        else platformdirs.user_cache_path("sllmbench")
    )


@contextmanager
def exclusive(what: str) -> Iterator[None]:
    """Hold the cache's lock ``what``; other processes wait. The kernel frees a dead one's."""
    locks = cache_dir() / "locks"
    locks.mkdir(parents=True, exist_ok=True)
    with (locks / what).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def cache_errors() -> Iterator[None]:
    """Turn a full disk or an unwritable cache into one line that names the cache.

    Raises:
        InputError: the operating system refused to read or write the cache.
    """
    try:
        yield
    except OSError as error:
        raise InputError(
            f"cannot use the cache in {cache_dir()}: {error.strerror or error}"
            "; free some space there, or set SLLMBENCH_CACHE to another folder"
        ) from error


def remove_leftovers(folder: Path, prefix: str) -> None:
    """Delete what killed runs left under ``folder``; call it holding the lock that guards them."""
    for leftover in folder.glob(f"{prefix}*"):
        shutil.rmtree(leftover, ignore_errors=True)


def sync_folder(folder: Path) -> None:
    """Make the names in ``folder`` outlive a power cut, as fsync does for a file's bytes."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def run_logged(
    command: list[str],
    log: Path,
    tick: Callable[[], None],
    environment: Mapping[str, str] | None = None,
) -> tuple[int, str]:
    """Run ``command`` with nothing on our terminal and return its status and what it complained.

    ``tick`` is called about five times a second meanwhile; an exception, Ctrl-C included, ends the
    command too.
    """
    with (
        log.open("w+", encoding="utf-8", errors="replace") as stream,
        subprocess.Popen(
            command,
            env={**os.environ, **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=stream,
        ) as process,
    ):
        try:
            while process.poll() is None:
                tick()
                with suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=0.2)
        except BaseException:
            process.kill()
            raise
        stream.seek(0)
        return process.returncode, stream.read()
