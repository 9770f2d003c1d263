from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sllmbench.cubin.ptx import Fault

# %r1: this thread's own 4 bytes of shared memory, %r2: those of the thread as far from the end.
PLACES = """.shared .align 16 .b8 s[1024]; mov.u32 %tid, %tid.x; mov.u32 %r9, %ntid.x;
    mov.u32 %r0, s; shl.b32 %r3, %tid, 2; add.u32 %r1, %r0, %r3;
    sub.u32 %r4, %r9, %tid; sub.u32 %r4, %r4, 1; shl.b32 %r4, %r4, 2; add.u32 %r2, %r0, %r4;"""
WRITE, READ_OTHER, WRITE_OTHER = (
    "st.shared.u32 [%r1], %tid;",
    "ld.shared.u32 %r5, [%r2];",
    "st.shared.u32 [%r2], %tid;",
)
BARRIER, WARP_BARRIER = "bar.sync 0;", "bar.warp.sync 0xffffffff;"
LEADER = "setp.eq.u32 %p0, %tid, 0; @%p0 "


def run(launch: Any, body: str, threads: int) -> None:
    launch.buffer(np.zeros(256, np.uint32))
    launch.run(f"{PLACES}{body}", block=(threads,), grid=(3,))


@pytest.mark.parametrize(
    ("threads", "body", "verb"),
    [
        (64, WRITE + READ_OTHER, "written"),
        (32, WRITE + READ_OTHER, "written"),
        (64, WRITE + WARP_BARRIER + READ_OTHER, "written"),
        (64, WRITE + WRITE_OTHER, "written"),
        (64, WRITE + BARRIER + READ_OTHER + WRITE, "read"),
        (32, WRITE + BARRIER + READ_OTHER + WRITE, "read"),
        (32, "st.shared.u32 [%r0], %tid;", "written"),
        # Several readers, of which the writer is the last.
        (64, f"{LEADER}st.shared.u32 [%r0], 1; {BARRIER} ld.shared.u32 %r5, [%r0];"
         "setp.eq.u32 %p0, %tid, 63; @%p0 st.shared.u32 [%r0], 2;", "read"),
        (32, f"{LEADER}st.shared.u32 [%r0], 1; {BARRIER} ld.shared.u32 %r5, [%r0];"
         "setp.eq.u32 %p0, %tid, 31; @%p0 st.shared.u32 [%r0], 2;", "read"),
        # One warp after the other; the second one's meeting says nothing of the first.
        (64, f"{LEADER}st.shared.u32 [%r0], 1; {BARRIER} setp.lt.u32 %p1, %tid, 32;"
         "@%p1 ld.shared.u32 %r5, [%r0]; @!%p1 ld.shared.u32 %r5, [%r0]; bar.warp.sync -1;"
         "setp.eq.u32 %p0, %tid, 63; @%p0 st.shared.u32 [%r0], 2;", "read"),
    ],
)  # fmt: skip
def test_a_race_is_a_fault(threads: int, body: str, verb: str, launch: Any) -> None:
    with pytest.raises(Fault, match=f"race on shared memory: thread .* {verb}"):
        run(launch, body, threads)


@pytest.mark.parametrize(
    ("threads", "body"),
    [
        (64, WRITE + BARRIER + READ_OTHER),
        (64, WRITE + BARRIER + READ_OTHER + BARRIER + WRITE),
        (32, WRITE + WARP_BARRIER + READ_OTHER + WARP_BARRIER + WRITE),
        (64, WRITE + "ld.shared.u32 %r5, [%r1];" + WRITE),
        (64, f"{LEADER}st.shared.u32 [%r0], 1; {BARRIER} ld.shared.u32 %r5, [%r0];"
         f"{BARRIER} {LEADER} st.shared.u32 [%r0], 2;"),
    ],
)  # fmt: skip
def test_what_a_barrier_orders_is_none(threads: int, body: str, launch: Any) -> None:
    run(launch, body, threads)


def test_halves_of_a_word_are_apart(launch: Any) -> None:
    launch.buffer(np.zeros(64, np.uint16))
    body = """.shared .align 4 .b8 t[128]; mov.u32 %r0, t; mad.lo.u32 %r1, %tid, 2, %r0;
    cvt.u16.u32 %h0, %tid; st.shared.u16 [%r1], %h0; ld.shared.u16 %h1, [%r1];"""
    launch.run(f"mov.u32 %tid, %tid.x; {body}", block=(64,))


COPY = """.shared .align 16 .b8 t[1024]; mov.u32 %tid, %tid.x; mov.u32 %r0, t;
    mad.lo.u32 %r1, %tid, 16, %r0; mul.wide.u32 %rd0, %tid, 16; add.u64 %rd1, %rd20, %rd0;
    add.u64 %rd2, %rd21, %rd0;"""
START = "cp.async.cg.shared.global [%r1], [%rd1], 16, %r9; cp.async.commit_group;"
STORE = (
    "ld.shared.v4.u32 {%r4, %r5, %r6, %r7}, [%r1]; st.global.v4.u32 [%rd2], {%r4, %r5, %r6, %r7};"
)


def copy(launch: Any, body: str) -> np.ndarray:
    launch.buffer(np.arange(256, dtype=np.uint32))
    launch.buffer(np.zeros(256, np.uint32))
    launch.run(f"{COPY} mov.u32 %r9, 16; {body}", block=(64,))
    return launch.read(1, np.uint32)


def test_copies_land_where_they_are_waited_for(launch: Any) -> None:
    assert copy(launch, f"{START} cp.async.wait_group 0; {STORE}").tolist() == list(range(256))


def test_wait_all_needs_no_group(launch: Any) -> None:
    body = f"cp.async.ca.shared.global [%r1], [%rd1], 16; cp.async.wait_all; {STORE}"
    assert copy(launch, body).tolist() == list(range(256))


def test_a_copy_of_nothing_reads_nothing_and_zeroes(launch: Any) -> None:
    body = f"mov.u64 %rd1, 0; mov.u32 %r9, 0; {START} cp.async.wait_group 0; {STORE}"
    assert copy(launch, body).tolist() == [0] * 256


@pytest.mark.parametrize(
    "body",
    [
        START + STORE,
        START + "cp.async.wait_group 1;" + STORE,
        START + "bar.sync 0;" + STORE,
        START + "st.shared.u32 [%r1], 1;",
        START + START,
    ],
)
def test_nobody_may_touch_what_is_under_way(body: str, launch: Any) -> None:
    with pytest.raises(Fault, match="a copy that is still under way has written"):
        copy(launch, body)


def test_others_need_a_barrier_behind_the_wait(launch: Any) -> None:
    other = "xor.b32 %r8, %tid, 32; mad.lo.u32 %r1, %r8, 16, %r0;"
    assert len(copy(launch, f"{START} cp.async.wait_group 0; bar.sync 0; {other} {STORE}"))
    with pytest.raises(Fault, match="race"):
        copy(type(launch)(), f"{START} cp.async.wait_group 0; {other} {STORE}")


def test_only_the_older_groups_have_landed(launch: Any) -> None:
    second = "add.u32 %r10, %r1, 0; add.u32 %r1, %r1, 0;"
    body = f"""mov.u32 %r9, 16; {second}
    setp.lt.u32 %p0, %tid, 32; add.u32 %r11, %r1, 512; add.u64 %rd3, %rd1, 512;
    @%p0 cp.async.cg.shared.global [%r1], [%rd1], 16; cp.async.commit_group;
    @%p0 cp.async.cg.shared.global [%r11], [%rd3], 16; cp.async.commit_group;
    cp.async.wait_group 1; @!%p0 bra END; {STORE} """
    assert copy(launch, body + "END:")[:128].tolist() == list(range(128))
    with pytest.raises(Fault, match="under way"):
        copy(type(launch)(), body + "ld.shared.u32 %r4, [%r11]; END:")
