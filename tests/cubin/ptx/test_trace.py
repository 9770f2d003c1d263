from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sllmbench.cubin.ptx import Trace

WIDTHS = {4: "u32", 8: "v2.u32", 16: "v4.u32"}
DATA = {4: "%r4", 8: "{%r4, %r5}", 16: "{%r4, %r5, %r6, %r7}"}


def observed(launch: Any, body: str, threads: int = 32) -> Trace:
    trace = Trace(addresses=True)
    launch.buffer(np.zeros(1 << 16, np.uint32))
    launch.run(f"mov.u32 %tid, %tid.x; {body}", block=(threads,), trace=trace)
    return trace


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("stride", [1, 2, 4, 8])
@pytest.mark.parametrize("start", [0, 16])
def test_sectors_of_a_request(width: int, stride: int, start: int, launch: Any) -> None:
    body = f"""mul.wide.u32 %rd0, %tid, {width * stride}; add.u64 %rd1, %rd20, %rd0;
    ld.global.{WIDTHS[width]} {DATA[width]}, [%rd1+{start}];"""
    [access] = observed(launch, body, 64).accesses_of("ld.global")
    sectors = [
        {(start + width * stride * t) // 32 for t in range(warp * 32, warp * 32 + 32)}
        for warp in (0, 1)
    ]
    assert (access.space, access.bytes_per_lane, access.requests) == ("global", width, 2)
    assert access.sectors == sum(map(len, sectors))
    assert access.least_sectors == 2 * 32 * width // 32
    assert access.sectors_per_request == access.sectors / 2


def test_lanes_that_read_the_same_need_it_once(launch: Any) -> None:
    body = "shr.u32 %r0, %tid, 3; mul.wide.u32 %rd0, %r0, 4; add.u64 %rd0, %rd0, %rd20;"
    [access] = observed(launch, f"{body} ld.global.u32 %r1, [%rd0];").accesses_of("ld.global")
    assert (access.sectors, access.least_sectors, access.lanes) == (1, 1, 32)


def wavefronts(addresses: list[int], width: int) -> int:
    """Phases one after another: in each, as many passes as the fullest bank has different words."""
    per_phase = 32 // max(width // 4, 1)
    total = 0
    for first in range(0, len(addresses), per_phase):
        banks: dict[int, set[int]] = {}
        for address in addresses[first : first + per_phase]:
            for word in range(address // 4, (address + width + 3) // 4):
                banks.setdefault(word % 32, set()).add(word)
        total += max(map(len, banks.values()))
    return total


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("pitch", [0, 4, 8, 16, 20, 32, 36, 64, 80, 128, 132, 144])
def test_bank_conflicts(width: int, pitch: int, launch: Any) -> None:
    pitch = pitch // width * width
    body = f""".shared .align 16 .b8 s[8192]; mov.u32 %r1, s;
    mad.lo.u32 %r2, %tid, 256, %r1; mov.u32 %r4, 0; mov.u32 %r3, 0;
    LOOP: st.shared.u32 [%r2], %r4; add.u32 %r2, %r2, 4; add.u32 %r3, %r3, 1;
    setp.lt.u32 %p0, %r3, 64; @%p0 bra LOOP; bar.sync 0;
    mad.lo.u32 %r2, %tid, {pitch}, %r1; ld.shared.{WIDTHS[width]} {DATA[width]}, [%r2];"""
    trace = observed(launch, body)
    [access] = trace.accesses_of("ld.shared")
    want = wavefronts([pitch * t for t in range(32)], width)
    assert access.wavefronts == want
    assert access.least_wavefronts == max(width // 4, 1)
    assert access.bank_conflicts == want - max(width // 4, 1)
    [store] = trace.accesses_of("st.shared")
    assert (store.requests, store.wavefronts) == (64, 64 * 32)


def test_a_matrix_is_loaded_in_phases_of_eight_rows(launch: Any) -> None:
    for pitch, passes in ((16, 1), (32, 2), (128, 8), (144, 1)):
        body = f""".shared .align 16 .b8 s[8192]; mov.u32 %r1, s;
        mad.lo.u32 %r2, %tid, {pitch}, %r1; mov.u32 %r4, 0;
        st.shared.v4.u32 [%r2], {{%r4, %r4, %r4, %r4}}; bar.sync 0;
        ldmatrix.sync.aligned.m8n8.x4.shared.b16 {{%r4, %r5, %r6, %r7}}, [%r2];"""
        [access] = observed(type(launch)(), body).accesses_of("ldmatrix")
        assert (access.wavefronts, access.least_wavefronts) == (4 * passes, 4)


def test_a_trace_is_of_one_kernel(launch: Any) -> None:
    trace = observed(launch, "ret;")
    with pytest.raises(ValueError, match="the trace is of k, not of k"):
        type(launch)().run("ret;", trace=trace)
