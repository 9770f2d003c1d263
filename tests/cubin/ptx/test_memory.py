from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sllmbench.cubin.ptx import Fault, Memory

WORDS = np.arange(256, dtype=np.uint32)
# %rd1: this thread's element of 4 bytes in p0, %rd2: in p1.
EACH = """mov.u32 %tid, %tid.x; mul.wide.u32 %rd3, %tid, 4;
    add.u64 %rd1, %rd20, %rd3; add.u64 %rd2, %rd21, %rd3;"""
SHARED = ".shared .align 16 .b8 s[1024]; .shared .align 4 .b8 after[64];"


def test_a_register_is_filled_from_less(launch: Any) -> None:
    launch.buffer(np.array([0xF0, 0x80, 0xFF, 0xFF], np.uint8))
    launch.buffer(np.zeros(4, np.int64))
    launch.run(
        """ld.global.s8 %h0, [%rd20]; cvt.s64.s16 %rd0, %h0; st.global.s64 [%rd21], %rd0;
        ld.global.u8 %r1, [%rd20]; cvt.u64.u32 %rd0, %r1; st.global.u64 [%rd21+8], %rd0;
        ld.global.s16 %r2, [%rd20]; cvt.s64.s32 %rd0, %r2; st.global.u64 [%rd21+16], %rd0;
        ld.global.nc.L1::no_allocate.u16 %r2, [%rd20+2]; cvt.s64.s32 %rd0, %r2;
        add.u64 %rd9, %rd21, 64; st.global.u64 [%rd9+-40], %rd0;""",
        block=(1,),
    )
    assert launch.read(1, np.int64).tolist() == [-16, 0xF0, 0x80F0 - 0x10000, 0xFFFF]


def test_vectors(launch: Any) -> None:
    launch.buffer(WORDS)
    launch.buffer(np.zeros(128, np.uint32))
    launch.run(
        """mov.u32 %tid, %tid.x; mul.wide.u32 %rd3, %tid, 16;
        add.u64 %rd1, %rd20, %rd3; add.u64 %rd2, %rd21, %rd3;
        ld.global.v4.u32 {%r0, %r1, %r2, %r3}, [%rd1];
        st.global.v2.u32 [%rd2+8], {%r0, %r1}; st.global.v2.b32 [%rd2], {%r2, %r3};"""
    )
    assert launch.read(1, np.uint32).reshape(-1, 4)[:, [2, 3, 0, 1]].ravel().tolist() == list(
        range(128)
    )


def test_shared_local_and_constant_memory_and_generic_addresses(launch: Any) -> None:
    launch.buffer(WORDS)
    launch.buffer(np.zeros(32, np.uint32))
    launch.run(
        f"""{SHARED} .local .align 8 .b8 mine[16]; {EACH}
        ld.global.u32 %r0, [%rd1];
        mov.u32 %r1, s; shl.b32 %r2, %tid, 2; add.u32 %r1, %r1, %r2; st.shared.u32 [%r1], %r0;
        mov.u64 %rd4, mine; cvta.local.u64 %rd5, %rd4; st.local.u32 [%rd4+4], %r0;
        cvt.u64.u32 %rd6, %r1; cvta.shared.u64 %rd7, %rd6;
        ld.u32 %r3, [%rd5+4]; ld.u32 %r4, [%rd7]; add.u32 %r3, %r3, %r4;
        ld.const.u32 %r5, [table+4]; add.u32 %r3, %r3, %r5;
        mov.u64 %rd8, other; ld.global.u16 %r6, [%rd8+2]; add.u32 %r3, %r3, %r6;
        ld.u32 %r7, [%rd1]; add.u32 %r3, %r3, %r7;
        cvta.to.shared.u64 %rd9, %rd7; ld.shared.u32 %r8, [%rd9]; add.u32 %r3, %r3, %r8;
        st.u32 [%rd2], %r3;""",
        module=""".const .align 4 .b32 table[2] = {1, 1000};
        .global .align 2 .b8 other[4] = {0, 0, 0x10, 0x27};
        """,
    )
    assert launch.read(1, np.uint32).tolist() == [4 * x + 1000 + 10000 for x in range(32)]


def test_structs_come_by_value(launch: Any) -> None:
    from sllmbench.cubin.ptx import Module, run

    memory, out = Memory(), np.zeros(3, np.uint32)
    memory.register(0x1000, out)
    text = """.visible .entry f(.param .align 8 .b8 f_param_0[24], .param .u32 f_param_1)
    { .reg .b32 %r<4>; .reg .b64 %rd<2>;
      ld.param.u64 %rd0, [f_param_0+16]; ld.param.v2.u32 {%r0, %r1}, [f_param_0];
      mov.b64 %rd1, f_param_1; ld.param.u32 %r2, [%rd1];
      st.global.u32 [%rd0], %r0; st.global.u32 [%rd0+4], %r1; st.global.u32 [%rd0+8], %r2; ret; }"""
    entry = Module.parse(text).entry("f")
    struct = np.array([7, 8, 0, 0, 0x1000, 0], np.uint32).tobytes()
    run(entry, (1,), (1,), [struct, (9).to_bytes(4, "little")], memory)
    assert memory.read(0x1000).view(np.uint32).tolist() == [7, 8, 9]
    with pytest.raises(ValueError, match=r"takes parameters of \[24, 4\] bytes, not of \[8, 4\]"):
        run(entry, (1,), (1,), [bytes(8), bytes(4)], memory)


def test_atomics_add_up(launch: Any) -> None:
    launch.buffer(np.zeros(2, np.uint32))
    launch.buffer(np.zeros(96, np.uint32))
    launch.run(
        """mov.u32 %tid, %tid.x; mov.u32 %r1, %ctaid.x; mad.lo.u32 %r1, %r1, 48, %tid;
        atom.global.add.u32 %r2, [%rd20], 1; red.global.add.f32 [%rd20+4], 0f3F000000;
        mul.wide.u32 %rd1, %r1, 4; add.u64 %rd1, %rd1, %rd21; st.global.u32 [%rd1], %r2;""",
        grid=(2,),
        block=(48,),
    )
    assert launch.read(0, np.uint32)[0] == 96
    assert launch.read(0, np.float32)[1] == 48
    assert sorted(launch.read(1, np.uint32).tolist()) == list(range(96))


@pytest.mark.parametrize(
    ("operation", "value", "want"),
    [("inc", 2, 2), ("exch", 9, 9), ("max", 7, 7), ("min", 7, 5), ("or", 8, 13), ("and", 4, 4)],
)
def test_other_atomics(operation: str, value: int, want: int, launch: Any) -> None:
    launch.buffer(np.array([5], np.uint32))
    # inc starts again at 0 from 2 on: 5 becomes 0, then 1, then 2.
    kind = "b32" if operation in ("or", "and", "exch") else "u32"
    launch.run(f"atom.global.{operation}.{kind} %r0, [%rd20], {value};", block=(3,))
    assert launch.read(0, np.uint32).tolist() == [want]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            "ld.global.u32 %r0, [%rd20+1024];",
            r"ld\.global\.u32 %r0.*4 bytes past the end of the 1024",
        ),
        ("ld.global.u32 %r0, [%rd20+-4];", "below every buffer"),
        ("ld.global.v4.u32 {%r0, %r1, %r2, %r3}, [%rd20+1020];", "misaligned access of 16 bytes"),
        ("ld.global.u16 %h0, [%rd20+1];", "misaligned access of 2 bytes"),
        ("st.global.u32 [%rd20], 1;", "only to be read"),
        ("ld.global.u32 %r0, [%rd21];", "nobody has written"),
        ("st.global.u32 [%rd21], 1; ld.global.nc.u32 %r0, [%rd21];", "read-only cache"),
        ("ld.shared.u32 %r0, [s];", r"nobody has written, at 0x0"),
        ("st.shared.u32 [s+1024], 1;", "out of bounds: 4 bytes at 0x400"),
        ("st.shared.u32 [after+64], 1;", "out of bounds"),
        ("st.shared.v2.u32 [s+4], {1, 1};", "misaligned access of 8 bytes"),
        ("ld.local.u32 %r0, [mine];", "nobody has written"),
        ("st.local.u32 [mine+8], 1;", "out of bounds"),
        ("div.u32 %r0, %r1, %r2;", "divides integers by zero"),
        ("trap;", "gives up"),
    ],
)
def test_what_must_not_be_is_a_fault_with_the_line(body: str, message: str, launch: Any) -> None:
    launch.buffer(WORDS, writable=False)
    launch.buffer(WORDS, defined=False)
    with pytest.raises(Fault, match=message) as caught:
        launch.run(f"{SHARED} .local .align 8 .b8 mine[8]; {body}", block=(1,))
    assert body.split(";")[-2].strip() in str(caught.value)


def test_the_read_only_cache_sees_what_an_earlier_launch_wrote(launch: Any) -> None:
    launch.buffer(WORDS, defined=False)
    launch.run("st.global.u32 [%rd20], 5;", block=(1,))
    launch.run("ld.global.nc.u32 %r0, [%rd20]; st.global.u32 [%rd20+4], %r0;", block=(1,))
    assert launch.read(0, np.uint32)[1] == 5


def test_memory_says_what_was_written() -> None:
    memory = Memory()
    memory.register(4096, np.zeros(4, np.uint16))
    memory.scatter(np.array([0]), np.array([4098], np.uint64), np.array([[7]], np.uint16))
    assert memory.written(4096).tolist() == [False, False, True, True] + [False] * 4
    assert memory.read(4096).view(np.uint16).tolist() == [0, 7, 0, 0]
    with pytest.raises(KeyError, match="0x1001"):
        memory.read(4097)


@pytest.mark.parametrize("address", [4089, 4096, 4103])
def test_buffers_do_not_overlap(address: int) -> None:
    memory = Memory()
    memory.register(4096, bytes(8))
    with pytest.raises(ValueError, match="overlap"):
        memory.register(address, bytes(8))
    memory.register(4104, bytes(8))
    memory.register(4088, bytes(8))


def test_buffers_are_copies() -> None:
    memory, mine = Memory(), np.zeros(4, np.uint8)
    memory.register(4096, mine)
    memory.scatter(np.array([0]), np.array([4096], np.uint64), np.array([[7]], np.uint8))
    assert mine.tolist() == [0] * 4
