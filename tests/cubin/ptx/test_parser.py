from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sllmbench.cubin.ptx import Memory, Module, ParseError, UnknownInstructionError, run

TWO = """
.version 9.0 // a comment; { with brackets
.target sm_75
/* another
   { */
.visible .entry first(.param .u32 first_param_0,
    .param .align 16 .b8 first_param_1[40]) .maxntid 128, 2, 1
.minnctapersm 1
{
    .reg .b32 %r<3>;
    .loc 1 2 3
    .shared .align 16 .b8 a[20];
    .shared .align 4 .f32 b[4];
$L__BB0_1:
    @%p1 bra $L__BB0_1;
    ret;
}
.entry second() { ret; }
"""


def test_an_entry_and_what_belongs_to_it() -> None:
    module = Module.parse(TWO)
    assert module.names == ["first", "second"]
    first = module.entry("first")
    assert [(p.offset, p.size) for p in first.parameters.by_name.values()] == [(0, 4), (16, 40)]
    assert first.most_threads == 256
    assert set(first.registers) == {"%r0", "%r1", "%r2"}
    # Apart by 128 bytes, so that running over the end of one does not hit the other.
    assert [(v.offset, v.size) for v in first.shared.by_name.values()] == [(0, 20), (148, 16)]
    assert first.labels == {"$L__BB0_1": 0}
    assert [(i.opcode, i.line) for i in first.instructions] == [("bra", 15), ("ret", 16)]
    assert module.entry("second").most_threads is None
    with pytest.raises(KeyError, match=r"no kernel third; the module has first, second"):
        module.entry("third")


def test_an_inner_scope_hides_names_and_labels(launch: Any) -> None:
    launch.buffer(np.zeros(1, np.uint32))
    once = """{ .reg .b32 %x; .reg .pred %q; mov.u32 %x, 3; setp.eq.u32 %q, %x, 3; @%q bra OUT;
        mov.u32 %r0, 100; OUT: add.u32 %r0, %r0, %x; }"""
    launch.run(
        f".reg .b32 %x; mov.u32 %x, 40; mov.u32 %r0, 0; {once} {once} add.u32 %r0, %r0, %x;"
        "st.global.u32 [%rd20], %r0;",
        block=(1,),
    )
    assert launch.read(0, np.uint32).tolist() == [46]


def test_an_unnamed_namespace_is_the_same_in_every_file_and_compiler() -> None:
    name = "_ZN1a{}3addENS_12_GLOBAL__N_11PE"
    text = TWO.replace("first(", name.format("43_GLOBAL__N__782270d4_10_prefill_cu_0899208f") + "(")
    module = Module.parse(text)
    assert module.entry(name.format("12_GLOBAL__N_1")).most_threads == 256
    assert module.entry(module.names[0]).most_threads == 256


@pytest.mark.parametrize(
    ("body", "error", "message"),
    [
        ("frobnicate.b32 %r0, %r1;", UnknownInstructionError, "line 1: frob.* no such"),
        ("add.cc.u32 %r0, %r0, %r0;", UnknownInstructionError, r"not with \.cc"),
        ("mul.lo.f128 %r0, %r0, %r0;", UnknownInstructionError, "f128"),
        ("ld.global.u32 %r0, [%r1], %r2, 7", ParseError, "without its semicolon"),
        ("add.u32 %r0, [], 1;", ParseError, "not an address"),
        ("add.u32 %r0, %r0, 1x;", UnknownInstructionError, "unknown name: 1x"),
        ("add.u32 %r0, %r9, 1;", UnknownInstructionError, "unknown register: %r9"),
        ("bra NOWHERE;", UnknownInstructionError, "to no label"),
        ("mov.u64 %r0, 1;", UnknownInstructionError, "a register of 32 bits for u64"),
        ("add.u32 %r0, %r0, %p0;", UnknownInstructionError, "a predicate for u32"),
        ("mov.u32 %r0, nothing;", UnknownInstructionError, "unknown name: nothing"),
        (".bogus 3;", ParseError, "unknown directive"),
        (".extern .shared .b8 s[];", ParseError, "unknown directive"),
        (".shared .b8 s[];", ParseError, "only known at launch"),
        ("bar.sync 0, 16;", UnknownInstructionError, "a part of the block"),
        ("mma.sync.aligned.m8n8k16.col.row.s32.s8.s8.s32 {%r0, %r1}, {%r0}, {%r0}, {%r0, %r0};",
         UnknownInstructionError, "layouts"),
    ],
)  # fmt: skip
def test_what_is_not_understood_is_named(body: str, error: type[Exception], message: str) -> None:
    text = f".entry k() {{ .reg .b32 %r<3>; .reg .pred %p0; {body} }}"
    with pytest.raises(error, match=message):
        run(Module.parse(text).entry("k"), (1,), (32,), [], Memory())


@pytest.mark.parametrize("text", ["", "int main() {}", ".entry k() { ret;"])
def test_what_is_no_ptx_is_refused(text: str) -> None:
    with pytest.raises(ParseError):
        Module.parse(text)


def test_a_launch_must_fit_the_kernel() -> None:
    entry = Module.parse(TWO).entry("first")
    arguments = [bytes(4), bytes(40)]
    with pytest.raises(ValueError, match="blocks of 257 threads; the kernel allows 256"):
        run(entry, (1,), (257,), arguments, Memory())
    with pytest.raises(ValueError, match="not the lengths"):
        run(entry, (0,), (32,), arguments, Memory())
