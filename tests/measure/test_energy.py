"""Energy windows on machines laid out as files."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sllmbench.hardware.energy import energy_sensors, powercap_status, rapl_packages
from sllmbench.measure.energy import SHORTEST_NS, EnergyWindow

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from sllmbench.hardware.roots import Roots

RANGE_UJ = 262_143_328_850
LONG_ENOUGH_S = 1.5 * SHORTEST_NS / 1e9

Write = Callable[[Path, str], Path]
AddZone = Callable[..., Path]


@pytest.fixture
def add_zone(roots: Roots, write: Write) -> AddZone:
    def add_zone(zone: str, name: str, energy_uj: int, range_uj: int = RANGE_UJ) -> Path:
        folder = roots.sys / "class/powercap" / zone
        write(folder / "name", f"{name}\n")
        write(folder / "max_energy_range_uj", f"{range_uj}\n")
        return write(folder / "energy_uj", f"{energy_uj}\n")

    return add_zone


def measure(roots: Roots, change: Callable[[], object], seconds: float = LONG_ENOUGH_S):
    with EnergyWindow(roots) as window:
        change()
        time.sleep(seconds)
    return window


def assert_refused(window: EnergyWindow, pattern: str) -> None:
    assert window.energy_j is None
    assert window.source is None
    assert window.reason is not None
    assert re.search(pattern, window.reason), window.reason


def test_two_packages_are_summed_and_parts_of_them_are_not(roots: Roots, add_zone: AddZone) -> None:
    first = add_zone("intel-rapl:0", "package-0", 1_000_000)
    second = add_zone("intel-rapl:1", "package-1", 7_000_000)
    twins = [
        add_zone("intel-rapl:0:0", "core", 0),
        add_zone("intel-rapl:0:1", "dram", 0),
        add_zone("intel-rapl:2", "psys", 0),
        add_zone("intel-rapl-mmio:0", "package-0", 0),
    ]

    def change() -> None:
        first.write_text("1500000\n")
        second.write_text("7250000\n")
        for twin in twins:
            twin.write_text("9000000\n")

    window = measure(roots, change)
    assert window.energy_j == pytest.approx(0.75, rel=1e-12)
    assert window.source is not None
    assert "package-0+package-1" in window.source
    assert window.reason is None


def test_a_wrap_is_followed(roots: Roots, add_zone: AddZone) -> None:
    counter = add_zone("intel-rapl:0", "package-0", RANGE_UJ - 300_000)
    window = measure(roots, lambda: counter.write_text("200000"))
    assert window.energy_j == pytest.approx(0.5, rel=1e-12)


@pytest.mark.parametrize("after", [RANGE_UJ // 3, RANGE_UJ - 1])
def test_a_counter_that_was_reset_is_refused(roots: Roots, add_zone: AddZone, after: int) -> None:
    counter = add_zone("intel-rapl:0", "package-0", RANGE_UJ // 2)
    window = measure(roots, lambda: counter.write_text(str(after)))
    assert_refused(window, "it was reset")


def test_a_counter_that_stands_still_is_not_zero_joules(roots: Roots, add_zone: AddZone) -> None:
    add_zone("intel-rapl:0", "package-0", 5)
    assert_refused(measure(roots, lambda: None), "package-0's counter did not move")


def test_one_still_counter_of_two_refuses_the_sum(roots: Roots, add_zone: AddZone) -> None:
    counter = add_zone("intel-rapl:0", "package-0", 5)
    add_zone("intel-rapl:1", "package-1", 5)
    window = measure(roots, lambda: counter.write_text("400000"))
    assert_refused(window, "package-1's counter did not move")


def test_a_short_window_is_refused(roots: Roots, add_zone: AddZone) -> None:
    counter = add_zone("intel-rapl:0", "package-0", 0)
    window = measure(roots, lambda: counter.write_text("900"), seconds=0.0005)
    assert_refused(window, "too short")


def test_a_window_that_may_hide_a_turn_is_refused(roots: Roots, add_zone: AddZone) -> None:
    counter = add_zone("intel-rapl:0", "package-0", 0, range_uj=20_000_000)
    window = measure(roots, lambda: counter.write_text("1000"))
    assert_refused(window, "whole turn")


def test_a_counter_that_vanishes_is_refused(roots: Roots, add_zone: AddZone) -> None:
    add_zone("intel-rapl:0", "package-0", 0)
    counter = add_zone("intel-rapl:1", "package-1", 0)
    assert_refused(measure(roots, counter.unlink), "package-1 energy_uj: No such file")


@pytest.mark.parametrize("text", ["", "unknown", "-5"])
def test_a_counter_that_is_no_number_is_refused(roots: Roots, add_zone: AddZone, text: str) -> None:
    counter = add_zone("intel-rapl:0", "package-0", 0)
    assert_refused(measure(roots, lambda: counter.write_text(text)), "not a number")


def test_a_missing_range_is_refused(roots: Roots, add_zone: AddZone) -> None:
    counter = add_zone("intel-rapl:0", "package-0", 0)
    (counter.parent / "max_energy_range_uj").unlink()
    window = measure(roots, lambda: counter.write_text("500000"))
    assert_refused(window, "max_energy_range_uj: No such file")


def test_denied_counters_come_with_the_command_that_opens_them(
    roots: Roots,
    add_zone: AddZone,
    unprivileged: Callable[[], AbstractContextManager[None]],
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
    for number, name in enumerate(names):
        add_zone(f"intel-rapl:{number}", name, 0)
    assert [domain.name for domain in rapl_packages(roots)] == (expected or names)


def test_no_counters_at_all(roots: Roots) -> None:
    assert_refused(measure(roots, lambda: None), "no package domain.*modprobe")


def test_a_virtual_machine_is_sent_to_its_host(roots: Roots, write: Write) -> None:
    write(roots.proc / "cpuinfo", "flags\t\t: fpu hypervisor avx2\n")
    assert_refused(measure(roots, lambda: None), "virtual machine.*measure on the host")


def test_a_container_that_masks_the_counters_is_told_so(roots: Roots) -> None:
    folder = roots.sys / "class/powercap"
    folder.mkdir(parents=True)
    (folder / "intel-rapl:0").symlink_to("../../devices/virtual/powercap/intel-rapl:0")
    assert_refused(measure(roots, lambda: None), "container hides")


def test_sensors_that_are_there(roots: Roots, add_zone: AddZone, write: Write) -> None:
    add_zone("intel-rapl:0", "package-0", 0)
    write(roots.sys / "bus/event_source/devices/power/events/energy-pkg", "event=0x02")
    write(roots.proc / "sys/kernel/perf_event_paranoid", "0")
    write(roots.sys / "class/hwmon/hwmon0/energy1_input", "12")
    available = {sensor.name: sensor.available for sensor in energy_sensors(roots)}
    assert available.pop("NVML") in (True, False)
    assert set(available.values()) == {True}
    assert len(available) == 3


def test_sensors_that_are_not_there_have_a_reason_and_a_remedy(roots: Roots) -> None:
    for sensor in energy_sensors(roots)[:3]:
        assert not sensor.available
        assert sensor.reason
        assert sensor.remedy


@pytest.mark.parametrize(
    ("capabilities", "available"), [("0000000000000000", False), ("0000004000000000", True)]
)
def test_perf_events_of_the_system_need_a_right(
    roots: Roots, write: Write, capabilities: str, available: bool
) -> None:
    write(roots.sys / "bus/event_source/devices/power/events/energy-pkg", "event=0x02")
    write(roots.proc / "sys/kernel/perf_event_paranoid", "2")
    write(roots.proc / "self/status", f"CapEff:\t{capabilities}\n")
    sensor = energy_sensors(roots)[1]
    assert sensor.available is available
    assert sensor.remedy == (None if available else "sudo sysctl kernel.perf_event_paranoid=0")
