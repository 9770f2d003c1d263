"""What disturbs a sample, on machines laid out as files and on this one."""

from __future__ import annotations

import hashlib
import mmap
import os
import threading
from typing import TYPE_CHECKING

import pytest

from sllmbench.measure.interference import Watch, compare_clocks, find_causes, keep
from sllmbench.record import GpuState, Interference

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from sllmbench.hardware.roots import Roots

    Writer = Callable[[Path, str], Path]

MS = 1_000_000
TICK_NS = 10 * MS
STAT = """cpu  {user} 20 30 4000 50 6 7 {steal} 0 0
cpu0 1 1 1 1 1 1 1 1 0 0
cpu1 1 1 1 1 1 1 1 1 0 0
"""


def happened(**changes: object) -> Interference:
    quiet: dict[str, object] = {
        "window_ns": 100 * MS,
        "wait_ns": 0,
        "steal_ns": 0,
        "foreign_cpu_ns": 0,
        "involuntary_switches": 0,
        "migrations": 0,
        "minor_faults": 0,
        "major_faults": 0,
        "core_hz": 3e9,
        "temperature_c": 50.0,
        "causes": (),
    }
    return Interference.model_validate(quiet | changes)


def gpu(reasons: Sequence[str] = (), foreign: int | None = 0) -> GpuState:
    return GpuState(
        sm_clock_hz=1.5e9,
        throttle_reasons=tuple(reasons),
        temperature_c=60.0,
        foreign_processes=foreign,
    )


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, []),
        ({"involuntary_switches": 9, "migrations": 3, "minor_faults": 400}, []),
        ({"wait_ns": 2 * MS}, []),
        ({"wait_ns": 3 * MS}, ["waiting for a processor: 3% of the time"]),
        # Two processors' 100 ms; 10% is 20 ms and less than two and a half ticks.
        ({"foreign_cpu_ns": 25 * MS}, []),
        ({"foreign_cpu_ns": 26 * MS}, ["other processes: 13% of the processors"]),
        ({"foreign_cpu_ns": 79 * MS, "tick_window_ns": 400 * MS}, []),
        ({"foreign_cpu_ns": 88 * MS, "tick_window_ns": 400 * MS}, ["other processes: 11%"]),
        ({"steal_ns": 10 * MS}, []),
        ({"steal_ns": 20 * MS}, ["taken by the host: 10% of the processors"]),
        ({"steal_ns": 20 * MS, "tick_window_ns": 1000 * MS}, []),
        ({"major_faults": 1}, ["pages read from disk: 1"]),
        ({"gpu": gpu(["sw_power_cap"])}, ["throttled GPU: sw_power_cap"]),
        ({"gpu": gpu(["gpu_idle"])}, []),
        ({"gpu": gpu(foreign=2)}, ["other processes on the GPU: 2"]),
        ({"gpu": gpu(foreign=None)}, []),
        ({"wait_ns": None, "steal_ns": None, "foreign_cpu_ns": None}, []),
        ({"wait_ns": 99 * MS, "major_faults": 1}, ["waiting", "pages"]),
    ],
)
def test_causes_have_their_thresholds(changes: dict[str, object], expected: list[str]) -> None:
    causes = find_causes(happened(**changes), processors=2, tick_ns=TICK_NS)
    assert len(causes) == len(expected)
    assert all(cause.startswith(start) for cause, start in zip(causes, expected, strict=True))


def test_a_core_that_is_slower_than_usual_is_a_cause() -> None:
    clocks = [3e9, 3e9, 2.86e9, 2.84e9, None, 3.2e9]
    series = compare_clocks([happened(core_hz=hz) for hz in clocks])
    assert [bool(what.causes) for what in series] == [False, False, False, True, False, False]
    assert series[3].causes == ("slow core: 2.84 GHz, 3.00 in most samples",)
    unknown = [happened(core_hz=None)] * 2
    assert list(compare_clocks(unknown)) == unknown


@pytest.mark.parametrize(
    ("series", "kept", "disturbed"),
    [
        ("......", [0, 1, 2, 3, 4, 5], False),
        (".......!", [0, 1, 2, 3, 4, 5, 6], False),
        ("!.!.!.!.!.!.", [1, 3, 5, 7, 9, 11], False),
        ("!.!.!.!.!.!.!", range(13), True),  # six, but fewer than half
        (".....!", range(6), True),  # more than half, but fewer than six
        ("...", [0, 1, 2], False),
        ("!!!", [0, 1, 2], True),
    ],
)
def test_the_median_is_of_the_undisturbed_where_they_are_enough(
    series: str, kept: Sequence[int], disturbed: bool
) -> None:
    chosen = keep([happened(causes=("x",) if mark == "!" else ()) for mark in series])
    assert chosen.indices == tuple(kept)
    assert chosen.disturbed == disturbed
    assert chosen.n_disturbed == series.count("!")
    times = [1000.0 if mark == "!" else 1.0 for mark in series]
    assert chosen.interval(times).median == (
        1.0 if not disturbed else sorted(times)[len(times) // 2]
    )


def lay_out(roots: Roots, write: Writer, waits: dict[int, int], *, user: int, steal: int) -> None:
    for thread, wait_ns in waits.items():
        write(roots.proc / f"self/task/{thread}/schedstat", f"123 {wait_ns} 7\n")
        write(
            roots.proc / f"self/task/{thread}/sched",
            f"name\nse.sum_exec_runtime    :   0.5\nse.nr_migrations  :  {wait_ns // 1000}\n",
        )
    write(roots.proc / "stat", STAT.format(user=user, steal=steal))


def test_the_counters_of_a_machine_laid_out_as_files(roots: Roots, write: Writer) -> None:
    lay_out(roots, write, {9: 1000, 10: 5000, 11: 400}, user=10, steal=3)
    write(roots.sys / "class/hwmon/hwmon1/name", "nvme\n")
    write(roots.sys / "class/hwmon/hwmon1/temp1_input", "99000\n")
    write(roots.sys / "class/hwmon/hwmon2/name", "k10temp\n")
    write(roots.sys / "class/hwmon/hwmon2/temp1_input", "61250\n")
    write(roots.sys / "class/hwmon/hwmon2/temp3_input", "64500\n")
    watch = Watch(roots)
    assert watch.reasons == {}
    watch.start()
    (roots.proc / "self/task/11/schedstat").unlink()
    (roots.proc / "self/task/11/sched").unlink()
    (roots.proc / "self/task/11").rmdir()  # a thread that ended takes nothing away
    lay_out(roots, write, {9: 4000, 10: 5500, 12: 700}, user=5010, steal=5)
    seen = watch.stop()
    assert seen.wait_ns == 3000 + 500 + 700
    assert seen.steal_ns == 2 * TICK_NS
    assert seen.foreign_cpu_ns is not None
    assert 49e9 < seen.foreign_cpu_ns <= 50e9  # less what this process itself used
    assert seen.temperature_c == 64.5
    assert any(cause.startswith("other processes") for cause in seen.causes)


def test_without_hwmon_the_thermal_zones_tell_the_temperature(roots: Roots, write: Writer) -> None:
    lay_out(roots, write, {9: 0}, user=1, steal=0)
    write(roots.sys / "class/thermal/thermal_zone0/type", "acpitz\n")
    write(roots.sys / "class/thermal/thermal_zone0/temp", "20000\n")
    write(roots.sys / "class/thermal/thermal_zone1/type", "x86_pkg_temp\n")
    write(roots.sys / "class/thermal/thermal_zone1/temp", "71000\n")
    watch = Watch(roots)
    watch.start()
    assert watch.stop().temperature_c == 71.0


def test_what_a_machine_does_not_tell_is_none_with_a_reason(roots: Roots) -> None:
    watch = Watch(roots)
    watch.start()
    seen = watch.stop()
    for field in ("wait_ns", "steal_ns", "foreign_cpu_ns", "temperature_c"):
        assert getattr(seen, field) is None
        assert watch.reasons[field]
    assert seen.causes == ()


def test_ticks_are_watched_for_longer_than_a_short_sample(roots: Roots, write: Writer) -> None:
    lay_out(roots, write, {9: 0}, user=10, steal=0)
    watch = Watch(roots)
    watch.start()
    lay_out(roots, write, {9: 0}, user=5010, steal=0)
    first = watch.stop()
    watch.start()
    second = watch.stop()  # nothing more happened, but what did was within the last 200 ms
    assert first.causes
    assert second.causes
    assert second.tick_window_ns is not None
    assert second.tick_window_ns > second.window_ns
    watch.forget()
    watch.start()
    assert watch.stop().causes == ()


def test_faults_of_this_process_and_its_cores_clock_are_measured() -> None:
    watch = Watch()
    watch.start()
    with mmap.mmap(-1, 64 << 12) as pages:
        for page in range(64):
            pages[page << 12] = 1
    seen = watch.stop()
    assert seen.minor_faults is not None
    assert 1 <= seen.minor_faults <= 1000  # several pages at a time where the kernel maps so
    assert seen.core_hz is None or 2e8 < seen.core_hz < 1e10
    assert 0 < seen.window_ns < 10e9


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two processors")
def test_threads_that_share_a_processor_wait_and_moving_is_a_migration() -> None:
    allowed = os.sched_getaffinity(0)
    here, there = sorted(allowed)[:2]
    watch, seen_it = Watch(), threading.Event()
    if {"wait_ns", "migrations"} & set(watch.reasons):
        pytest.skip(str(watch.reasons))

    def work() -> None:
        os.sched_setaffinity(0, {here})
        for _ in range(100):
            hashlib.sha256(bytes(1 << 20)).digest()  # without the interpreter's lock
        os.sched_setaffinity(0, {there})
        done.release()
        seen_it.wait()  # a thread that has ended takes what it waited with it

    done = threading.Semaphore(0)
    watch.start()
    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for _ in threads:
        done.acquire()
    seen = watch.stop()
    seen_it.set()
    for thread in threads:
        thread.join()
    assert seen.migrations is not None
    assert seen.migrations >= 2
    assert seen.wait_ns is not None
    assert seen.wait_ns > 0.3 * seen.window_ns
    assert seen.causes[0].startswith("waiting")


def test_the_state_of_a_gpu_comes_from_the_function_given() -> None:
    watch = Watch(gpu=lambda: gpu(["hw_thermal"]))
    watch.start()
    seen = watch.stop()
    assert seen.gpu == gpu(["hw_thermal"])
    assert "throttled GPU: hw_thermal" in seen.causes
