"""Text → instructions → loops, on stored machine code whose loops were read by hand."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from sllmbench.cubin import access, sass
from sllmbench.cubin.classes import by_class, class_of, unknown_opcodes
from sllmbench.cubin.loops import find_loops, has_indirect_branches, main_loop

if TYPE_CHECKING:
    from sllmbench.cubin.tools import Dump

STREAM, NESTED, TENSOR = "_Z6streamPK5uint4Pji", "_Z6nestedPKfPfii", "_Z6tensorPK5uint2PKjPS_i"


@pytest.fixture(scope="module")
def functions(stored: Dump) -> dict[str, sass.Function]:
    return sass.parse(stored.sass)


def test_every_instruction_is_read(stored: Dump, functions: dict[str, sass.Function]) -> None:
    lines = re.findall(r"/\*[0-9a-f]{4}\*/.*;", stored.sass)
    assert sum(len(f.instructions) for f in functions.values()) == len(lines)
    assert len(functions) == 5
    for function in functions.values():
        addresses = [i.address for i in function.instructions]
        assert addresses == list(range(0, 16 * len(addresses), 16))
        assert unknown_opcodes(function.instructions) == ()


def code(text: str, *, waits: int = 0, completes: int = 7, address: int = 0) -> str:
    """An instruction as cuobjdump writes it."""
    high = waits << 52 | completes << 46
    return f"/*{address:04x}*/ {text} ; /* 0x{0:016x} */\n /* 0x{high:016x} */\n"


def program(*texts: str) -> sass.Function:
    """A function of instructions that wait for nothing."""
    body = "".join(code(text, address=16 * i) for i, text in enumerate(texts))
    return sass.parse(f"\tFunction : f\n{body}")["f"]


def test_an_instruction_has_its_parts() -> None:
    text = code("@!P0 LDG.E.128.CONSTANT.SYS R8, [R36+0x10]", waits=0b100001, completes=3)
    (read,) = sass.parse(f"\tFunction : f\n{text}")["f"].instructions
    assert (read.predicate, read.opcode, read.name) == ("@!P0", "LDG.E.128.CONSTANT.SYS", "LDG")
    assert read.operands == "R8, [R36+0x10]"
    assert read.waits_for == {0, 5}
    assert read.completes == 3
    (alone,) = program("EXIT").instructions
    assert (alone.predicate, alone.waits_for, alone.completes) == (None, frozenset(), None)


def test_the_bits_say_what_a_use_waits_for(functions: dict[str, sass.Function]) -> None:
    """Each register that was loaded is used only behind a wait for that load's scoreboard.

    Nothing but this shows that the undocumented bits are where the parser looks for them.
    """
    checked = 0
    for function in functions.values():
        pending: dict[str, int] = {}
        for instruction in function.instructions:
            done = {r for r, board in pending.items() if board in instruction.waits_for}
            pending = {r: board for r, board in pending.items() if r not in done}
            checked += len(done)
            used = set(re.findall(r"\bR\d+\b", instruction.operands))
            assert not used & set(pending), instruction
            if instruction.name in ("LDG", "LDS", "LDL", "S2R"):
                assert instruction.completes is not None
                first = int(re.match(r"R(\d+)", instruction.operands)[1])  # type: ignore[index]
                for i in range(max(1, access.width_bytes(instruction) // 4)):
                    pending[f"R{first + i}"] = instruction.completes
    assert checked > 100


@pytest.mark.parametrize(("name", "loops", "own"), [(STREAM, 1, 37), (TENSOR, 1, 18)])
def test_single_loops(functions: dict[str, sass.Function], name: str, loops: int, own: int) -> None:
    found = find_loops(functions[name])
    assert len(found) == loops
    assert len(found[0].own) == len(found[0].instructions) == own


def test_a_loop_in_a_loop(functions: dict[str, sass.Function]) -> None:
    outer = next(loop for loop in find_loops(functions[NESTED]) if loop.inner)
    (inner,) = outer.inner
    assert inner.instructions[-1].name == "BRA"
    assert {i.address for i in inner.instructions} < {i.address for i in outer.instructions}
    assert main_loop(find_loops(functions[NESTED])) == inner
    assert [i.name for i in inner.instructions].count("LDG") == 1
    assert "STG" in [i.name for i in outer.own]


def test_no_loop_no_main_loop(functions: dict[str, sass.Function]) -> None:
    assert find_loops(functions["_Z5plainPii"]) == []  # the jump to itself behind EXIT is padding
    assert main_loop([]) is None


def test_loops_of_every_shape() -> None:
    whole = program("NOP", "@P0 BRA 0x40", "NOP", "@P1 BRA 0x10", "EXIT", "BRA 0x50")
    (loop,) = find_loops(whole)
    assert [i.address for i in loop.instructions] == [0x10, 0x20, 0x30]
    cold = program("NOP", "BRA P0, 0x40", "@P1 BRA 0x0", "EXIT", "NOP", "BRA 0x20")
    (loop,) = find_loops(cold)  # with the block behind its end
    assert [i.address for i in loop.instructions] == [0, 0x10, 0x20, 0x40, 0x50]
    rare = program("NOP", "BRA.DIV ~URZ, 0x40", "@P1 BRA 0x0", "EXIT", "NOP", "BRA 0x20")
    (loop,) = find_loops(rare)  # where a warp goes only in pieces is none of it
    assert [i.address for i in loop.instructions] == [0, 0x10, 0x20]
    assert has_indirect_branches(program("BRX R2 -0x10", "EXIT"))
    assert find_loops(program("BRA 0x20", "@P0 BRA 0x10", "EXIT")) == []  # nothing gets there


def test_the_main_loop_is_the_one_that_works() -> None:
    unrolled = ["LDG.E.NA.128 R4, [R2]"] * 4 + ["@P0 BRA 0x0"]
    rest = ["LDG.E.NA.128 R4, [R2]", *["IADD3 R1, R1, R1, RZ"] * 9, "@P0 BRA 0x50", "EXIT"]
    loops = find_loops(program(*unrolled, *rest))
    assert len(loops) == 2
    chosen = main_loop(loops)
    assert chosen is not None
    assert chosen.header == 0


@pytest.mark.parametrize(
    ("opcode", "kind", "width"),
    [
        ("LDG.E.NA.128.CONSTANT.SYS", "global", 16),
        ("LDG.E.U8.SYS", "global", 1),
        ("LDG.E.U16.CONSTANT.SYS", "global", 2),
        ("LDS.U.64", "shared", 8),
        ("LDSM.16.M88.4", "shared", 16),
        ("LDSM.16.M88", "shared", 4),
        ("LDGSTS.E.BYPASS.128", "global", 16),
        ("LDL", "local", 4),
        ("HMMA.1688.F16", "tensor", None),
        ("IMMA.8816.S8.S8", "tensor", None),
        ("HFMA2.MMA", "half", None),
        ("IMAD.MOV.U32", "move", None),
        ("IMAD.WIDE", "multiply", None),
        ("IDP.4A.S8.S8", "dot", None),
        ("UIADD3", "uniform", None),
        ("I2F", "conversion", None),
        ("BAR.SYNC", "control", None),
        ("FROBNICATE", "other", None),
    ],
)
def test_classes_and_widths(opcode: str, kind: str, width: int | None) -> None:
    (instruction,) = program(f"{opcode} R4, [R2]").instructions
    assert class_of(instruction) == kind
    if width is not None:
        assert access.width_bytes(instruction) == width
    assert by_class([instruction]) == {kind: 1}
    assert unknown_opcodes([instruction]) == (("FROBNICATE",) if kind == "other" else ())


def trip(*parts: str) -> list[sass.Instruction]:
    text = "".join(parts)
    return list(sass.parse(f"\tFunction : f\n{text}")["f"].instructions)


def test_bytes_in_flight() -> None:
    def flight(*parts: str) -> int:
        return access.bytes_in_flight(trip(*parts), access.is_global_load)

    load = "LDG.E.128 R4, [R2]"
    one_by_one = [code(load, completes=0), code("NOP", waits=1)] * 3
    assert flight(*one_by_one) == 16
    together = [code(load, completes=i) for i in range(3)] + [code("NOP", waits=7)]
    assert flight(*together) == 48
    shared = [code(load, completes=0), code(load, completes=0), code("NOP", waits=1)]
    assert flight(*shared) == 32  # one scoreboard ends both
    ahead = [code("NOP", waits=1), code(load, completes=0), code("NOP")]
    assert flight(*ahead) == 16  # asked for in one trip and used in the next
    assert flight(code("LDS.128 R4, [R2]", completes=0), code("NOP", waits=1)) == 0


def test_copies_in_flight() -> None:
    copy, commit = code("LDGSTS.E.BYPASS.128 [R1], [R2]"), code("LDGDEPBAR", completes=0)
    wait = code("DEPBAR.LE SB0, 0x2")
    parts = trip(copy, commit, wait)
    # Two groups are let be under way and the third is asked for before the wait.
    assert access.bytes_in_flight(parts, access.is_global_load) == 48
    assert access.bytes_in_flight(parts, access.is_read_once) == 0


def test_a_function_that_two_objects_hold_is_one() -> None:
    body = "\tFunction : f\n" + code("EXIT")
    assert list(sass.parse(body + body)) == ["f"]
    assert len(sass.parse(body + body)["f"].instructions) == 1
