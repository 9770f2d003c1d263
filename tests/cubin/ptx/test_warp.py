from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sllmbench.cubin.ptx import Fault

RNG = np.random.default_rng(8)
OWN = """mov.u32 %tid, %tid.x; mul.wide.u32 %rd3, %tid, 4;
    add.u64 %rd1, %rd20, %rd3; add.u64 %rd2, %rd21, %rd3; ld.global.u32 %r0, [%rd1];"""
PUT = "st.global.u32 [%rd2], %r1;"


def run(launch: Any, body: str, threads: int = 64) -> list[int]:
    values = np.arange(100, 100 + threads, dtype=np.uint32)
    launch.buffer(values)
    launch.buffer(np.zeros(threads, np.uint32))
    launch.run(f"{OWN} {body} {PUT}", block=(threads,))
    return launch.read(1, np.uint32).tolist()


def by_the_manual(mode: str, lane: int, b: int, c: int) -> tuple[int, bool]:
    b, clamp, segment = b & 31, c & 31, c >> 8 & 31
    most, least = (lane & segment) | (clamp & ~segment & 31), lane & segment
    if mode == "up":
        j, valid = lane - b, lane - b >= most
    elif mode == "down":
        j, valid = lane + b, lane + b <= most
    elif mode == "bfly":
        j, valid = lane ^ b, lane ^ b <= most
    else:
        j = least | (b & ~segment & 31)
        valid = j <= most
    return (j if valid else lane), valid


@pytest.mark.parametrize("mode", ["up", "down", "bfly", "idx"])
@pytest.mark.parametrize("width", [32, 16, 8, 4])
@pytest.mark.parametrize("b", [0, 1, 3, 16, 31])
def test_shuffles(mode: str, width: int, b: int, launch: Any) -> None:
    # As CUDA's __shfl functions set it.
    c = (32 - width) << 8 | (0 if mode == "up" else 31)
    body = f"shfl.sync.{mode}.b32 %r1|%p0, %r0, {b}, {c}, -1; @%p0 add.u32 %r1, %r1, 1000;"
    want = []
    for thread in range(64):
        source, valid = by_the_manual(mode, thread % 32, b, c)
        want.append(100 + thread // 32 * 32 + source + 1000 * valid)
    assert run(launch, body) == want


def test_each_lane_may_ask_another(launch: Any) -> None:
    body = "mul.lo.u32 %r2, %tid, 7; shfl.sync.idx.b32 %r1, %r0, %r2, 31, -1;"
    assert run(launch, body) == [100 + t // 32 * 32 + t * 7 % 32 for t in range(64)]


def test_votes(launch: Any) -> None:
    odd = "and.b32 %r2, %tid, 1; setp.eq.u32 %p0, %r2, 1;"
    assert run(launch, f"{odd} vote.sync.ballot.b32 %r1, %p0, -1;") == [0xAAAAAAAA] * 64


@pytest.mark.parametrize(
    ("mode", "want"),
    [("any", [1, 1]), ("all", [0, 1]), ("uni", [0, 1])],
)
def test_votes_of_all(mode: str, want: list[int], launch: Any) -> None:
    body = f"setp.gt.u32 %p0, %tid, 7; vote.sync.{mode}.pred %p1, %p0, -1; selp.u32 %r1, 1, 0, %p1;"
    assert run(launch, body) == [want[t // 32] for t in range(64)]
    opposite = f"setp.le.u32 %p0, %tid, 7; vote.sync.{mode}.pred %p1, !%p0, -1;"
    assert run(type(launch)(), f"{opposite} selp.u32 %r1, 1, 0, %p1;") == [
        want[t // 32] for t in range(64)
    ]


def test_who_is_active(launch: Any) -> None:
    body = "mov.u32 %r1, 0; setp.lt.u32 %p0, %tid, 5; @!%p0 bra ON; activemask.b32 %r1; ON:"
    assert run(launch, body, 32) == [31] * 5 + [0] * 27


HALF = "setp.lt.u32 %p0, %tid, 16; mov.u32 %r1, 0; @!%p0 bra ON;"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("shfl.sync.idx.b32 %r1, %r0, 0, 31, -1; ON:", "0xffff0000"),
        ("vote.sync.ballot.b32 %r1, %p0, -1; ON:", "0xffff0000"),
        ("bar.warp.sync -1; ON:", "0xffff0000"),
        ("shfl.sync.idx.b32 %r1, %r0, 0, 31, 0xff; ON:", "a lane takes part that the mask does"),
        ("shfl.sync.idx.b32 %r1, %r0, 20, 31, 0xffff; ON:", "reads from a lane that does not"),
    ],
)
def test_a_missing_lane_is_a_fault(body: str, message: str, launch: Any) -> None:
    with pytest.raises(Fault, match=message):
        run(launch, HALF + body, 32)


def test_a_part_of_a_warp_may_shuffle(launch: Any) -> None:
    body = f"{HALF} shfl.sync.idx.b32 %r1, %r0, 3, 31, 0xffff; ON:"
    assert run(launch, body, 32) == [103] * 16 + [0] * 16


def test_a_block_of_half_a_warp_has_no_other_half(launch: Any) -> None:
    with pytest.raises(Fault, match="0xffff0000"):
        run(launch, "shfl.sync.idx.b32 %r1, %r0, 3, 31, -1;", 16)
