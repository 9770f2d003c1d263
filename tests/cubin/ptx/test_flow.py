from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sllmbench.cubin.ptx import Fault, Trace, machine

OWN = """mov.u32 %tid, %tid.x; mov.u32 %ctaid, %ctaid.x; mov.u32 %r9, %ntid.x;
    mad.lo.u32 %at, %ctaid, %r9, %tid; mul.wide.u32 %rd1, %at, 4; add.u64 %rd1, %rd1, %rd20;"""
PUT = "st.global.u32 [%rd1], %r0;"


def run(launch: Any, body: str, threads: int = 64, blocks: int = 1) -> list[int]:
    launch.buffer(np.zeros(threads * blocks, np.uint32), defined=False)
    launch.run(f"{OWN} {body}", block=(threads,), grid=(blocks,))
    return launch.read(0, np.uint32).tolist()


def test_each_thread_loops_as_often_as_it_must(launch: Any) -> None:
    body = """mov.u32 %r0, 0; mov.u32 %r1, 0;
    LOOP: setp.ge.u32 %p0, %r1, %tid; @%p0 bra DONE;
    add.u32 %r0, %r0, %r1; add.u32 %r1, %r1, 1; bra.uni LOOP;
    DONE: """
    assert run(launch, body + PUT) == [t * (t - 1) // 2 for t in range(64)]


def test_parted_threads_meet_again(launch: Any) -> None:
    body = """and.b32 %r1, %tid, 1; setp.eq.u32 %p0, %r1, 0; @%p0 bra EVEN;
    mov.u32 %r0, 5; bra JOIN;
    EVEN: mov.u32 %r0, 7;
    JOIN: shfl.sync.bfly.b32 %r0, %r0, 1, 31, -1;"""
    assert run(launch, body + PUT) == [5, 7] * 32


def test_who_has_left_is_not_waited_for(launch: Any) -> None:
    body = f"mov.u32 %r0, 1; {PUT} setp.gt.u32 %p0, %tid, 40; @%p0 ret; bar.sync 0; mov.u32 %r0, 2;"
    assert run(launch, body + PUT) == [2] * 41 + [1] * 23


def test_warps_wait_for_each_other(launch: Any) -> None:
    # The last warp has the longest way to the barrier.
    body = """.shared .align 4 .b8 s[512]; mov.u32 %r1, s; mad.lo.u32 %r2, %tid, 4, %r1;
    shr.u32 %r3, %tid, 5;
    LOOP: setp.eq.u32 %p0, %r3, 0; @%p0 bra DONE; sub.u32 %r3, %r3, 1; bra LOOP;
    DONE: st.shared.u32 [%r2], %tid; bar.sync 0;
    xor.b32 %r4, %tid, 64; mad.lo.u32 %r4, %r4, 4, %r1; ld.shared.u32 %r0, [%r4];"""
    assert run(launch, body + PUT, 128) == [t ^ 64 for t in range(128)]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("setp.lt.u32 %p0, %tid, 7; @%p0 bra B; bar.sync 0; bra C; B: bar.sync 0; C:", "one warp"),
        (
            "setp.lt.u32 %p0, %tid, 32; @%p0 bra B; bar.sync 0; bra C; B: bar.sync 1; C:",
            "two barriers",
        ),
    ],
)
def test_a_barrier_that_not_all_meet_is_a_fault(body: str, message: str, launch: Any) -> None:
    parts = "setp.lt.u32 %p0, %tid, 7; setp.lt.u32 %p1, %tid, 32;"
    with pytest.raises(Fault, match=message):
        run(launch, parts + body)


def test_a_loop_without_end_is_a_fault(launch: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "MOST_STEPS", 1000)
    with pytest.raises(Fault, match="a loop without an end"):
        run(launch, "LOOP: add.u32 %r0, %r0, 1; bra LOOP;")


def test_more_blocks_than_run_at_once(launch: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "LANES_AT_ONCE", 128)
    assert run(launch, f"mov.u32 %r0, %ctaid.x; {PUT}", 48, 7) == [i // 48 for i in range(7 * 48)]


def test_places_in_three_dimensions(launch: Any) -> None:
    launch.buffer(np.zeros((2, 3, 2, 2, 2, 4), np.uint32), defined=False)
    body = """mov.u32 %r0, 0; mov.u32 %r2, 0;"""
    for axis in "zyx":
        body += f"""mov.u32 %r1, %ctaid.{axis}; mad.lo.u32 %r0, %r0, 10, %r1;
        mov.u32 %r3, %nctaid.{axis}; mad.lo.u32 %r2, %r2, %r3, %r1;"""
    for axis in "zyx":
        body += f"""mov.u32 %r1, %tid.{axis}; mad.lo.u32 %r0, %r0, 10, %r1;
        mov.u32 %r3, %ntid.{axis}; mad.lo.u32 %r2, %r2, %r3, %r1;"""
    launch.run(
        f"{body} mul.wide.u32 %rd1, %r2, 4; add.u64 %rd1, %rd1, %rd20; {PUT}",
        grid=(2, 3, 2),
        block=(4, 2, 2),
    )
    got = launch.read(0, np.uint32).reshape(2, 3, 2, 2, 2, 4)
    for place in np.ndindex(got.shape):
        assert got[place] == int("".join(map(str, place)))


def test_executions_are_counted(launch: Any) -> None:
    launch.buffer(np.zeros(64, np.uint32))
    trace = Trace()
    launch.run(
        f"""{OWN} setp.lt.u32 %p0, %tid, 40; @!%p0 bra ON; mov.u32 %r0, 1; {PUT} ON:
        setp.lt.u32 %p1, %tid, 3; @%p1 add.f32 %f0, %f0, %f0;""",
        block=(64,),
        trace=trace,
    )
    assert trace.entry is not None
    by_text = {
        i.text: (trace.threads[i.number], trace.warps[i.number]) for i in trace.entry.instructions
    }
    assert by_text["mov.u32 %r0, 1"] == (40, 2)
    assert by_text["@!%p0 bra ON"] == (24, 1)
    assert by_text["@%p1 add.f32 %f0, %f0, %f0"] == (3, 1)
    assert by_text["ret"] == (64, 2)
    kinds = trace.by_kind()
    assert kinds["float"] == 1
    assert kinds["control"] == 3
    assert trace.by_opcode()["add.f32"] == 1
