"""Peak and free memory: the real process, and kernels laid out as files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sllmbench.errors import InputError
from sllmbench.measure.memory import PeakRss, available_bytes

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from sllmbench.hardware.roots import Roots

MIB = 1024**2
GIB = 1024**3
UNLIMITED_V1 = 9223372036854771712

Write = Callable[[Path, str], Path]


def test_the_peak_is_what_was_allocated_even_after_it_is_freed(
    touch_fresh_pages: Callable[[int], None],
) -> None:
    peak = PeakRss()
    peak.start()
    touch_fresh_pages(96 * MIB)
    first, reason = peak.above_start_bytes()
    if first is None:
        pytest.skip(f"this kernel keeps no peak: {reason}")
    assert 92 * MIB <= first < 112 * MIB
    peak.start()
    second, _ = peak.above_start_bytes()
    assert second is not None
    assert second < 16 * MIB


def status(roots: Roots, rss_kib: int, peak_kib: int) -> None:
    text = f"Name:\tpython\nVmHWM:\t{peak_kib:8} kB\nVmRSS:\t{rss_kib:8} kB\n"
    (roots.proc / "self/status").write_text(text)


def test_the_peak_above_the_start(roots: Roots, write: Write) -> None:
    write(roots.proc / "self/clear_refs", "")
    status(roots, 1000, 1000)
    peak = PeakRss(roots)
    assert peak.above_start_bytes() == (None, "it was not started")
    peak.start()
    status(roots, 2000, 5000)
    assert peak.above_start_bytes() == (4000 * 1024, None)
    assert (roots.proc / "self/clear_refs").read_text() == "5"


def refusal(peak: PeakRss) -> str:
    peak.start()
    value, reason = peak.above_start_bytes()
    assert value is None
    assert reason is not None
    return reason


def test_a_kernel_that_denies_the_reset(
    roots: Roots, write: Write, unprivileged: Callable[[], AbstractContextManager[None]]
) -> None:
    write(roots.proc / "self/clear_refs", "").chmod(0o400)
    status(roots, 1000, 1000)
    with unprivileged():
        assert "Permission denied" in refusal(PeakRss(roots))


def test_a_kernel_that_ignores_the_reset(roots: Roots, write: Write) -> None:
    write(roots.proc / "self/clear_refs", "")
    status(roots, 1000, 900_000)
    assert "did not do it" in refusal(PeakRss(roots))


def test_a_kernel_that_keeps_no_peak(roots: Roots, write: Write) -> None:
    write(roots.proc / "self/clear_refs", "")
    write(roots.proc / "self/status", "VmRSS:\t 1000 kB\n")
    assert "VmHWM" in refusal(PeakRss(roots))


def test_a_peak_that_vanishes_after_the_start(roots: Roots, write: Write) -> None:
    write(roots.proc / "self/clear_refs", "")
    status(roots, 1000, 1000)
    peak = PeakRss(roots)
    peak.start()
    (roots.proc / "self/status").unlink()
    value, reason = peak.above_start_bytes()
    assert value is None
    assert reason is not None


def free(roots: Roots, gib: int) -> None:
    text = f"MemTotal: {2 * gib * MIB} kB\nMemAvailable:   {gib * MIB} kB\n"
    (roots.proc / "meminfo").write_text(text)


def test_without_limits_the_kernels_word_counts(roots: Roots, write: Write) -> None:
    free(roots, 8)
    write(roots.proc / "self/cgroup", "4:memory:/a\n0::/\n")
    write(roots.sys / "fs/cgroup/memory/a/memory.limit_in_bytes", str(UNLIMITED_V1))
    write(roots.sys / "fs/cgroup/memory/a/memory.usage_in_bytes", str(GIB))
    write(roots.sys / "fs/cgroup/memory.max", "max")
    write(roots.sys / "fs/cgroup/memory.current", str(GIB))
    assert available_bytes(roots) == 8 * GIB


def test_a_version_2_limit_of_a_parent_counts_and_cached_files_are_free(
    roots: Roots, write: Write
) -> None:
    free(roots, 8)
    write(roots.proc / "self/cgroup", "0::/jobs/one\n")
    parent = roots.sys / "fs/cgroup/jobs"
    for folder, limit in ((parent / "one", "max"), (parent, str(4 * GIB))):
        write(folder / "memory.max", limit)
        write(folder / "memory.current", str(3 * GIB))
        write(folder / "memory.stat", f"anon 5\ninactive_file {2 * GIB}\nactive_file 7\n")
    assert available_bytes(roots) == 3 * GIB


def test_a_version_1_limit_where_the_path_is_the_hosts(roots: Roots, write: Write) -> None:
    free(roots, 8)
    write(roots.proc / "self/cgroup", "5:cpu,cpuacct:/\n4:memory:/docker/0123\n")
    top = roots.sys / "fs/cgroup/memory"
    write(top / "memory.limit_in_bytes", str(2 * GIB))
    write(top / "memory.usage_in_bytes", str(GIB))
    write(top / "memory.stat", f"inactive_file 1\ntotal_inactive_file {256 * MIB}\n")
    assert available_bytes(roots) == GIB + 256 * MIB


def test_a_group_over_its_limit_has_nothing_left(roots: Roots, write: Write) -> None:
    free(roots, 8)
    write(roots.proc / "self/cgroup", "0::/\n")
    write(roots.sys / "fs/cgroup/memory.max", str(GIB))
    write(roots.sys / "fs/cgroup/memory.current", str(2 * GIB))
    assert available_bytes(roots) == 0


def test_an_unknown_amount_is_an_error(roots: Roots) -> None:
    with pytest.raises(InputError, match="MemAvailable"):
        available_bytes(roots)


def test_this_machine_has_some() -> None:
    assert 0 < available_bytes() < 1 << 50
