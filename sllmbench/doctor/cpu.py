"""What the processor's clock and its threads do to numbers."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from sllmbench.doctor import effects
from sllmbench.doctor.finding import Finding, Subject, bad, ok, unknown, unmeasured, write
from sllmbench.hardware import cpu
from sllmbench.hardware.roots import parse_list, read_int, read_text

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_CPUS = "devices/system/cpu"
_FREQUENCY = f"/sys/{_CPUS}/cpu*/cpufreq"


def governor(subject: Subject) -> Iterator[Finding]:
    """The policy that sets the clock must be the one that does not save power."""
    title = "cpufreq governor"
    files = _frequency_files(subject, "scaling_governor")
    found = Counter(text for file in files if (text := read_text(file)))
    if not found:
        reason = f"no scaling_governor in {_FREQUENCY}"
        if subject.virtual:
            reason += "; the clock of a virtual machine is the host's to set"
        yield unknown(title, reason).model_copy(
            update={"effect": subject.gauge(effects.clock_spread)}
        )
    elif set(found) == {"performance"}:
        yield ok(title, "performance", files[0])
    else:
        yield bad(
            "problem",
            title,
            _shares(found, "performance is wanted"),
            subject.gauge(effects.clock_spread),
            remedy=write("performance", f"{_FREQUENCY}/scaling_governor"),
            source=files[0],
        )


def energy_preference(subject: Subject) -> Iterator[Finding]:
    """Where the hardware chooses the clock itself, this says what for."""
    files = _frequency_files(subject, "energy_performance_preference")
    found = Counter(text for file in files if (text := read_text(file)))
    title = "energy performance preference"
    if found and set(found) <= {"performance", "0"}:
        yield ok(title, "performance", files[0])
    elif found:
        yield bad(
            "problem",
            title,
            _shares(found, "performance is wanted"),
            subject.gauge(effects.clock_spread),
            remedy=write("performance", f"{_FREQUENCY}/energy_performance_preference"),
            advice="under the powersave governor; the performance governor sets it too",
            source=files[0],
        )


def clock_limit(subject: Subject) -> Iterator[Finding]:
    """Somebody may have set the highest clock below what the processor has."""
    for file in _frequency_files(subject, "scaling_max_freq"):
        limit_khz = read_int(file)
        most_khz = read_int(file.with_name("cpuinfo_max_freq"))
        if limit_khz is not None and most_khz is not None and limit_khz < most_khz:
            yield bad(
                "problem",
                "highest clock",
                f"limited to {limit_khz / 1e6:.2f} GHz, the processor has {most_khz / 1e6:.2f}",
                unmeasured("a clock that is not allowed cannot be tried"),
                remedy=write(str(most_khz), f"{_FREQUENCY}/scaling_max_freq"),
                source=file,
            )
            return


def boost(subject: Subject) -> Iterator[Finding]:
    """A clock above the nominal one depends on heat and on what the other cores do."""
    title = "turbo"
    switches = ((f"{_CPUS}/cpufreq/boost", 1, "0"), (f"{_CPUS}/intel_pstate/no_turbo", 0, "1"))
    for name, on, off in switches:
        file = subject.roots.sys / name
        value = read_int(file)
        if value is None:
            continue
        if value != on:
            yield ok(title, "off", file)
            return
        yield bad(
            "notice",
            title,
            "on: the clock goes above the nominal one while heat and power allow it",
            subject.gauge(effects.clock_spread),
            remedy=write(off, f"/sys/{name}"),
            advice="steadier and slower; leave it on to measure what users get",
            source=file,
        )
        return
    if _frequency_files(subject, "scaling_governor"):
        yield unknown(title, "neither cpufreq/boost nor intel_pstate/no_turbo is there")


def smt(subject: Subject) -> Iterator[Finding]:
    """Two threads of one core share its multipliers: the second adds little or takes away."""
    title = "SMT"
    cores = cpu.siblings(subject.roots)
    if not cores:
        yield unknown(title, "no topology in /sys/devices/system/cpu")
        return
    allowed = subject.allowed
    shared = [mine for core in cores if len(mine := core & allowed) > 1]
    source = subject.roots.sys / _CPUS / "cpu0/topology/thread_siblings_list"
    if not shared:
        yield ok(title, "no two usable processors are threads of one core", source)
        return
    one_each = tuple(sorted(min(mine) for core in cores if (mine := core & allowed)))
    pinned = ",".join(map(str, one_each))
    yield bad(
        "notice",
        title,
        f"{sum(map(len, shared))} usable processors are threads of {len(shared)} cores",
        subject.gauge(effects.processors, one_each, tuple(sorted(allowed))),
        remedy=f"taskset -c {pinned} sllmbench run",
        advice="one thread a core; below 1 × the second threads cost more than they bring",
        source=source,
    )


def isolated(subject: Subject) -> Iterator[Finding]:
    """Isolated processors run only what is pinned to them, and nothing balances threads there."""
    file = subject.roots.sys / _CPUS / "isolated"
    found = parse_list(read_text(file) or "")
    mine = found & subject.allowed
    if mine:
        yield bad(
            "notice",
            "isolated processors",
            f"{len(mine)} usable processors are isolated: the kernel moves no thread between them",
            subject.gauge(effects.processors, (min(mine),), tuple(sorted(mine))),
            advice="threads that are not pinned one by one pile up on the first of them",
            source=file,
        )
    elif found:
        yield ok("isolated processors", f"{len(found)}, none of them in this mask", file)


def heat(subject: Subject) -> Iterator[Finding]:
    """Whether the processor has slowed itself down for its temperature."""
    title = "thermal throttling"
    files = tuple(
        sorted((subject.roots.sys / _CPUS).glob("cpu[0-9]*/thermal_throttle/core_throttle_count"))
    )
    counts = [count for file in files if (count := read_int(file)) is not None]
    if not counts:
        if not subject.virtual:
            yield unknown(title, "the kernel counts none for this processor")
        return
    if not sum(counts):
        yield ok(title, "none since the machine started", files[0])
        return
    effect = subject.gauge(effects.counted_while_computing, files, "throttlings")
    yield bad(
        "problem" if effect.value else "notice",
        title,
        f"{sum(counts)} since the machine started",
        effect,
        advice="cool the machine better, or turn turbo off",
        source=files[0],
    )


CHECKS = (governor, energy_preference, clock_limit, boost, smt, isolated, heat)


def _frequency_files(subject: Subject, name: str) -> list[Path]:
    return sorted((subject.roots.sys / _CPUS).glob(f"cpu[0-9]*/cpufreq/{name}"))


def _shares(found: Counter[str], wanted: str) -> str:
    total = sum(found.values())
    parts = [f"{text} on {count} of {total} processors" for text, count in found.most_common()]
    return f"{', '.join(parts)}; {wanted}"
