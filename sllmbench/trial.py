"""A model on one path, in a process of its own."""

from __future__ import annotations

import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from sllmbench.worker import Worker, serve

if TYPE_CHECKING:
    from sllmbench.checkpoints.base import Progress
    from sllmbench.measure.timing import Phase
    from sllmbench.model import ModelFacts
    from sllmbench.record import Arithmetic
    from sllmbench.worker import Commands


class Trial(Worker):
    """The parent's handle on the process that measures one path."""

    def __init__(
        self, path: str, share: IO[bytes] | None = None, interpreter: str = sys.executable
    ) -> None:
        """Start the process; ``share`` and ``interpreter`` are as :class:`Worker` takes them."""
        super().__init__(path, "sllmbench.trial", share, interpreter)


class _Child:
    """What the child knows between commands; each public method is one command."""

    def __init__(self, tell: Progress) -> None:
        self._progress = tell
        self._warm = False

    def load(
        self,
        model: str,
        path: str,
        arithmetic: Arithmetic,
        threads: int,
        prompt_ids: list[int],
        device: str = "cpu",
    ) -> dict[str, Any]:
        """Load the model on the path; the clock and the memory watch start after the imports."""
        from sllmbench import hardware, runners
        from sllmbench.checkpoints import open_checkpoint
        from sllmbench.measure import timing  # noqa: F401  (imports cost memory)
        from sllmbench.measure.energy import EnergyProbe
        from sllmbench.measure.interference import Watch
        from sllmbench.measure.phases import MemoryWatch
        from sllmbench.measure.quality import commands  # noqa: F401
        from sllmbench.measure.sensors import gpu_probe

        chosen = runners.resolve(path, arithmetic, device)
        chosen.start_libraries(open_checkpoint(model))
        self._prompt_ids = prompt_ids
        self._interference = Watch(gpu=gpu_probe(device))
        self._probe = EnergyProbe(device)
        self._probe.measure_idle()
        self._watch = MemoryWatch(device=device)
        self._watch.start()
        start_ns = time.perf_counter_ns()
        self._runner = chosen.load(open_checkpoint(model), threads, self._progress)
        load_ns = time.perf_counter_ns() - start_ns
        self._memory = [self._watch.end("load")]
        libraries = hardware.libraries() | hardware.libraries(chosen.libraries)
        return {"load_ns": load_ns, "libraries": libraries}

    def time(self, n_gen: int) -> dict[str, Any]:
        """One repetition: a request, then a decode from an empty cache; warmed up before the first.

        The energy windows span prefills alone and decodes alone, so that joules divide by tokens;
        short ones are repeated for their sensor, and only the first decode's time counts.
        """
        from sllmbench.measure.energy import EnergyWindow, measure_energy
        from sllmbench.measure.timing import time_decode, time_request, warm_up

        first_id = self._prompt_ids[0]
        if not self._warm:
            warm_up(self._runner, self._prompt_ids, n_gen)
            self._measure_memory(n_gen)
            self._warm = True
        # Others ran since the last turn: one untimed token wakes the threads and refills caches.
        time_decode(self._runner, 1, first_id)
        self._interference.forget()
        self._interference.start()
        request = time_request(self._runner, self._prompt_ids, n_gen)
        decode, decodes_ns = measure_energy(
            lambda: time_decode(self._runner, n_gen, first_id), self._probe
        )
        interference = self._interference.stop()
        prefill = EnergyWindow(reason=self._probe.reason)
        if self._probe.reason is None:
            prefill, _ = measure_energy(
                lambda: time_request(self._runner, self._prompt_ids, 1), self._probe
            )
        peak_rss_bytes, peak_rss_reason = self._watch.peak()
        return {
            "prefill_ns": request.prefill_ns,
            "ttft_ns": request.ttft_ns,
            "itl_ns": list(request.itl_ns),
            "decode_ns": decodes_ns[0],
            "prefill_energy": asdict(prefill),
            "decode_energy": asdict(decode),
            "memory": [phase.model_dump() for phase in self._memory],
            "interference": interference.model_dump(),
            "peak_rss_bytes": peak_rss_bytes,
            "peak_rss_reason": peak_rss_reason,
            "facts": _facts(self._runner.facts()),
        }

    def _measure_memory(self, n_gen: int) -> None:
        """Run an untimed request and note what each of its phases holds."""
        from sllmbench.measure.timing import time_request

        def watch(phase: Phase) -> None:
            self._memory.append(self._watch.end(phase, self._runner.cache_bytes()))
            self._watch.start()

        self._watch.start()
        time_request(self._runner, self._prompt_ids, n_gen, watch)

    def quality(
        self, ids: list[int], text: str, context: int, save: str | None, reference: str | None
    ) -> dict[str, Any]:
        """Perplexity over ``ids``; the divergence where reference log-probabilities are given."""
        import torch

        from sllmbench.measure.quality.divergence import ReferenceLogProbs
        from sllmbench.measure.quality.perplexity import evaluate

        quality = evaluate(
            self._runner,
            torch.tensor(ids, dtype=torch.int64),
            text_name=text,
            context=context,
            save_log_probs=None if save is None else Path(save),
            reference=None if reference is None else ReferenceLogProbs(Path(reference)),
            progress=self._progress,
        )
        return quality.model_dump()

    def score(self, kind: str, **arguments: Any) -> dict[str, Any]:
        """Let the model answer one task of ``sllmbench eval``."""
        from sllmbench.measure.quality.commands import COMMANDS

        return COMMANDS[kind](self._runner, self._progress, **arguments)

    def facts(self) -> dict[str, Any]:
        """What the record says of the model and of the kernels that have run in it."""
        return _facts(self._runner.facts())


def _facts(facts: ModelFacts) -> dict[str, Any]:
    """What the record says of the model and the kernels that ran in it."""
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


def _commands(tell: Progress) -> Commands:
    child = _Child(tell)
    return {
        "load": child.load,
        "time": child.time,
        "quality": child.quality,
        "score": child.score,
        "facts": child.facts,
    }


if __name__ == "__main__":
    serve(int(sys.argv[1]), _commands)
