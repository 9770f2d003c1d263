"""A child process that obeys: memory peaks do not mix, and candidates can take turns.

:class:`Worker` is the parent's side, :func:`serve` the child's. They speak JSON lines: commands on
the child's standard input, replies on its standard output as it was at the start; what libraries
print goes to standard error, which is kept for the last words of a child that dies.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import traceback
from typing import IO, TYPE_CHECKING, Any

from sllmbench.checkpoints.base import Progress, silent
from sllmbench.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Commands = Mapping[str, Callable[..., dict[str, Any]]]

_PR_SET_PDEATHSIG = 1
_STDERR_KEPT_BYTES = 8192


class WorkerError(RuntimeError):
    """A path's process died or met a bug; ``detail`` holds what it last said on stderr."""

    def __init__(self, message: str, detail: str) -> None:
        """Keep the one-line message and the detail apart."""
        super().__init__(message)
        self.detail = detail


class Worker:
    """The parent's handle on the process of one path."""

    def __init__(
        self,
        path: str,
        module: str,
        share: IO[bytes] | None = None,
        interpreter: str = sys.executable,
    ) -> None:
        """Start the process; it waits for commands.

        Args:
            path: the path's name, for messages.
            module: what the process runs; it gives its commands to :func:`serve`.
            share: an open file that the child may read and write as ``shared_file``; it needs no
                name on disk, so nothing is left behind however the processes end.
            interpreter: the Python that runs it; sllmbench is installed there.
        """
        self.path = path
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115  (closed in kill)
        self._share = share
        # -P: the folder one happens to be in must not shadow the installed package.
        self._process = subprocess.Popen(
            [interpreter, "-P", "-m", module, str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            text=True,
            encoding="utf-8",
            env=_environment(),
            # Its own group: a Ctrl-C in the terminal is the parent's to answer.
            process_group=0,
            pass_fds=() if share is None else (share.fileno(),),
        )

    @property
    def pid(self) -> int:
        """The child's process id."""
        return self._process.pid

    @property
    def shared_file(self) -> str | None:
        """Where the child finds the shared file."""
        return None if self._share is None else f"/proc/self/fd/{self._share.fileno()}"

    def ask(self, do: str, progress: Progress = silent, **arguments: Any) -> dict[str, Any]:
        """Send a command and wait for its result.

        Raises:
            InputError: the child found that what the user gave cannot be used.
            WorkerError: the child met a bug or died.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._died() from None
        for line in self._process.stdout:
            reply = json.loads(line)
            if "progress" in reply:
                progress(reply["progress"], reply["fraction"])
            elif reply.get("kind") == "input":
                raise InputError(reply["error"])
            elif "error" in reply:
                raise WorkerError(f"path {self.path} failed: {reply['error']}", self._last_words())
            else:
                result: dict[str, Any] = reply["result"]
                return result
        raise self._died()

    def pause(self) -> None:
        """Stop every thread of the child until :meth:`resume`."""
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let the child run again."""
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """End the child at once; harmless where it has ended already."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._stderr):
            assert stream is not None
            with contextlib.suppress(BrokenPipeError):  # an unsent command
                stream.close()

    def _died(self) -> WorkerError:
        code = self._process.wait()
        if code < 0:
            name = signal.Signals(-code).name
            cause = f"was killed by {name}"
            if -code == signal.SIGKILL:
                cause += " (out of memory, if nobody killed it: see `dmesg`)"
            elif -code == signal.SIGILL:
                cause += " (an instruction that this CPU lacks)"
        else:
            cause = f"ended with exit code {code}"
        words = self._last_words()
        last = f"; it last said: {words.splitlines()[-1]}" if words else ""
        return WorkerError(f"path {self.path} failed: its process {cause}{last}", words)

    def _last_words(self) -> str:
        size = os.fstat(self._stderr.fileno()).st_size
        start = max(0, size - _STDERR_KEPT_BYTES)
        return os.pread(self._stderr.fileno(), size - start, start).decode(errors="replace").strip()


def serve(parent_pid: int, commands_of: Callable[[Progress], Commands]) -> None:
    """Answer commands until standard input ends; the child's main function.

    Args:
        parent_pid: whose end is also this process's.
        commands_of: makes the commands, given what tells the parent of progress.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _die_with(parent_pid)
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def emit(reply: dict[str, Any]) -> None:
        replies.write(json.dumps(reply) + "\n")
        replies.flush()

    commands = commands_of(lambda what, fraction: emit({"progress": what, "fraction": fraction}))
    for line in sys.stdin:
        arguments = json.loads(line)
        try:
            reply: dict[str, Any] = {"result": commands[arguments.pop("do")](**arguments)}
        except InputError as error:
            reply = {"error": str(error), "kind": "input"}
        except Exception as error:
            traceback.print_exc()
            reply = {"error": f"{type(error).__name__}: {error}".splitlines()[0], "kind": "bug"}
        emit(reply)


def _environment() -> dict[str, str]:
    """This process's variables and the child's own."""
    # The parent has fetched everything: a child that asked the hub again would time it.
    return {**os.environ, "HF_HUB_OFFLINE": "1"}


def _die_with(parent_pid: int) -> None:
    """Have the kernel kill this process when its parent ends, even while it is stopped."""
    import ctypes

    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent_pid:  # it ended before the request was in place
        sys.exit(1)
