"""Counters of energy on machines laid out as files: what a window of them holds, and refuses."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sllmbench import _native
from sllmbench.hardware.counters import hwmon_counters, perf_counters, powercap_counters
from sllmbench.hardware.energy import cpu_sensor, energy_sensors, powercap_status
from sllmbench.measure.energy import LEAST_UPDATES, EnergyProbe, EnergyWindow
from sllmbench.measure.sensors import UPDATE_NS

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from sllmbench.hardware.roots import Roots

LONG_ENOUGH_S = 1.5 * LEAST_UPDATES * UPDATE_NS / 1e9
RANGE_UJ = 262_143_328_850  # of a zone that add_zone makes
STEP_J = RANGE_UJ / 1e6 / 2**32

Write = Callable[[Path, str], Path]
AddZone = Callable[..., Path]
AssertRefused = Callable[[EnergyWindow, str], None]


def measure(
    roots: Roots, change: Callable[[], object], seconds: float = LONG_ENOUGH_S
) -> EnergyWindow:
    with EnergyProbe(idle_s=0, roots=roots) as window:
        change()
        time.sleep(seconds)
    return window


def test_packages_and_memory_are_summed_and_parts_of_them_are_told_apart(
    roots: Roots, add_zone: AddZone
) -> None:
    counters = [
        (add_zone("intel-rapl:0", "package-0", 1_000_000), 500_000),
        (add_zone("intel-rapl:1", "package-1", 7_000_000), 250_000),
        (add_zone("intel-rapl:0:0", "core", 10), 400_000),
        (add_zone("intel-rapl:1:0", "dram", 20), 125_000),
    ]
    twins = [
        add_zone("intel-rapl:0:1", "uncore", 5),
        add_zone("intel-rapl:2", "psys", 5),
        add_zone("intel-rapl-mmio:0", "package-0", 5),
        add_zone("intel-rapl:0:2", "dram", 0),  # never counted
    ]

    def change() -> None:
        for file, used_uj in counters:
            file.write_text(f"{int(file.read_text()) + used_uj}\n")
        for twin in twins:
            twin.write_text("9000000\n")

    window = measure(roots, change)
    assert window.energy_j == pytest.approx(0.875, rel=1e-12)
    assert window.domains_j == pytest.approx(
        {"package-0": 0.5, "package-1": 0.25, "package-0/core": 0.4, "package-1/dram": 0.125}
    )
    assert window.source == ("RAPL package-0+package-1+package-1/dram, idle power included")
    assert window.reason is None
    assert window.update_period_ns == UPDATE_NS


def test_the_uncertainty_is_an_update_and_a_step_of_each_counter(
    roots: Roots, add_zone: AddZone
) -> None:
    counters = [add_zone(f"intel-rapl:{i}", f"package-{i}", 0) for i in range(2)]
    window = measure(roots, lambda: [counter.write_text("3000000") for counter in counters])
    assert window.window_ns is not None
    assert window.window_ns >= LONG_ENOUGH_S * 1e9
    assert window.uncertainty_j == pytest.approx(6 * UPDATE_NS / window.window_ns + 2 * STEP_J)


def test_a_wrap_is_followed(roots: Roots, add_zone: AddZone) -> None:
    counter = add_zone("intel-rapl:0", "package-0", RANGE_UJ - 300_000)
    window = measure(roots, lambda: counter.write_text("200000"))
    assert window.energy_j == pytest.approx(0.5, rel=1e-12)


@pytest.mark.parametrize("after", [RANGE_UJ // 3, RANGE_UJ - 1])
def test_a_counter_that_was_reset_is_refused(
    roots: Roots, add_zone: AddZone, after: int, assert_refused: AssertRefused
) -> None:
    counter = add_zone("intel-rapl:0", "package-0", RANGE_UJ // 2)
    window = measure(roots, lambda: counter.write_text(str(after)))
    assert_refused(window, "it was reset")


def test_a_counter_that_stands_still_is_not_zero_joules(
    roots: Roots, add_zone: AddZone, assert_refused: AssertRefused
) -> None:
    add_zone("intel-rapl:0", "package-0", 5)
    assert_refused(measure(roots, lambda: None), "package-0's counter did not move")


def test_one_still_counter_of_two_refuses_the_sum(
    roots: Roots, add_zone: AddZone, assert_refused: AssertRefused
) -> None:
    counter = add_zone("intel-rapl:0", "package-0", 5)
    add_zone("intel-rapl:1", "package-1", 5)
    window = measure(roots, lambda: counter.write_text("400000"))
    assert_refused(window, "package-1's counter did not move")


def test_a_short_window_is_refused(
    roots: Roots, add_zone: AddZone, assert_refused: AssertRefused
) -> None:
    counter = add_zone("intel-rapl:0", "package-0", 0)
    window = measure(roots, lambda: counter.write_text("900"), seconds=0.0005)
    assert_refused(window, "too short")


def turning(counter: Path, range_uj: int) -> tuple[float | None, str | None]:
    """What a window sees of a counter that turns over three times at 800 W."""
    window = _native.CounterWindow(1000.0)
    window.add_file("package-0", str(counter), 1e-6, range_uj, UPDATE_NS)
    window.start()
    started, energy_uj = time.monotonic(), 0
    while energy_uj < 3 * range_uj:
        time.sleep(0.01)
        energy_uj = round((time.monotonic() - started) * 800e6)
        with counter.open("r+") as file:  # in place: the thread must never see it empty
            file.write(f"{energy_uj % range_uj:020}")
    ((_, joules, reason, _),) = window.stop()
    return (None, reason) if joules is None else (joules - energy_uj / 1e6, None)


def test_a_counter_that_turns_over_again_and_again_is_followed(
    roots: Roots, add_zone: AddZone
) -> None:
    range_uj = 300_000_000
    for _ in range(5):  # this process may itself be held up for longer than a turn
        counter = add_zone("intel-rapl:0", "package-0", 0, range_uj)
        error_j, reason = turning(counter, range_uj)
        if error_j is not None:
            assert error_j == pytest.approx(0, abs=1e-6)
            return
        assert reason is not None
        assert "whole turn" in reason
    pytest.fail("five times a whole turn went by unread")


def test_a_counter_that_turns_over_faster_than_it_can_be_read_is_refused(
    roots: Roots, add_zone: AddZone, assert_refused: AssertRefused
) -> None:
    add_zone("intel-rapl:0", "package-0", 0, range_uj=1000)  # a turn takes 1 us at 1000 W
    window = measure(roots, lambda: None)
    assert_refused(window, "package-0's counter was not read for .* whole turn")


def test_a_counter_that_is_missing_is_refused(
    roots: Roots, add_zone: AddZone, assert_refused: AssertRefused
) -> None:
    add_zone("intel-rapl:0", "package-0", 0)
    add_zone("intel-rapl:1", "package-1", 0).unlink()
    assert_refused(measure(roots, lambda: None), "package-1 energy_uj: No such file")


@pytest.mark.parametrize("text", ["", "unknown", "-5"])
def test_a_counter_that_is_no_number_is_refused(
    roots: Roots, add_zone: AddZone, text: str, assert_refused: AssertRefused
) -> None:
    counter = add_zone("intel-rapl:0", "package-0", 0)
    assert_refused(measure(roots, lambda: counter.write_text(text)), "not a number")


def test_a_missing_range_is_refused(
    roots: Roots, add_zone: AddZone, assert_refused: AssertRefused
) -> None:
    counter = add_zone("intel-rapl:0", "package-0", 0)
    (counter.parent / "max_energy_range_uj").unlink()
    window = measure(roots, lambda: counter.write_text("500000"))
    assert_refused(window, "package-0: max_energy_range_uj cannot be read")


def test_denied_counters_come_with_the_command_that_opens_them(
    roots: Roots,
    add_zone: AddZone,
    unprivileged: Callable[[], AbstractContextManager[None]],
    assert_refused: AssertRefused,
) -> None:
    counters = [add_zone(f"intel-rapl:{i}", f"package-{i}", 0) for i in range(2)]
    for counter in counters:
        counter.chmod(0o000)
    with unprivileged():
        for counter in counters:
            with pytest.raises(PermissionError):
                counter.read_text()
        window = measure(roots, lambda: None)
        status = powercap_status(roots)
    remedy = f"sudo chmod a+r {counters[0]} {counters[1]}"
    assert_refused(window, "Permission denied")
    assert window.reason is not None
    assert window.reason.endswith(f"remedy: {remedy}")
    assert (status.available, status.remedy) == (False, remedy)


@pytest.mark.parametrize(
    ("vendor", "expected"),
    [("AuthenticAMD", ["package-0-die-0", "package-1-die-0"]), ("GenuineIntel", None)],
)
def test_a_counter_that_amd_repeats_for_each_die_is_read_once(
    roots: Roots, add_zone: AddZone, write: Write, vendor: str, expected: list[str] | None
) -> None:
    write(roots.proc / "cpuinfo", f"processor\t: 0\nvendor_id\t: {vendor}\n")
    names = [f"package-{package}-die-{die}" for package in range(2) for die in range(2)]
    counters = [add_zone(f"intel-rapl:{i}", name, 0) for i, name in enumerate(names)]
    parts = [add_zone(f"intel-rapl:{i}:0", "core", 1) for i in range(4)]

    def change() -> None:
        for counter in counters:
            counter.write_text("250000")
        for part in parts:
            part.write_text("100001")

    expected = expected or names
    window = measure(roots, change)
    assert window.energy_j == pytest.approx(0.25 * len(expected))
    assert window.domains_j == pytest.approx(
        dict.fromkeys(expected, 0.25) | {f"{name}/core": 0.1 for name in expected}
    )


def test_no_counters_at_all(roots: Roots, assert_refused: AssertRefused) -> None:
    assert_refused(measure(roots, lambda: None), "no package domain.*modprobe")


def test_a_virtual_machine_is_sent_to_its_host(
    roots: Roots, write: Write, assert_refused: AssertRefused
) -> None:
    write(roots.proc / "cpuinfo", "flags\t\t: fpu hypervisor avx2\n")
    assert_refused(measure(roots, lambda: None), "virtual machine.*measure on the host")


def test_a_container_that_masks_the_counters_is_told_so(
    roots: Roots, assert_refused: AssertRefused
) -> None:
    folder = roots.sys / "class/powercap"
    folder.mkdir(parents=True)
    (folder / "intel-rapl:0").symlink_to("../../devices/virtual/powercap/intel-rapl:0")
    assert_refused(measure(roots, lambda: None), "container hides")


def add_unit(roots: Roots, write: Write, kind: int, event: str, cpus: str, scale: str) -> Path:
    unit = roots.sys / "bus/event_source/devices/power"
    write(unit / "type", f"{kind}\n")
    write(unit / "cpumask", f"{cpus}\n")
    write(unit / "events/energy-pkg", f"{event}\n")
    write(unit / "events/energy-pkg.scale", f"{scale}\n")
    write(unit / "events/energy-pkg.unit", "Joules\n")
    return unit


def test_where_powercap_is_closed_perf_events_are_counted(
    roots: Roots,
    add_zone: AddZone,
    write: Write,
    unprivileged: Callable[[], AbstractContextManager[None]],
) -> None:
    # The kernel's own clock of processor 0 in the place of its energy: a watt exactly.
    add_unit(roots, write, kind=1, event="event=0x00", cpus="0", scale="1e-9")
    probe = EnergyProbe(idle_s=0, roots=roots)
    with probe as window:
        time.sleep(0.1)
    if window.energy_j is None and "denied" in str(window.reason):
        pytest.skip(f"perf events are closed here: {window.reason}")
    assert window.source == "RAPL through perf_event package-0, idle power included"
    assert window.window_ns is not None
    assert window.energy_j == pytest.approx(window.window_ns / 1e9, rel=0.02)
    counter = add_zone("intel-rapl:0", "package-0", 0)
    sensor, _ = cpu_sensor(roots)
    assert sensor is not None
    assert sensor.kind == "RAPL"
    counter.chmod(0)
    with unprivileged():
        sensor, _ = cpu_sensor(roots)
    assert sensor is not None
    assert sensor.kind == "RAPL through perf_event"


def test_an_event_that_cannot_be_opened_is_no_zero(
    roots: Roots, write: Write, assert_refused: AssertRefused
) -> None:
    add_unit(roots, write, kind=4_000_000, event="event=0x02", cpus="0", scale="2.3e-10")
    assert_refused(measure(roots, lambda: None), "package-0: ")


@pytest.mark.parametrize(
    ("vendor", "expected"),
    [
        ("AuthenticAMD", {"package-0": 0, "package-1": 14}),
        ("GenuineIntel", {"package-0": 0, "package-0-cpu-7": 7, "package-1": 14}),
    ],
)
def test_events_are_read_on_one_processor_of_each_package(
    roots: Roots, write: Write, vendor: str, expected: dict[str, int]
) -> None:
    write(roots.proc / "cpuinfo", f"processor\t: 0\nvendor_id\t: {vendor}\n")
    unit = add_unit(roots, write, kind=23, event="event=0x02", cpus="0,7,14", scale="2.5e-10")
    write(unit / "events/energy-ram", "event=0x03")
    write(unit / "events/energy-ram.scale", "1.5e-5")
    write(unit / "events/energy-ram.unit", "Joules")
    write(unit / "events/energy-psys", "event=0x05")
    for cpu, package in ((0, 0), (7, 0), (14, 1)):
        write(roots.sys / f"devices/system/cpu/cpu{cpu}/topology/physical_package_id", f"{package}")
    found = perf_counters(roots)
    assert {c.name: c.cpu for c in found if c.domain == "package"} == expected
    assert {(c.type, c.config, c.joules_per_unit) for c in found if c.domain == "package"} == {
        (23, 2, 2.5e-10)
    }
    assert [c.name for c in found if c.domain == "dram"] == [f"{name}/dram" for name in expected]
    assert {(c.config, c.joules_per_unit) for c in found if c.domain == "dram"} == {(3, 1.5e-5)}


def test_amds_monitors_are_read_by_socket(
    roots: Roots, write: Write, assert_refused: AssertRefused
) -> None:
    folder = roots.sys / "class/hwmon/hwmon1"
    write(roots.sys / "class/hwmon/hwmon0/energy1_input", "12")  # of who knows what
    files = []
    for number, label in enumerate(("Ecore000", "Ecore001", "Esocket0", "Esocket1"), 1):
        write(folder / f"energy{number}_label", label)
        files.append(write(folder / f"energy{number}_input", "1000000"))

    def change() -> None:
        for number, file in enumerate(files, 1):
            file.write_text(f"{1_000_000 + number * 100_000}")

    window = measure(roots, change)
    assert window.energy_j == pytest.approx(0.7)
    assert window.source == "hwmon package-0+package-1, idle power included"
    assert window.domains_j == pytest.approx(
        {"core-000": 0.1, "core-001": 0.2, "package-0": 0.3, "package-1": 0.4}
    )
    write(folder / "energy3_input", "900000")
    backwards = measure(roots, lambda: files[2].write_text("800000"))
    assert_refused(backwards, "package-0's counter went from 900000 to 800000 .* it was reset")


def test_sensors_that_are_there(roots: Roots, add_zone: AddZone, write: Write) -> None:
    add_zone("intel-rapl:0", "package-0", 0)
    add_unit(roots, write, kind=23, event="event=0x02", cpus="0", scale="2.3e-10")
    write(roots.proc / "sys/kernel/perf_event_paranoid", "0")
    write(roots.sys / "class/hwmon/hwmon0/energy1_input", "12")
    write(roots.sys / "class/hwmon/hwmon0/energy1_label", "Esocket0")
    available = {sensor.name: sensor.available for sensor in energy_sensors(roots)}
    assert available.pop("NVML") in (True, False)
    assert set(available.values()) == {True}
    assert len(available) == 3
    assert len(powercap_counters(roots)) == len(hwmon_counters(roots)) == 1


def test_sensors_that_are_not_there_have_a_reason_and_a_remedy(roots: Roots) -> None:
    for sensor in energy_sensors(roots)[:3]:
        assert not sensor.available
        assert sensor.reason
        assert sensor.remedy


@pytest.mark.parametrize(
    ("capabilities", "available"), [("0000000000000000", False), ("0000004000000000", True)]
)
def test_perf_events_of_the_system_need_a_right(
    roots: Roots, write: Write, capabilities: str, available: bool, assert_refused: AssertRefused
) -> None:
    add_unit(roots, write, kind=23, event="event=0x02", cpus="0", scale="2.3e-10")
    write(roots.proc / "sys/kernel/perf_event_paranoid", "2")
    write(roots.proc / "self/status", f"CapEff:\t{capabilities}\n")
    sensor = energy_sensors(roots)[1]
    assert sensor.available is available
    assert sensor.remedy == (None if available else "sudo sysctl kernel.perf_event_paranoid=0")
    if not available:
        assert_refused(measure(roots, lambda: None), "paranoid is 2; remedy: sudo sysctl")
