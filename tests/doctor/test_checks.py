"""Each check on machines laid out as files: something found, all well, nothing to read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from sllmbench.doctor import cpu, energy, limits, load, memory, system
from sllmbench.hardware.load import ForeignProcess, Load

if TYPE_CHECKING:
    from collections.abc import Callable


CPU = "sys/devices/system/cpu"
CGROUP = "sys/fs/cgroup"
HYPERVISOR = {"proc/cpuinfo": "flags\t\t: fpu hypervisor avx2"}
TWO_CORES = {
    f"{CPU}/cpu{number}/topology/thread_siblings_list": f"{number % 2},{number % 2 + 2}"
    for number in range(4)
}
ONE_THREAD = {
    f"{CPU}/cpu{number}/topology/thread_siblings_list": str(number) for number in range(4)
}
CLOCK = "sys/devices/system/clocksource/clocksource0"
NODES = {
    "sys/devices/system/node/node0/cpulist": "0-1",
    "sys/devices/system/node/node1/cpulist": "2-3",
    "proc/self/status": "Mems_allowed_list:\t0-1",
}
MEMINFO = "MemTotal: 16777216 kB\nMemAvailable: {} kB\nSwapTotal: {} kB\nSwapFree: {} kB"


def governors(*names: str) -> dict[str, str]:
    return {f"{CPU}/cpu{i}/cpufreq/scaling_governor": name for i, name in enumerate(names)}


def in_cgroup(files: dict[str, str]) -> dict[str, str]:
    return {
        "proc/self/cgroup": "4:memory:/job\n1:cpu:/job\n0::/job",
        **{f"{CGROUP}/{name}": text for name, text in files.items()},
    }


CASES: list[tuple[Callable[..., Any], dict[str, str], str, str, str | None]] = [
    # check, files, severity, a part of what is found, a part of the remedy
    (cpu.governor, governors("performance", "performance"), "ok", "performance", None),
    (
        cpu.governor,
        governors("powersave", "performance", "powersave"),
        "problem",
        "powersave on 2 of 3 processors, performance on 1",
        "echo performance | sudo tee /sys/devices/system/cpu/cpu*/cpufreq/scaling_governor",
    ),
    (cpu.governor, {}, "notice", "unknown: no scaling_governor", None),
    (cpu.governor, HYPERVISOR, "notice", "the host's to set", None),
    (
        cpu.energy_preference,
        {f"{CPU}/cpu0/cpufreq/energy_performance_preference": "balance_power"},
        "problem",
        "balance_power on 1 of 1",
        "echo performance | sudo tee",
    ),
    (
        cpu.energy_preference,
        {f"{CPU}/cpu0/cpufreq/energy_performance_preference": "performance"},
        "ok",
        "performance",
        None,
    ),
    (
        cpu.clock_limit,
        {
            f"{CPU}/cpu0/cpufreq/scaling_max_freq": "2000000",
            f"{CPU}/cpu0/cpufreq/cpuinfo_max_freq": "3600000",
        },
        "problem",
        "limited to 2.00 GHz, the processor has 3.60",
        "echo 3600000 | sudo tee",
    ),
    (cpu.boost, {f"{CPU}/cpufreq/boost": "1"}, "notice", "on", f"echo 0 | sudo tee /{CPU}"),
    (cpu.boost, {f"{CPU}/cpufreq/boost": "0"}, "ok", "off", None),
    (cpu.boost, {f"{CPU}/intel_pstate/no_turbo": "0"}, "notice", "on", "echo 1 | sudo tee"),
    (cpu.boost, {f"{CPU}/intel_pstate/no_turbo": "1"}, "ok", "off", None),
    (cpu.boost, governors("performance"), "notice", "unknown", None),
    (
        cpu.smt,
        TWO_CORES,
        "notice",
        "4 usable processors are threads of 2 cores",
        "taskset -c 0,1 sllmbench run",
    ),
    (cpu.smt, ONE_THREAD, "ok", "no two usable processors", None),
    (cpu.smt, {}, "notice", "unknown: no topology", None),
    (
        cpu.isolated,
        {f"{CPU}/isolated": "2-3,9"},
        "notice",
        "2 usable processors are isolated",
        None,
    ),
    (cpu.isolated, {f"{CPU}/isolated": "8-9"}, "ok", "none of them in this mask", None),
    (
        cpu.heat,
        {f"{CPU}/cpu0/thermal_throttle/core_throttle_count": "7"},
        "notice",
        "7 since the machine started",
        None,
    ),
    (cpu.heat, {f"{CPU}/cpu0/thermal_throttle/core_throttle_count": "0"}, "ok", "none", None),
    (cpu.heat, {}, "notice", "unknown", None),
    (
        limits.affinity,
        {f"{CPU}/online": "0-7"},
        "problem",
        "4 of 8 processors may be used",
        "taskset -c 0-7 sllmbench run",
    ),
    (limits.affinity, {f"{CPU}/online": "0-3"}, "ok", "all 4 processors", None),
    (limits.affinity, {}, "notice", "unknown", None),
    (
        limits.quota,
        in_cgroup({"job/cpu.max": "150000 100000"}),
        "problem",
        "1.50 processors of the 4",
        "echo max | sudo tee",
    ),
    (
        limits.quota,
        in_cgroup({"cpu/job/cpu.cfs_quota_us": "50000", "cpu/job/cpu.cfs_period_us": "100000"}),
        "problem",
        "0.50 processors",
        "echo -1 | sudo tee",
    ),
    (limits.quota, in_cgroup({"job/cpu.max": "max 100000"}), "ok", "none", None),
    (limits.quota, in_cgroup({"job/cpu.max": "400000 100000"}), "ok", "no fewer than the 4", None),
    (
        limits.held_back,
        in_cgroup({"job/cpu.stat": "nr_periods 9\nnr_throttled 4\nthrottled_usec 2500000"}),
        "notice",
        "held back 4 times, 2.5 s",
        None,
    ),
    (
        limits.held_back,
        in_cgroup({"cpu/job/cpu.stat": "nr_throttled 4\nthrottled_time 2500000000"}),
        "notice",
        "held back 4 times, 2.5 s",
        None,
    ),
    (
        limits.memory_limit,
        {"proc/meminfo": MEMINFO.format(1, 0, 0)}
        | in_cgroup({"job/memory.max": str(4 << 30), "job/memory.current": str(3 << 30)}),
        "notice",
        "4.0 of 16.0 GiB, 3.0 used",
        "echo max | sudo tee",
    ),
    (
        limits.memory_limit,
        {"proc/meminfo": MEMINFO.format(1, 0, 0)}
        | in_cgroup(
            {
                "memory/job/memory.limit_in_bytes": str(1 << 30),
                "memory/job/memory.usage_in_bytes": "0",
            }
        ),
        "notice",
        "1.0 of 16.0 GiB",
        "echo -1 | sudo tee",
    ),
    (limits.memory_limit, {"proc/meminfo": MEMINFO.format(1, 0, 0)}, "ok", "none", None),
    (
        memory.swap,
        {"proc/meminfo": MEMINFO.format(1, 4194304, 3145728)},
        "notice",
        "1.00 of 4.0 GiB in use",
        "sudo swapoff -a",
    ),
    (memory.swap, {"proc/meminfo": MEMINFO.format(1, 4194304, 4194304)}, "ok", "none in use", None),
    (memory.swap, {"proc/meminfo": MEMINFO.format(1, 0, 0)}, "ok", "none", None),
    (memory.swap, {}, "notice", "unknown", None),
    (
        memory.free_memory,
        {"proc/meminfo": MEMINFO.format(1048576, 0, 0)},
        "problem",
        "1.0 of 16.0 GiB can be taken",
        None,
    ),
    (
        memory.free_memory,
        {"proc/meminfo": MEMINFO.format(8388608, 0, 0)},
        "ok",
        "8.0 of 16.0",
        None,
    ),
    (memory.free_memory, {}, "notice", "unknown", None),
    (
        memory.huge_pages,
        {"sys/kernel/mm/transparent_hugepage/enabled": "always madvise [never]"},
        "problem",
        "never given",
        "echo madvise | sudo tee /sys/kernel/mm/transparent_hugepage/enabled",
    ),
    (
        memory.huge_pages,
        {"sys/kernel/mm/transparent_hugepage/enabled": "always [madvise] never"},
        "ok",
        "madvise",
        None,
    ),
    (memory.huge_pages, {}, "notice", "unknown", None),
    (
        memory.numa,
        NODES,
        "notice",
        "of 2 nodes, memory of 2",
        "numactl --cpunodebind=0 --membind=0",
    ),
    (memory.numa, {"sys/devices/system/node/node0/cpulist": "0-7"}, "ok", "of one node", None),
    (memory.numa, {}, "notice", "unknown", None),
    (system.virtual_machine, HYPERVISOR, "notice", "the host hides", None),
    (system.virtual_machine, {"proc/cpuinfo": "flags : fpu"}, "ok", "no", None),
    (
        system.clocksource,
        {f"{CLOCK}/current_clocksource": "hpet", f"{CLOCK}/available_clocksource": "tsc hpet"},
        "problem",
        "hpet; available: tsc, hpet",
        f"echo tsc | sudo tee /{CLOCK}/current_clocksource",
    ),
    (
        system.clocksource,
        {f"{CLOCK}/current_clocksource": "hpet", f"{CLOCK}/available_clocksource": "hpet acpi_pm"},
        "notice",
        "hpet",
        None,
    ),
    (system.clocksource, {f"{CLOCK}/current_clocksource": "tsc"}, "ok", "tsc", None),
    (system.clocksource, {}, "notice", "unknown", None),
    (
        system.perf_events,
        {"proc/sys/kernel/perf_event_paranoid": "4"},
        "notice",
        "is 4",
        "sudo sysctl kernel.perf_event_paranoid=2",
    ),
    (system.perf_events, {"proc/sys/kernel/perf_event_paranoid": "-1"}, "ok", "is -1", None),
    (system.perf_events, {}, "notice", "unknown", None),
    (
        system.mitigations,
        {
            f"{CPU}/vulnerabilities/mds": "Mitigation: x",
            f"{CPU}/vulnerabilities/l1tf": "Not affected",
        },
        "notice",
        "flaws of the processor that are covered: mds",
        None,
    ),
    (system.mitigations, {f"{CPU}/vulnerabilities/l1tf": "Not affected"}, "ok", "none", None),
    (system.mitigations, {}, "notice", "unknown", None),
    (
        system.power_supply,
        {
            "sys/class/power_supply/BAT0/status": "Discharging",
            "sys/class/power_supply/BAT0/type": "Battery",
        },
        "problem",
        "running on BAT0",
        None,
    ),
    (
        system.power_supply,
        {
            "sys/class/power_supply/mouse/status": "Discharging",
            "sys/class/power_supply/mouse/type": "Battery",
            "sys/class/power_supply/mouse/scope": "Device",
        },
        "ok",
        "no battery",
        None,
    ),
    (
        system.platform_profile,
        {
            "sys/firmware/acpi/platform_profile": "balanced",
            "sys/firmware/acpi/platform_profile_choices": "low-power balanced performance",
        },
        "problem",
        "balanced",
        "echo performance | sudo tee /sys/firmware/acpi/platform_profile",
    ),
    (
        system.platform_profile,
        {
            "sys/firmware/acpi/platform_profile": "performance",
            "sys/firmware/acpi/platform_profile_choices": "balanced performance",
        },
        "ok",
        "performance",
        None,
    ),
    (energy.sensors, HYPERVISOR, "notice", "powercap (RAPL): a virtual machine", None),
    (energy.sensors, {}, "problem", "no package domain", "sudo modprobe intel_rapl_msr  # AMD"),
    (
        energy.sensors,
        {
            "sys/class/powercap/intel-rapl:0/name": "package-0",
            "sys/class/powercap/intel-rapl:0/energy_uj": "5",
            "sys/class/powercap/intel-rapl:0/max_energy_range_uj": "262143328850",
        },
        "ok",
        "powercap (RAPL) can be read",
        None,
    ),
]


@pytest.mark.parametrize(("check", "files", "severity", "found", "remedy"), CASES)
def test_a_machine_of_files(
    patient: Any,
    check: Callable[..., Any],
    files: dict[str, str],
    severity: str,
    found: str,
    remedy: str | None,
) -> None:
    finding = patient.write(files).one(check)
    assert finding.severity == severity
    assert found in finding.found
    if remedy is None:
        assert finding.remedy is None
    else:
        assert finding.remedy is not None
        assert remedy in finding.remedy
        assert "\n" not in finding.remedy
    # Nothing that was found is without its cost, or the reason why there is no figure.
    assert (finding.effect is None) == (severity == "ok")
    if finding.effect is not None:
        assert finding.effect.text.startswith("not measured: ")


@pytest.mark.parametrize(
    "check", [cpu.energy_preference, cpu.clock_limit, cpu.isolated, system.platform_profile]
)
def test_what_most_machines_lack_is_not_mentioned(patient: Any, check: Callable[..., Any]) -> None:
    assert patient.examined(check) == []


def test_a_quota_that_never_stopped_a_thread_is_not_mentioned(patient: Any) -> None:
    patient.write(in_cgroup({"job/cpu.stat": "nr_periods 9\nnr_throttled 0\nthrottled_usec 0"}))
    assert patient.examined(limits.held_back) == []


def test_a_quota_of_today_is_mentioned_once(patient: Any) -> None:
    stat = {"job/cpu.stat": "nr_throttled 4\nthrottled_usec 9"}
    patient.write(in_cgroup(stat))
    assert len(patient.examined(limits.held_back)) == 1
    patient.write(in_cgroup({"job/cpu.max": "100000 100000"}))
    assert patient.examined(limits.held_back) == []
    assert patient.one(limits.quota).severity == "problem"


def watched(*percents: float, steal: float | None = 0.0) -> Load:
    return Load(
        window_s=1.0,
        load_average=None,
        busy_percent=1.0,
        steal_percent=steal,
        reason=None if steal is not None else "not counted here",
        processes=tuple(
            ForeignProcess(pid=100 + i, name=f"p{i}", cpu_percent=percent)
            for i, percent in enumerate(percents)
        ),
    )


@pytest.mark.parametrize(
    ("check", "seen", "severity", "found"),
    [
        (load.foreign_load, watched(), "ok", "no busy process"),
        (load.foreign_load, watched(7), "notice", "p0 (100) 7%"),
        (load.foreign_load, watched(97, 12), "problem", "p0 (100) 97%, p1 (101) 12%"),
        (load.foreign_load, watched(9, 8, 7), "problem", "p2 (102) 7%"),
        (load.foreign_load, watched(*[50] * 7), "problem", "p4 (104) 50%, 2 more"),
        (load.steal, watched(steal=0.4), "ok", "the host took 0.4%"),
        (load.steal, watched(steal=3.2), "problem", "the host took 3.2%"),
        (load.steal, watched(steal=None), "notice", "unknown: not counted here"),
    ],
)
def test_load(
    patient: Any,
    monkeypatch: pytest.MonkeyPatch,
    check: Callable[..., Any],
    seen: Load,
    severity: str,
    found: str,
) -> None:
    monkeypatch.setattr("sllmbench.hardware.load.watch", lambda *_: seen)
    finding = patient.one(check)
    assert finding.severity == severity
    assert found in finding.found
    if check is load.foreign_load and severity != "ok":
        pids = " ".join(str(process.pid) for process in seen.processes)
        assert finding.remedy == f"sudo renice -n 19 -p {pids}"
