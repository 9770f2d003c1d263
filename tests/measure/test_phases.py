"""Memory of phases: the real process, and kernels laid out as files."""

from __future__ import annotations

import mmap
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from sllmbench.measure.phases import MemoryWatch

if TYPE_CHECKING:
    from sllmbench.hardware.roots import Roots

MIB = 1024**2
KIB = 1024

Write = Callable[[Path, str], Path]


def test_each_phase_has_its_own_peak(touch_fresh_pages: Callable[[int], None]) -> None:
    watch = MemoryWatch()
    watch.start()
    touch_fresh_pages(96 * MIB)
    first = watch.end("load")
    watch.start()
    second = watch.end("prefill")
    if first.peak_rss_bytes is None or second.peak_rss_bytes is None:
        pytest.skip(f"this kernel keeps no peak: {first.reason}")
    assert 92 * MIB <= first.peak_rss_bytes < 112 * MIB
    assert second.peak_rss_bytes < 16 * MIB
    whole, _ = watch.peak()
    assert whole is not None
    assert whole >= first.peak_rss_bytes


def test_a_mapped_file_counts_apart_where_it_is_resident(tmp_path: Path) -> None:
    file = tmp_path / "weights"
    file.write_bytes(bytes(64 * MIB))
    watch = MemoryWatch()
    with file.open("rb") as opened:
        mapped = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
    mapped.madvise(mmap.MADV_RANDOM)
    before = watch.end("load")
    if before.file_mapped_bytes is None or before.file_resident_bytes is None:
        pytest.skip(f"this kernel shows no mappings: {before.reason}")
    assert 64 * MIB <= before.file_mapped_bytes < 65 * MIB
    assert before.file_resident_bytes < 2 * MIB
    for page in range(0, 32 * MIB, mmap.PAGESIZE):
        mapped[page]
    after = watch.end("prefill")
    assert after.file_mapped_bytes == pytest.approx(before.file_mapped_bytes, abs=MIB)
    assert after.file_resident_bytes is not None
    assert 32 * MIB <= after.file_resident_bytes < 36 * MIB
    assert after.pss_bytes is not None
    assert before.pss_bytes is not None
    assert after.pss_bytes - before.pss_bytes >= 30 * MIB
    mapped.close()


SMAPS = """\
5580-5590 r--p 00000000 08:01 1234 /usr/lib/python3
Size:                {library} kB
Rss:                   8 kB
Pss:                   4 kB
7f00-7f10 r--p 00000000 08:01 99   /models/a model.safetensors (deleted)
Size:               {file} kB
Rss:                {resident} kB
VmFlags: rd mr mw me
7f20-7f30 rw-p 00000000 00:00 0    [heap]
Size:                 77 kB
Rss:                  77 kB
7f40-7f50 rw-p 00000000 00:00 0
Size:                 55 kB
Rss:                  55 kB
7f60-7f70 rw-s 00000000 00:01 0    /dev/zero
Size:                 33 kB
Rss:                  33 kB
"""


def lay_out(roots: Roots, file_kib: int, resident_kib: int, pss_kib: int) -> None:
    process = roots.proc / "self"
    (process / "smaps").write_text(SMAPS.format(library=64, file=file_kib, resident=resident_kib))
    (process / "smaps_rollup").write_text(f"0-1 ---p 0 0:0 0 [rollup]\nPss: {pss_kib} kB\n")


def test_what_the_start_held_is_left_out(roots: Roots, write: Write) -> None:
    write(roots.proc / "self/clear_refs", "")
    write(roots.proc / "self/status", "VmHWM:\t 1000 kB\nVmRSS:\t 1000 kB\n")
    lay_out(roots, 0, 0, 500)
    watch = MemoryWatch(roots=roots)
    watch.start()
    lay_out(roots, 5000, 1200, 900)
    write(roots.proc / "self/status", "VmHWM:\t 3000 kB\nVmRSS:\t 2000 kB\n")
    found = watch.end("load")
    assert (found.file_mapped_bytes, found.file_resident_bytes) == (5000 * KIB, 1200 * KIB)
    assert (found.pss_bytes, found.peak_rss_bytes) == (400 * KIB, 2000 * KIB)
    assert found.reason is None
    watch.start()
    write(roots.proc / "self/status", "VmHWM:\t 2100 kB\nVmRSS:\t 2000 kB\n")
    assert watch.end("prefill").peak_rss_bytes == 1100 * KIB
    assert watch.peak() == (2000 * KIB, None)


def test_a_kernel_that_shows_nothing_gets_a_reason(roots: Roots, write: Write) -> None:
    write(roots.proc / "self/clear_refs", "")
    write(roots.proc / "self/status", "VmHWM:\t 1000 kB\nVmRSS:\t 1000 kB\n")
    watch = MemoryWatch(roots=roots)
    found = watch.end("decode")
    assert found.pss_bytes is found.file_mapped_bytes is found.file_resident_bytes is None
    assert found.reason == "this kernel shows no /proc/self/smaps"


def test_without_cuda_there_are_no_figures_of_it() -> None:
    if torch.cuda.is_available():
        pytest.skip("this torch has CUDA")
    found = MemoryWatch(device="cuda").end("load")
    assert found.cuda_allocated_bytes is found.cuda_driver_bytes is None
    assert found.reason == "no figures of the GPU: this torch has no CUDA"
