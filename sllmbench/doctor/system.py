"""The kernel's settings, the hypervisor and the power supply."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sllmbench.doctor import effects
from sllmbench.doctor.finding import Finding, Subject, bad, ok, unknown, unmeasured, write
from sllmbench.hardware.roots import read_int, read_text

if TYPE_CHECKING:
    from collections.abc import Iterator

_CLOCKSOURCE = "devices/system/clocksource/clocksource0"
_PROFILE = "firmware/acpi/platform_profile"
_OWN_EVENTS = 2
"""The highest kernel.perf_event_paranoid that lets a user count events of his own processes."""


def virtual_machine(subject: Subject) -> Iterator[Finding]:
    """A hypervisor hides counters, and its other guests share caches and memory."""
    if subject.virtual:
        yield bad(
            "notice",
            "virtual machine",
            "the host hides clocks, energy and heat; its other guests share caches and memory",
            subject.gauge(effects.kept_off),
            advice="measure on the host, or compare only what takes turns in one run",
            source=subject.roots.proc / "cpuinfo",
        )
    else:
        yield ok("virtual machine", "no", subject.roots.proc / "cpuinfo")


def clocksource(subject: Subject) -> Iterator[Finding]:
    """Any other clock than the time stamp counter is a system call or a device access away."""
    title = "clock source"
    folder = subject.roots.sys / _CLOCKSOURCE
    current = read_text(folder / "current_clocksource")
    available = (read_text(folder / "available_clocksource") or "").split()
    if current is None:
        yield unknown(title, f"{folder}/current_clocksource cannot be read")
    elif current in ("tsc", "arch_sys_counter"):
        yield ok(title, current, folder / "current_clocksource")
    else:
        there = "tsc" in available
        yield bad(
            "problem" if there else "notice",
            title,
            f"{current}; available: {', '.join(available) or 'unknown'}",
            subject.gauge(effects.clock_reading),
            remedy=write("tsc", f"/sys/{_CLOCKSOURCE}/current_clocksource") if there else None,
            advice=None if there else "the kernel refused the tsc: see `dmesg | grep -i tsc`",
            source=folder / "current_clocksource",
        )


def perf_events(subject: Subject) -> Iterator[Finding]:
    """Some kernels let no user count events, of his own processes neither."""
    title = "perf events"
    file = subject.roots.proc / "sys/kernel/perf_event_paranoid"
    level = read_int(file)
    if level is None:
        yield unknown(title, f"{file} cannot be read")
    elif level <= _OWN_EVENTS:
        yield ok(title, f"kernel.perf_event_paranoid is {level}", file)
    else:
        yield bad(
            "notice",
            title,
            f"kernel.perf_event_paranoid is {level}: users cannot count events of their processes",
            unmeasured("it hides migrations from the record and changes no speed"),
            remedy=f"sudo sysctl kernel.perf_event_paranoid={_OWN_EVENTS}",
            source=file,
        )


def mitigations(subject: Subject) -> Iterator[Finding]:
    """System calls and context switches cost more where flaws of the processor are covered."""
    folder = subject.roots.sys / "devices/system/cpu/vulnerabilities"
    covered = [
        file.name
        for file in sorted(folder.glob("*"))
        if (read_text(file) or "").startswith("Mitigation")
    ]
    if covered:
        yield bad(
            "notice",
            "mitigations",
            f"flaws of the processor that are covered: {', '.join(covered)}",
            unmeasured("it would take a restart without them; kernels make no system calls"),
            advice="leave them on, and compare only machines that have the same",
            source=folder,
        )
    elif folder.is_dir():
        yield ok("mitigations", "none", folder)
    else:
        yield unknown("mitigations", f"{folder} is not there")


def power_supply(subject: Subject) -> Iterator[Finding]:
    """On battery the firmware holds the processor back."""
    folder = subject.roots.sys / "class/power_supply"
    discharging = [
        file.parent.name
        for file in sorted(folder.glob("*/status"))
        if read_text(file) == "Discharging"
        and read_text(file.with_name("type")) == "Battery"
        and read_text(file.with_name("scope")) != "Device"  # of a mouse
    ]
    if discharging:
        yield bad(
            "problem",
            "power supply",
            f"running on {', '.join(discharging)}",
            subject.gauge(effects.clock_spread),
            advice="plug it in",
            source=folder,
        )
    else:
        yield ok("power supply", "no battery is discharging", folder)


def platform_profile(subject: Subject) -> Iterator[Finding]:
    """Laptops have a switch of the firmware beside the governor."""
    file = subject.roots.sys / _PROFILE
    choices = (read_text(file.with_name("platform_profile_choices")) or "").split()
    chosen = read_text(file)
    if chosen is None:
        return
    if chosen == "performance" or "performance" not in choices:
        yield ok("platform profile", chosen, file)
    else:
        yield bad(
            "problem",
            "platform profile",
            f"{chosen}; performance is there",
            subject.gauge(effects.clock_spread),
            remedy=write("performance", f"/sys/{_PROFILE}"),
            source=file,
        )


CHECKS = (
    virtual_machine,
    clocksource,
    perf_events,
    mitigations,
    power_supply,
    platform_profile,
)
