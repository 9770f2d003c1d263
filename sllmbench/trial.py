"""One path in a process of its own, so that memory peaks do not mix and paths can take turns.

:class:`Trial` is the parent's side, :func:`serve` the child's. They speak JSON lines: commands on
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
import time
import traceback
from dataclasses import asdict
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from sllmbench.checkpoints.base import Progress, silent
from sllmbench.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

_PR_SET_PDEATHSIG = 1
_STDERR_KEPT_BYTES = 8192


class TrialError(RuntimeError):
    """A path's process died or met a bug; ``detail`` holds what it last said on stderr."""

    def __init__(self, message: str, detail: str) -> None:
        """Keep the one-line message and the detail apart."""
        super().__init__(message)
        self.detail = detail


class Trial:
    """The parent's handle on the process of one path."""

    def __init__(self, path: str, share: IO[bytes] | None = None) -> None:
        """Start the process; it waits for commands.

        Args:
            path: the path's name, for messages.
            share: an open file that the child may read and write as ``shared_file``; it needs no
                name on disk, so nothing is left behind however the processes end.
        """
        self.path = path
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115  (closed in kill)
        self._share = share
        # -P: the folder one happens to be in must not shadow the installed package.
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "sllmbench.trial", str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            text=True,
            encoding="utf-8",
            # The parent has fetched everything: a child that asked the hub again would time it.
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
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
            TrialError: the child met a bug or died.
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
                raise TrialError(f"path {self.path} failed: {reply['error']}", self._last_words())
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

    def _died(self) -> TrialError:
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
        return TrialError(f"path {self.path} failed: its process {cause}{last}", words)

    def _last_words(self) -> str:
        size = os.fstat(self._stderr.fileno()).st_size
        start = max(0, size - _STDERR_KEPT_BYTES)
        return os.pread(self._stderr.fileno(), size - start, start).decode(errors="replace").strip()


class _Child:
    """What the child knows between commands; each public method is one command."""

    def __init__(self, tell: Progress) -> None:
        self._progress = tell
        self._model: Any = None
        self._warm = False

    def load(
        self, model: str, path: str, arithmetic: str, threads: int, prompt_ids: list[int]
    ) -> dict[str, Any]:
        """Load the model on the path; the clock and the memory watch start after the imports."""
        import torch

        from sllmbench import _native
        from sllmbench.checkpoints import open_checkpoint
        from sllmbench.measure import accuracy, energy, timing  # noqa: F401  (imports cost memory)
        from sllmbench.measure.memory import PeakRss
        from sllmbench.model import load_model

        try:
            _native.set_threads(threads)
        except ValueError as error:
            raise InputError(str(error)) from error
        torch.set_num_threads(threads)
        _import_architecture(open_checkpoint(model).config())
        self._path = path
        self._prompt_ids = torch.tensor([prompt_ids], dtype=torch.int64)
        self._peak = PeakRss()
        self._peak.start()
        start_ns = time.perf_counter_ns()
        self._model = load_model(
            open_checkpoint(model),
            path,
            arithmetic="exact" if arithmetic == "exact" else "int8",
            threads=threads,
            progress=self._progress,
        )
        return {"load_ns": time.perf_counter_ns() - start_ns}

    def time(self, n_gen: int) -> dict[str, Any]:
        """One repetition: a request, then a decode from an empty cache; warmed up before the first.

        The energy window spans the decode alone, so that joules divide by generated tokens.
        """
        from sllmbench.measure.energy import EnergyWindow
        from sllmbench.measure.timing import time_decode, time_request, warm_up

        first_id = int(self._prompt_ids[0, 0])
        if not self._warm:
            warm_up(self._model, self._prompt_ids, n_gen)
            self._warm = True
        # Others ran since the last turn: one untimed token wakes the threads and refills caches.
        time_decode(self._model, 1, first_id)
        request = time_request(self._model, self._prompt_ids, n_gen)
        with EnergyWindow() as energy:
            decode_ns = time_decode(self._model, n_gen, first_id)
        peak_rss_bytes, peak_rss_reason = self._peak.above_start_bytes()
        return {
            "prefill_ns": request.prefill_ns,
            "ttft_ns": request.ttft_ns,
            "itl_ns": list(request.itl_ns),
            "decode_ns": decode_ns,
            "energy_j": energy.energy_j,
            "energy_source": energy.source,
            "energy_reason": energy.reason,
            "peak_rss_bytes": peak_rss_bytes,
            "peak_rss_reason": peak_rss_reason,
            "facts": _facts(self._model),
        }

    def quality(
        self, ids: list[int], text: str, context: int, save: str | None, reference: str | None
    ) -> dict[str, Any]:
        """Perplexity over ``ids``; the divergence where reference log-probabilities are given."""
        import torch

        from sllmbench.measure.accuracy import ReferenceLogProbs, evaluate

        quality = evaluate(
            self._model,
            torch.tensor(ids, dtype=torch.int64),
            text_name=text,
            context=context,
            save_log_probs=None if save is None else Path(save),
            reference=None if reference is None else ReferenceLogProbs(Path(reference)),
            progress=self._progress,
        )
        return quality.model_dump()


def _import_architecture(config: Any) -> None:
    """Import the model's classes, making no weights: they are no part of load time and memory."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]


def _facts(model: Any) -> dict[str, Any]:
    """What the record says of the model and the kernels that ran in it."""
    from sllmbench.model import describe

    facts = describe(model)
    summary = facts.summary()
    return {
        "format": facts.format,
        "n_params": facts.n_params,
        "weights_bytes": facts.weights_bytes,
        "lm_head": facts.lm_head,
        "kernel": summary.kernel,
        "isa": summary.isa,
        "arithmetic": summary.arithmetic,
        "layer_kernels": [
            {**asdict(use), "layers": list(names)} for use, names in facts.layers.items()
        ],
    }


def serve(parent_pid: int) -> None:
    """Answer commands until standard input ends; the child's main function."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _die_with(parent_pid)
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def emit(reply: dict[str, Any]) -> None:
        replies.write(json.dumps(reply) + "\n")
        replies.flush()

    child = _Child(lambda what, fraction: emit({"progress": what, "fraction": fraction}))
    commands: dict[str, Callable[..., dict[str, Any]]] = {
        "load": child.load,
        "time": child.time,
        "quality": child.quality,
    }
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


def _die_with(parent_pid: int) -> None:
    """Have the kernel kill this process when its parent ends, even while it is stopped."""
    import ctypes

    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent_pid:  # it ended before the request was in place
        sys.exit(1)


if __name__ == "__main__":
    serve(int(sys.argv[1]))
