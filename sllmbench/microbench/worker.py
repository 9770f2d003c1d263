"""The child's side: operands of one path, timed turn by turn; and the machine's roofs."""

from __future__ import annotations

import gc
import math
import statistics
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from sllmbench import _native
from sllmbench.errors import InputError
from sllmbench.hardware import roofs
from sllmbench.matmuls import Operands, resolve
from sllmbench.measure.energy import EnergyProbe, add_up, measure_energy
from sllmbench.measure.interference import Watch
from sllmbench.measure.sampling import CLOCK_SHARE, ClockFacts, open_clock
from sllmbench.measure.sensors import gpu_probe
from sllmbench.worker import serve

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from sllmbench.checkpoints.base import Progress
    from sllmbench.matmuls import Arithmetic
    from sllmbench.worker import Commands

OUTLIER_EVERY, OUTLIER_FACTOR = 509, 50
"""Activations have channels far above the others; int8 arithmetic must show what they cost it."""
_WARM_SHARE = 0.1
"""Of a turn, spent on untimed calls."""
_WARM_CALLS = 2


class KernelWorker:
    """One path's process; each public method is one command."""

    def __init__(self) -> None:
        """Calibrate the clock; the rest comes with the commands."""
        self._clock = open_clock()
        self._watch = Watch()
        self._calls: Sequence[Callable[[], object]] = ()
        self._products_per_call = 1
        self._weight: NDArray[np.float32] = np.empty((0, 0), np.float32)
        self._device = "cpu"

    def _move(self, device: str) -> None:
        """Watch a GPU, and read the clock of its queue."""
        import torch

        torch.cuda.set_device(device)
        stream = torch.cuda.current_stream().cuda_stream
        self._clock = _native.Clock("cuda_event", stream=stream)
        self._watch = Watch(gpu=gpu_probe(device))
        self._device = device

    def bind(
        self,
        path: str,
        arithmetic: Arithmetic,
        isa: str | None,
        n: int,
        k: int,
        m: int,
        threads: int,
        copies: int,
        seed: int,
        device: str = "cpu",
    ) -> dict[str, Any]:
        """Make the operands, the same in every process, and check the product."""
        self._calls = ()  # the last case's memory goes first
        if device != self._device:
            self._move(device)
        if self._weight.shape != (n, k):
            self._weight = make_weight(n, k, seed)
        operands = Operands(self._weight, make_activations(m, k, seed), threads, copies)
        matmul = resolve(path, arithmetic, isa, device)
        bound = matmul.bind(operands)
        error = max_rel_error(bound.product(), operands.x, bound.values)
        # Not the float32 values beside them: thirteen processes would hold them.
        self._calls, self._products_per_call = bound.calls, bound.products_per_call
        for _ in range(_WARM_CALLS):
            for call in self._calls:
                call()
        return {
            "use": asdict(bound.use()),
            "weight_bytes": bound.weight_bytes,
            "max_rel_error": error,
            "activation_bytes": 4 if device == "cpu" else 2,
            "clock": asdict(ClockFacts.of(self._clock)),
        }

    def turn(self, seconds: float) -> dict[str, Any]:
        """Call for about ``seconds``, at least three times; the median time of a product."""
        gc.disable()  # a full collection takes longer than most calls
        try:
            self._watch.forget()
            self._watch.start()
            times = time_calls(self._calls, seconds, self._clock)
            interference = self._watch.stop()
        finally:
            gc.enable()
        return {
            "median_ns": statistics.median(times) / self._products_per_call,
            "batches": len(times),
            "interference": interference.model_dump(),
        }

    def energy(self) -> dict[str, Any]:
        """Joules of products one after the other, as many as the sensors need."""
        window, _ = measure_energy(self._walk, EnergyProbe(self._device))
        products = window.calls * len(self._calls) * self._products_per_call
        joules = window.energy_j
        return {
            "energy": add_up([window]).model_dump(),
            "energy_j_per_product": None if joules is None else joules / products,
        }

    def _walk(self) -> None:
        for call in self._calls:
            call()
        if self._device != "cpu":  # else the queue would hold minutes of them
            import torch

            torch.cuda.synchronize(self._device)

    def read_bandwidth(self, bytes: int, threads: int) -> dict[str, Any]:
        """As :func:`sllmbench.hardware.roofs.read_gbs`."""
        return {"gbs": roofs.read_gbs(bytes, threads)}

    def peak_rate(self, kind: str, isa: str, threads: int) -> dict[str, Any]:
        """As :func:`sllmbench.hardware.roofs.peak_gops`."""
        checked: Any = kind
        return {"gops": roofs.peak_gops(checked, isa, threads)}


def make_weight(n: int, k: int, seed: int) -> NDArray[np.float32]:
    """Normal float32 [n, k], standard deviation 0.02 as trained layers have it."""
    rng = np.random.default_rng([seed, n, k])
    weight = rng.standard_normal((n, k), np.float32)
    weight *= np.float32(0.02)
    return weight


def make_activations(m: int, k: int, seed: int) -> NDArray[np.float32]:
    """Normal float32 [m, k] with outlier channels."""
    x = np.random.default_rng([seed, m, k]).standard_normal((m, k), np.float32)
    x[:, OUTLIER_EVERY - 1 :: OUTLIER_EVERY] *= OUTLIER_FACTOR
    return x


def max_rel_error(
    product: NDArray[np.float32], x: NDArray[np.float32], weight: NDArray[np.float32]
) -> float:
    """``max |y - y64| / max |y64|``, float64 of the same operands; infinite where y has a NaN."""
    exact = x.astype(np.float64) @ weight.astype(np.float64).T
    if product.shape != exact.shape:
        raise InputError(f"the product is {list(product.shape)}, not {list(exact.shape)}")
    worst = float(np.abs(product - exact).max() / np.abs(exact).max())
    return worst if np.isfinite(worst) else float(np.finfo(np.float64).max)


class Timer(Protocol):
    """What :func:`time_calls` asks of a clock."""

    @property
    def cost_ns(self) -> float:
        """Of one reading."""

    def time_batch(
        self, calls: Sequence[Callable[[], object]], count: int, first: int = 0
    ) -> float:
        """Nanoseconds of ``count`` calls in turn, beginning with number ``first``."""


def time_calls(calls: Sequence[Callable[[], object]], seconds: float, clock: Timer) -> list[float]:
    """Nanoseconds a call, of batches long enough that the clock is below 1% of them.

    First untimed calls: others ran since the last turn, threads sleep and caches are cold. How long
    a batch must be is judged from the fastest of them, never from one that had to wake a thread.
    """
    fastest, spent = math.inf, 0.0
    while spent < _WARM_SHARE * seconds * 1e9 or fastest == math.inf:
        took = clock.time_batch(calls, len(calls))
        spent += took
        fastest = min(fastest, (took - clock.cost_ns) / len(calls))
    batch = math.ceil(clock.cost_ns / (CLOCK_SHARE * max(fastest, 1)))
    turned, spent = 0, 0.0
    times: list[float] = []
    while spent < seconds * 1e9 or len(times) < 3:
        took = clock.time_batch(calls, batch, turned)
        turned += batch
        spent += took
        times.append(took / batch)
    return times


def _commands(_tell: Progress) -> Commands:
    worker = KernelWorker()
    return {
        "bind": worker.bind,
        "turn": worker.turn,
        "energy": worker.energy,
        "read_bandwidth": worker.read_bandwidth,
        "peak_rate": worker.peak_rate,
    }


if __name__ == "__main__":
    serve(int(sys.argv[1]), _commands)
