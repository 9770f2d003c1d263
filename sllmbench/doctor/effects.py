"""What a finding costs, in seconds or less of measuring on this machine.

Each function returns one :class:`Effect` with a number and its unit, or says why there is none.
"""

from __future__ import annotations

import json
import mmap
import os
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from sllmbench import _native
from sllmbench.doctor.finding import Effect, unmeasured
from sllmbench.hardware.roots import KIB, read_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

_WINDOWS, _WINDOW_S = 100, 0.01
_CROWD_S = 1.0
_COMPUTING = "threads that only compute, one a processor,"
_ROUNDS = 5
"""Of each of two that are compared, in turns."""
_PEAK_S = 0.05
_N, _K, _M = 2048, 2048, 16
_MATMUL_S = 0.06
_PAGES_BYTES = 256 * 1024**2
_RANDOM_READS = 1_000_000
_MADV_COLLAPSE = 25
"""Huge pages whatever the system's setting; Linux 6.1 and newer."""
_CHILD_S = 300


def clock_spread() -> Effect:
    """How far one core's clock changes while it computes, and its arithmetic with it."""
    probe = _native.InterferenceProbe()
    if "core_hz" in probe.reasons:
        return unmeasured(probe.reasons["core_hz"])
    isa = _native.active_isa()
    clocks, rates = [], []
    before = probe.take()
    for _ in range(_WINDOWS):
        rates.append(_native.peak_gops("fp32", isa, 1, _WINDOW_S))
        now = probe.take(with_core_hz=True)
        hz = probe.between(before, now)["core_hz"]
        if hz is not None:
            clocks.append(hz / 1e9)
    low, high = min(clocks), max(clocks)
    spread = 100 * (high - low) / statistics.median(clocks)
    work = 100 * (max(rates) - min(rates)) / statistics.median(rates)
    return Effect(
        text=f"{len(clocks)} readings of a computing core's clock in about "
        f"{_WINDOWS * _WINDOW_S:.0f} s: {low:.2f} to {high:.2f} GHz, a range of {spread:.1f}% of "
        f"the median; its arithmetic varied by {work:.1f}%, waiting included",
        value=spread,
        unit="%",
    )


def kept_off() -> Effect:
    """The share of time that threads which only compute do not get, on every usable processor."""
    cpu_ns, wall_ns = _crowd()
    share = max(0.0, 100 * (1 - cpu_ns / wall_ns))
    return Effect(
        text=f"{_COMPUTING} were kept off it {share:.1f}% of {_CROWD_S:.0f} s",
        value=share,
        unit="%",
    )


def held_back(cpu_stat: Path) -> Effect:
    """How long the quota stops threads that only compute, on every processor of the mask."""
    before = throttled(cpu_stat)
    _crowd()
    after = throttled(cpu_stat)
    if before is None or after is None:
        return unmeasured(f"{cpu_stat} does not count how often the quota held threads back")
    times, stopped_ns = after[0] - before[0], after[1] - before[1]
    return Effect(
        text=f"{_COMPUTING} were held back {times} times in {_CROWD_S:.0f} s, "
        f"{stopped_ns / 1e6:.0f} ms in all",
        value=stopped_ns / 1e6,
        unit="ms",
    )


def throttled(cpu_stat: Path) -> tuple[int, int] | None:
    """How often, and for how many nanoseconds, a quota has held threads back."""
    fields = dict(
        line.split() for line in (read_text(cpu_stat) or "").splitlines() if len(line.split()) == 2
    )
    if "nr_throttled" not in fields:
        return None
    if "throttled_usec" in fields:  # cgroup version 2
        return int(fields["nr_throttled"]), 1000 * int(fields["throttled_usec"])
    return int(fields["nr_throttled"]), int(fields.get("throttled_time", 0))


def counted_while_computing(files: tuple[Path, ...], what: str) -> Effect:
    """How far the counters in ``files`` go up while every usable processor computes."""
    before = sum(int(read_text(file) or 0) for file in files)
    _crowd()
    more = sum(int(read_text(file) or 0) for file in files) - before
    return Effect(
        text=f"{more} {what} while all processors computed for {_CROWD_S:.0f} s",
        value=more,
        unit=what,
    )


def pages_swapped(vmstat: Path) -> Effect:
    """How many pages move between memory and swap at the moment."""

    def moved() -> int | None:
        fields = dict(line.split() for line in (read_text(vmstat) or "").splitlines())
        if not {"pswpin", "pswpout"} <= fields.keys():
            return None
        return int(fields["pswpin"]) + int(fields["pswpout"])

    before = moved()
    time.sleep(_CROWD_S)
    after = moved()
    if before is None or after is None:
        return unmeasured(f"{vmstat} counts no swapped pages")
    return Effect(
        text=f"{after - before} pages went between memory and swap in {_CROWD_S:.0f} s",
        value=after - before,
        unit="pages",
    )


def processors(few: tuple[int, ...], many: tuple[int, ...]) -> Effect:
    """int8 multiply-adds of a thread each on ``many`` processors against ``few`` of them."""
    isa = _native.active_isa()

    def rate(allowed: tuple[int, ...]) -> float:
        with _allowed(allowed):
            return _native.peak_gops("int8", isa, len(allowed), _PEAK_S)

    try:
        slow, fast = _in_turns(partial(rate, few), partial(rate, many))
    except PermissionError as error:
        return unmeasured(str(error))
    return Effect(
        text=f"int8 arithmetic, {isa}: {_count(len(many), 'thread')} {fast:.0f} GOP/s, "
        f"{_count(len(few), 'thread')} {slow:.0f}: {fast / slow:.2f} ×",
        value=fast / slow,
        unit="×",
    )


def matmul_threads(few: int, many: int) -> Effect:
    """Our int8 kernel on two numbers of threads."""
    slow, fast = _in_turns(_matmul(threads=few), _matmul(threads=many))
    return _matmul_effect(_count(few, "thread"), slow, _count(many, "thread"), fast)


def matmul_isa(forced: str, best: str) -> Effect:
    """Our int8 kernel in two instruction sets, on one thread.

    A team of OpenMP threads that a foreign process keeps on one processor waits 12-15 ms a product,
    whatever it computes: generic 5.8 GOP/s, avx2 11.2, where one thread gives 15 and 115.
    """
    slow, fast = _in_turns(_matmul(isa=forced, threads=1), _matmul(isa=best, threads=1))
    return _matmul_effect(f"a thread of {forced}", slow, f"of {best}", fast)


def clock_reading() -> Effect:
    """What a reading of the kernel's clock costs, and one of the time stamp counter beside it."""
    cost_ns = _native.Clock("monotonic").cost_ns
    reason = _native.tsc_unsupported_reason()
    beside = reason or f"one of the time stamp counter {_native.Clock('tsc').cost_ns:.0f} ns"
    return Effect(
        text=f"a reading of the kernel's clock takes {cost_ns:.0f} ns, {beside}",
        value=cost_ns,
        unit="ns",
    )


def huge_pages() -> Effect:
    """Random reads from 4 KiB pages against those from huge pages."""
    small, huge = mmap.mmap(-1, _PAGES_BYTES), mmap.mmap(-1, _PAGES_BYTES)
    small.madvise(mmap.MADV_NOHUGEPAGE)
    arrays = [np.frombuffer(each, np.uint8) for each in (small, huge)]
    for array in arrays:
        array[:: 4 * KIB] = 1
    try:
        huge.madvise(_MADV_COLLAPSE)
    except OSError as error:
        return unmeasured(f"the kernel gives no huge pages to compare with ({error.strerror})")
    where = np.random.default_rng(0).integers(0, _PAGES_BYTES, _RANDOM_READS)

    def rate(array: Any) -> float:
        start = time.perf_counter()
        array.take(where)
        return _RANDOM_READS / (time.perf_counter() - start)

    slow, fast = _in_turns(*(partial(rate, array) for array in arrays))
    return Effect(
        text=f"a random read takes {1e9 / slow:.1f} ns from 4 KiB pages, {1e9 / fast:.1f} ns from "
        f"huge ones: {fast / slow:.2f} ×",
        value=fast / slow,
        unit="×",
    )


def far_memory(near: int, far: int) -> Effect:
    """Reading memory of processor ``near``'s node there and from processor ``far``'s."""
    with _allowed((near,)):  # a page lies with the processor that first writes to it
        array = np.ones(_PAGES_BYTES // 8, np.int64)

    def rate(processor: int) -> float:
        with _allowed((processor,)):
            start = time.perf_counter()
            array.sum()
            return array.nbytes / (time.perf_counter() - start) / 1e9

    slow, fast = _in_turns(partial(rate, far), partial(rate, near))
    return Effect(
        text=f"one thread reads {fast:.1f} GB/s from its own node's memory, {slow:.1f} from the "
        f"other's: {fast / slow:.2f} ×",
        value=fast / slow,
        unit="×",
    )


def torch_without(variable: str, value: str) -> Effect:
    """Torch's arithmetic in processes of their own, with and without a setting.

    On one thread: a team waits for what else runs on a processor, and would hide the difference.
    """
    code = (
        "import json, time, torch; torch.set_num_threads(1)\n"
        "a, b = torch.ones(512, 512, dtype=torch.bfloat16), torch.ones(1024, 1024)\n"
        "def best(call):\n"
        "    call()\n"
        "    times, end = [], time.perf_counter() + 0.3\n"
        "    while len(times) < 3 or time.perf_counter() < end:\n"
        "        start = time.perf_counter(); call(); times.append(time.perf_counter() - start)\n"
        "    return min(times)\n"
        "print(json.dumps([best(lambda: a @ a), best(lambda: b.softmax(1))]))\n"
    )
    bare = {name: text for name, text in os.environ.items() if name != variable}
    forced = json.loads(_child(code, bare | {variable: value}))
    free = json.loads(_child(code, bare))
    product, softmax = (slow / fast for slow, fast in zip(forced, free, strict=True))
    return Effect(
        text=f"with it torch's bf16 product takes {product:.2f} × and its softmax {softmax:.2f} × "
        "the time without",
        value=max(product, softmax),
        unit="×",
    )


def pinned_by_openmp(setting: tuple[tuple[str, str], ...]) -> Effect:
    """How many processors the main thread may use once OpenMP's threads have run."""
    code = (
        "import os, torch; before = len(os.sched_getaffinity(0)); torch.ones(1 << 22).exp();"
        "print(len(os.sched_getaffinity(0)))"
    )
    left = int(_child(code, {**os.environ, **dict(setting)}))
    allowed = len(os.sched_getaffinity(0))
    return Effect(
        text=f"once torch has computed, its main thread may use {left} of {allowed} processors",
        value=left,
        unit="processors",
    )


def _crowd() -> tuple[int, int]:
    """Compute on a thread on each usable processor; their processor and wall time together.

    The threads are pinned, so that what keeps one off its processor is none of the others.
    """

    def compute(processor: int) -> tuple[int, int]:
        os.sched_setaffinity(0, (processor,))  # this thread alone
        cpu_ns, wall_ns = time.thread_time_ns(), time.perf_counter_ns()
        _native.peak_gops("fp32", _native.active_isa(), 1, _CROWD_S)
        return time.thread_time_ns() - cpu_ns, time.perf_counter_ns() - wall_ns

    allowed = os.sched_getaffinity(0)
    with ThreadPoolExecutor(len(allowed)) as pool:
        times = list(pool.map(compute, allowed))
    return sum(cpu for cpu, _ in times), sum(wall for _, wall in times)


def _in_turns(first: Callable[[], float], second: Callable[[], float]) -> tuple[float, float]:
    """The best rates of two that take turns, so that the machine's noise falls on both."""
    rates = [(first(), second()) for _ in range(_ROUNDS)]
    return max(one for one, _ in rates), max(other for _, other in rates)


@contextmanager
def _allowed(processors: tuple[int, ...]) -> Iterator[None]:
    """Run on these processors alone; threads that are started meanwhile inherit it.

    Raises:
        PermissionError: the cgroup's cpuset does not allow them all.
    """
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, processors)
        if os.sched_getaffinity(0) != set(processors):
            raise PermissionError("the cgroup's cpuset does not allow the other processors")
        yield
    finally:
        os.sched_setaffinity(0, before)


def _matmul(isa: str | None = None, threads: int | None = None) -> Callable[[], float]:
    """Our int8 kernel on a weight; each call returns the GOP/s of the fastest product."""
    from sllmbench.matmuls import Operands
    from sllmbench.matmuls.native import NativeMatmul

    rng = np.random.default_rng(0)
    operands = Operands(
        rng.standard_normal((_N, _K), np.float32),
        rng.standard_normal((_M, _K), np.float32),
        threads or len(os.sched_getaffinity(0)),
    )
    call = NativeMatmul("int8", isa=isa).bind(operands).calls[0]

    def rate() -> float:
        times: list[float] = []
        end = time.perf_counter() + _MATMUL_S
        while not times or time.perf_counter() < end:
            start = time.perf_counter()
            call()
            times.append(time.perf_counter() - start)
        return 2 * _N * _K * _M / min(times) / 1e9

    return rate


def _matmul_effect(slower: str, slow: float, faster: str, fast: float) -> Effect:
    return Effect(
        text=f"our int8 kernel, {_N} × {_K}, m = {_M}: {slower} {slow:.0f} GOP/s, {faster} "
        f"{fast:.0f}: {fast / slow:.2f} ×",
        value=fast / slow,
        unit="×",
    )


def _child(code: str, environ: Mapping[str, str]) -> str:
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        env=dict(environ),
        check=False,
        capture_output=True,
        text=True,
        timeout=_CHILD_S,
    )
    if done.returncode:
        last: Sequence[str] = done.stderr.strip().splitlines()[-1:]
        raise RuntimeError(f"a process that imports torch failed: {' '.join(last)}")
    return done.stdout


def _count(number: int, what: str) -> str:
    return f"{number} {what}" + ("s" if number != 1 else "")
