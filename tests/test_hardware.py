"""What the computer says of itself: machines laid out as files, and this one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from sllmbench import _native, hardware
from sllmbench.hardware import Cache, cpu, load, memory, roofs
from sllmbench.hardware.roots import Roots
from sllmbench.record import MachineFacts

KIB, MIB, GIB = 1024, 1024**2, 1024**3

Write = Callable[[Path, str], Path]


@pytest.fixture
def roots(tmp_path: Path) -> Roots:
    made = Roots(tmp_path / "proc", tmp_path / "sys")
    (made.proc / "self").mkdir(parents=True)
    made.sys.mkdir()
    return made


@pytest.fixture
def write() -> Write:
    def write(file: Path, text: str) -> Path:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return file

    return write


@pytest.fixture
def two_sockets(roots: Roots, write: Write) -> Roots:
    """Two packages of two cores of two threads; the last processor is switched off."""
    for number in range(8):
        package, core = number % 4 // 2, number % 4
        folder = roots.sys / f"devices/system/cpu/cpu{number}"
        if number == 7:
            folder.mkdir()
            continue
        siblings = "3" if number == 3 else f"{core},{core + 4}"
        write(folder / "topology/physical_package_id", f"{package}\n")
        write(folder / "topology/core_cpus_list", f"{siblings}\n")
        for index, (level, kind, size, shared) in enumerate(
            [
                (1, "Data", "48K", siblings),
                (1, "Instruction", "32K", siblings),
                (2, "Unified", "2048K", siblings),
                (3, "Unified", "36864K", f"package {package}"),
            ]
        ):
            cache = folder / f"cache/index{index}"
            write(cache / "level", f"{level}\n")
            write(cache / "type", f"{kind}\n")
            write(cache / "size", f"{size}\n")
            write(cache / "shared_cpu_list", f"{shared}\n")
    write(roots.sys / "devices/system/cpu/cpufreq/boost", "1")
    write(
        roots.proc / "cpuinfo",
        "processor\t: 0\nvendor_id\t: GenuineIntel\nmodel name\t: Xeon of a test\n"
        "flags\t\t: fpu avx2\n\nprocessor\t: 1\nmodel name\t: another\n",
    )
    return roots


def test_sockets_cores_and_threads_are_told_apart(two_sockets: Roots) -> None:
    cores = cpu.cores(two_sockets)
    assert (cores.sockets, cores.physical, cores.logical) == (2, 4, 7)
    assert cores.reason is None
    assert cores.quota is None
    assert cores.affinity == cores.usable == len(os.sched_getaffinity(0))


def test_caches_are_counted_once_for_those_who_share_them(two_sockets: Roots) -> None:
    caches, reason = cpu.caches(two_sockets)
    assert reason is None
    assert [(c.level, c.kind, c.bytes, c.instances) for c in caches] == [
        (1, "data", 48 * KIB, 4),
        (1, "instruction", 32 * KIB, 4),
        (2, "unified", 2 * MIB, 4),
        (3, "unified", 36 * MIB, 2),
    ]


def test_the_processor_names_itself(two_sockets: Roots) -> None:
    assert cpu.model_name(two_sockets) == "Xeon of a test"
    assert cpu.vendor(two_sockets) == "GenuineIntel"
    assert not cpu.is_virtual(two_sockets)


def test_an_arm_processor_is_named_by_its_board_and_part(roots: Roots, write: Write) -> None:
    write(
        roots.proc / "cpuinfo",
        "processor\t: 0\nBogoMIPS\t: 108.00\nCPU implementer\t: 0x41\nCPU part\t: 0xd0b\n",
    )
    write(roots.sys / "firmware/devicetree/base/model", "Raspberry Pi 5 Model B Rev 1.0\0")
    architecture = os.uname().machine
    assert cpu.model_name(roots) == (
        f"Raspberry Pi 5 Model B Rev 1.0, implementer 0x41 part 0xd0b, {architecture}"
    )
    assert cpu.vendor(roots) == "0x41"


def test_a_container_that_shows_nothing_gets_reasons(roots: Roots) -> None:
    cores = cpu.cores(roots)
    assert cores.sockets is cores.physical is None
    assert cores.reason
    assert cores.logical == os.cpu_count()
    assert cpu.caches(roots) == ((), "no cache sizes in /sys/devices/system/cpu")
    assert cpu.model_name(roots) == os.uname().machine
    assert cpu.vendor(roots) is None
    assert memory.available_bytes(roots) is None
    assert memory.total_bytes(roots) == memory.total_bytes()


@pytest.mark.parametrize(
    ("files", "quota", "usable"),
    [
        ({"cpu.max": "max 100000"}, None, None),
        ({"cpu.max": "150000 100000"}, 1.5, 1),
        ({"cpu.max": "50000 100000"}, 0.5, 1),
        ({"cpu.max": "6400000 100000"}, 64.0, None),
        ({"cpu/a/cpu.cfs_quota_us": "-1", "cpu/a/cpu.cfs_period_us": "100000"}, None, None),
        ({"cpu/a/cpu.cfs_quota_us": "25000", "cpu/a/cpu.cfs_period_us": "20000"}, 1.25, 1),
        ({"cpu/a/b/cpu.cfs_quota_us": "1", "cpu/a/b/cpu.cfs_period_us": "1"}, None, None),
        ({"jobs/cpu.max": "300000 100000", "cpu.max": "120000 100000"}, 1.2, 1),
    ],
)
def test_a_quota_limits_what_is_usable(
    roots: Roots, write: Write, files: dict[str, str], quota: float | None, usable: int | None
) -> None:
    write(roots.proc / "self/cgroup", "3:cpuacct:/\n2:cpu:/a\n0::/jobs\n")
    for name, text in files.items():
        write(roots.sys / "fs/cgroup" / name, text + "\n")
    cores = cpu.cores(roots)
    assert cores.quota == quota
    assert cores.usable == (usable or cores.affinity)


def test_affinity_limits_what_is_usable() -> None:
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert cpu.cores().usable == 1
    finally:
        os.sched_setaffinity(0, allowed)


def caches_of(*levels: tuple[int, int, int]) -> list[Cache]:
    return [Cache(level=1, kind="instruction", bytes=512 * MIB, instances=1)] + [
        Cache(level=level, kind="unified", bytes=size, instances=count)
        for level, size, count in levels
    ]


@pytest.mark.parametrize(
    ("caches", "threads", "expected"),
    [
        ([(2, MIB, 8), (3, 32 * MIB, 2)], 1, {"L2": 0.5, "L3": 16, "DRAM": 256}),
        ([(2, MIB, 8), (3, 32 * MIB, 2)], 8, {"L2": 4, "L3": 32, "DRAM": 256}),
        ([(2, MIB, 96), (3, 32 * MIB, 12)], 96, {"L2": 48, "L3": 192, "DRAM": 1536}),
        ([(2, 2 * MIB, 60), (3, 105 * MIB, 1)], 60, {"L2": 60, "DRAM": 420}),
        ([(2, MIB, 4)], 4, {"L2": 2, "DRAM": 256}),
        ([], 2, {"DRAM": 256}),
    ],
)
def test_working_sets_stay_in_their_level(
    caches: list[tuple[int, int, int]], threads: int, expected: dict[str, float]
) -> None:
    sets = roofs.working_sets(caches_of(*caches), threads, 64 * GIB)
    assert {level: size / MIB for level, size in sets.items()} == expected


def test_too_little_memory_is_not_measured() -> None:
    assert "DRAM" not in roofs.working_sets(caches_of((2, MIB, 1)), 1, GIB - 1)
    assert "DRAM" in roofs.working_sets(caches_of((2, MIB, 1)), 1, GIB)


def stat(roots: Roots, *ticks: int) -> None:
    text = "cpu  " + " ".join(map(str, ticks)) + " 9 9\ncpu0 " + " ".join(map(str, ticks)) + "\n"
    (roots.proc / "stat").write_text(text)


def test_busy_and_steal_are_shares_of_the_window(roots: Roots) -> None:
    (roots.proc / "loadavg").write_text("0.50 1.25 2.00 3/89 4549\n")
    stat(roots, 1000, 0, 500, 9000, 100, 0, 0, 50)
    later = threading.Timer(0.15, stat, (roots, 1020, 3, 510, 9040, 110, 4, 3, 60))
    later.start()
    seen = load.watch(0.5, roots)
    later.join()
    assert seen.busy_percent == pytest.approx(40)
    assert seen.steal_percent == pytest.approx(10)
    assert seen.load_average == (0.5, 1.25, 2.0)
    assert seen.reason is None


def test_a_kernel_that_counts_nothing_gets_a_reason(roots: Roots) -> None:
    seen = load.watch(0.01, roots)
    assert seen.busy_percent is seen.steal_percent is seen.load_average is None
    assert seen.reason
    stat(roots, 0, 0, 0, 0, 0, 0, 0, 0)
    assert load.watch(0.01, roots).busy_percent is None


def test_a_busy_process_is_named_unless_it_is_our_own() -> None:
    spin = f"{sys.executable} -c 'while True: pass'"
    own = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    # A shell that ends at once leaves its child to init, so that it is no child of this process.
    foreign = int(
        subprocess.run(
            ["sh", "-c", f"{spin} >/dev/null 2>&1 & echo $!"],
            capture_output=True,
            check=True,
            text=True,
        ).stdout
    )
    try:
        seen = {process.pid: process for process in load.watch(0.3).processes}
    finally:
        own.kill()
        own.wait()
        os.kill(foreign, signal.SIGKILL)
    assert foreign in seen
    assert seen[foreign].cpu_percent >= load.BUSY_PROCESS_PERCENT
    assert own.pid not in seen
    assert os.getpid() not in seen


@pytest.fixture(scope="module")
def measured() -> tuple[hardware.Machine, float]:
    start = time.perf_counter()
    found = hardware.machine()
    return found, time.perf_counter() - start


def test_this_machine_is_measured_in_seconds(measured: tuple[hardware.Machine, float]) -> None:
    found, seconds = measured
    assert seconds < 30  # 3 to 5 on a quiet machine
    assert {rate.isa for rate in found.peak_rates} == set(_native.supported_isas())
    assert {rate.kind for rate in found.peak_rates} == {"int8", "fp32"}
    assert {rate.threads for rate in found.peak_rates} == {1, found.cores.usable}
    for rate in found.peak_rates:
        assert 0 < rate.median_gops <= rate.best_gops
    for band in found.read_bandwidth:
        assert 0 < band.median_gbs <= band.best_gbs
        assert band.isa == _native.active_isa()
    assert (found.roofs_reason is None) == (
        {band.level for band in found.read_bandwidth} == {"L2", "L3", "DRAM"}
    )


def test_a_machine_survives_json(measured: tuple[hardware.Machine, float]) -> None:
    found, _ = measured
    assert hardware.Machine.model_validate_json(found.model_dump_json()) == found


def test_one_instruction_set_is_active(measured: tuple[hardware.Machine, float]) -> None:
    found, _ = measured
    assert [isa.name for isa in found.isas] == _native.compiled_isas()
    assert [isa.name for isa in found.isas if isa.active] == [_native.active_isa()]
    supported = [isa.name for isa in found.isas if isa.supported]
    assert supported == _native.supported_isas()
    for isa in found.isas:
        assert isa.supported == (isa.reason is None)


def test_an_instruction_set_that_is_not_there_is_refused() -> None:
    ran = subprocess.run(
        [sys.executable, "-P", "-c", "from sllmbench import hardware; hardware.machine()"],
        env={**os.environ, "SLLMBENCH_ISA": "avx1024"},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 1
    assert ran.stderr.splitlines()[-1].startswith("sllmbench.errors.InputError: SLLMBENCH_ISA")


def test_what_is_missing_has_a_reason(measured: tuple[hardware.Machine, float]) -> None:
    found, _ = measured
    assert bool(found.gpus) == (found.gpu_reason is None)
    assert bool(found.caches) == (found.caches_reason is None)
    for sensor in found.energy_sensors:
        assert sensor.available == (sensor.reason is None)


def test_without_measuring_there_are_no_roofs(two_sockets: Roots) -> None:
    found = hardware.machine(measure=False, roots=two_sockets)
    assert found.read_bandwidth == found.peak_rates == ()
    assert found.roofs_reason == "not asked for"
    assert found.cpu_model == "Xeon of a test"
    assert found.memory.available_bytes is None
    assert found.memory.reason


def test_facts_are_those_of_a_record_and_quick() -> None:
    facts = MachineFacts(**hardware.facts())
    assert facts.cores >= 1
    assert facts.memory_bytes > 64 * MIB
    assert facts.isas == tuple(_native.supported_isas())
    assert {"sllmbench", "torch", "transformers", "numpy"} <= facts.libraries.keys()
    best = min(timed(hardware.facts) for _ in range(5))
    assert best < 0.05


def test_facts_of_another_machine(two_sockets: Roots) -> None:
    facts = hardware.facts(roots=two_sockets)
    assert (facts["cpu_model"], facts["cores"]) == ("Xeon of a test", 4)


def timed(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def test_nothing_heavy_is_imported() -> None:
    code = (
        "import sys; from sllmbench import hardware, record; hardware.facts();"
        "from sllmbench.measure import energy, memory, timing;"
        "assert not {'torch', 'transformers', 'scipy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-P", "-c", code], check=True)
