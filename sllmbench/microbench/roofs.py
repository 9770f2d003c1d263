"""How fast the machine lets one product be: its roofs at that working set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from sllmbench import _native
from sllmbench.errors import Failure
from sllmbench.worker import WorkerError

if TYPE_CHECKING:
    from collections.abc import Callable

    from sllmbench.worker import Worker


@dataclass(frozen=True)
class Roof:
    """The roofs of one product, or the reason why they are not known.

    Attributes:
        gbs: read bandwidth.
        gops: peak rate, 1e9 operations/s.
        ns: what the higher roof asks.
        bound: which that is.
    """

    gbs: float | None
    gops: float | None
    ns: float | None
    bound: Literal["memory", "compute"] | None
    reason: str | None


class Roofs:
    """Read bandwidths and peak rates, each measured once, while all others stand still."""

    def __init__(self, start: Callable[[], Worker], failures: list[Failure]) -> None:
        """Start the process with ``start``; what goes wrong is added to ``failures``."""
        self._start = start
        self._failures = failures
        self.worker = self._started()
        self._known: dict[tuple[Any, ...], float] = {}

    def roof(
        self, facts: dict[str, Any], copies: int, threads: int, moved: int, operations: int
    ) -> Roof:
        """The shortest time that memory and arithmetic leave for one product.

        Where it cannot be measured the record is kept, with the reason in its place.
        """
        try:
            return self._roof(facts, copies, threads, moved, operations)
        except WorkerError as error:
            if all(known.message != str(error) for known in self._failures):
                self._failures.append(Failure(self.worker.path, str(error), error.detail))
            self.worker.kill()
            self.worker = self._started()
            return Roof(None, None, None, None, str(error))

    def _started(self) -> Worker:
        worker = self._start()
        worker.pause()
        return worker

    def _roof(
        self, facts: dict[str, Any], copies: int, threads: int, moved: int, operations: int
    ) -> Roof:
        gbs = self._measure(
            "read_bandwidth", "gbs", bytes=facts["weight_bytes"] * copies, threads=threads
        )
        memory_ns = moved / gbs
        kind = {"int8": "int8", "exact": "fp32", "float32": "fp32"}.get(facts["use"]["arithmetic"])
        isas = _native.supported_isas()
        # Only ours says what it runs on in these words; a peer may use all that the machine has.
        isa = facts["use"]["isa"] if facts["use"]["kernel"].startswith("fused-") else isas[-1]
        gops = self._measure("peak_rate", "gops", kind=kind or "fp32", isa=isa, threads=threads)
        compute_ns = operations / gops
        if kind is not None:
            bound: Literal["memory", "compute"] = "memory" if memory_ns >= compute_ns else "compute"
            return Roof(gbs, gops, max(memory_ns, compute_ns), bound, None)
        if memory_ns >= compute_ns:  # another arithmetic than float32 is faster, if anything
            return Roof(gbs, None, memory_ns, "memory", None)
        reason = f"no peak rate is measured for {facts['use']['arithmetic']}"
        return Roof(gbs, None, None, None, reason)

    def _measure(self, what: str, unit: str, **arguments: Any) -> float:
        key = (what, *arguments.values())
        if key not in self._known:
            self.worker.resume()
            self._known[key] = self.worker.ask(what, **arguments)[unit]
            self.worker.pause()
        return self._known[key]
