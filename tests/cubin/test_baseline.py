"""A stored report against a new one: each way to be worse, and none where nothing is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from sllmbench.cubin import Question, baseline
from sllmbench.cubin.devices import device_of
from sllmbench.cubin.examine import read
from sllmbench.errors import InputError
from sllmbench.record import CubinRecord, Emulated, KernelCode
from sllmbench.report import cubin as report

if TYPE_CHECKING:
    from pathlib import Path

    from sllmbench.cubin.tools import Dump


@pytest.fixture(scope="module")
def before(stored: Dump) -> CubinRecord:
    question = Question(weights_per_trip=128)
    return CubinRecord(
        sllmbench_version="0",
        file="kernels.cubin",
        arch="sm_75",
        device="t4",
        compiler=None,
        kernels=read(stored, device_of("t4"), question),
    )


def changed(record: CubinRecord, name: str, **values: Any) -> CubinRecord:
    """The record with other figures for one kernel."""
    kernels = tuple(
        KernelCode.model_validate(k.model_dump() | values) if k.name == name else k
        for k in record.kernels
    )
    return record.model_copy(update={"kernels": kernels})


def test_nothing_is_worse_than_itself(before: CubinRecord) -> None:
    again = CubinRecord.model_validate_json(report.json(before))
    assert again == before
    assert baseline.worse(again, before) == []
    assert baseline.added(again, before) == []


def loop_of(record: CubinRecord, name: str, **values: Any) -> dict[str, Any]:
    loop = next(k.main_loop for k in record.kernels if k.name == name)
    assert loop is not None
    return loop.model_dump() | values


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"instructions_per_weight": 0.3}, "0.3 instructions a weight, not 0.2891"),
        ({"instructions_per_weight": None}, "instructions a weight is not known any more"),
        ({"local_stores": 1}, "1 spills (local loads and stores), not 0"),
        ({"occupancy": None}, "occupancy is not known any more"),
        ({"main_loop": None}, "the main loop is not known any more"),
    ],
)
def test_figures_that_got_worse(before: CubinRecord, values: dict[str, Any], said: str) -> None:
    assert baseline.worse(changed(before, "stream", **values), before) == [f"stream: {said}"]


def test_better_is_not_worse(before: CubinRecord) -> None:
    after = changed(before, "stream", instructions_per_weight=0.2, registers=24)
    after = changed(after, "spilling", local_loads=0, local_stores=0)
    assert baseline.worse(after, before) == []


def test_registers_count_past_a_step_of_occupancy(before: CubinRecord) -> None:
    stream = next(k for k in before.kernels if k.name == "stream")
    assert stream.occupancy is not None
    assert baseline.worse(changed(before, "stream", registers=64), before) == []
    fewer = stream.occupancy.model_copy(update={"blocks": 7, "warps": 28})
    after = changed(before, "stream", registers=72, occupancy=fewer.model_dump())
    (line,) = baseline.worse(after, before)
    assert line.startswith("stream: 7 blocks on a multiprocessor, not 8 (72 registers, were 30")


def test_narrower_loads(before: CubinRecord) -> None:
    loop = loop_of(before, "stream", global_loads={"64": 8}, read_once_loads={"64": 8})
    lines = baseline.worse(changed(before, "stream", main_loop=loop), before)
    assert lines == [
        "stream: global loads are narrower: 8 bytes each, not 16",
        "stream: weight loads are narrower: 8 bytes each, not 16",
    ]


def test_tensor_instructions(before: CubinRecord) -> None:
    after = changed(before, "tensor", instructions_per_tensor=18)
    (line,) = baseline.worse(after, before)
    assert line == "tensor: 18 other instructions a tensor instruction, not 17"


def test_emulated_addresses(before: CubinRecord) -> None:
    def emulated(sectors: float, conflicts: int) -> tuple[dict[str, Any], ...]:
        launch = Emulated(
            launch="512x2048",
            sectors_per_request=sectors,
            ideal_sectors_per_request=16,
            bank_conflicts=conflicts,
            shared_requests=8,
        )
        return (launch.model_dump(),)

    good = changed(before, "stream", emulated=emulated(16, 0))
    assert baseline.worse(good, good) == []
    bad = changed(before, "stream", emulated=emulated(32, 4))
    assert baseline.worse(bad, good) == [
        "stream: 32 sectors a request, not 16",
        "stream: 0.5 bank conflicts a request, not 0",
    ]
    assert baseline.worse(before, good) == [
        "stream: sectors a request is not known any more",
        "stream: bank conflicts a request is not known any more",
    ]


def test_kernels_that_come_and_go(before: CubinRecord) -> None:
    fewer = before.model_copy(update={"kernels": before.kernels[1:]})
    assert baseline.worse(fewer, before) == [f"{before.kernels[0].name}: is gone"]
    assert baseline.worse(before, fewer) == []
    assert baseline.added(before, fewer) == [before.kernels[0].name]


def test_an_anonymous_namespace_is_the_same_in_another_build(before: CubinRecord) -> None:
    builds = [
        changed(before, "stream", mangled=f"_ZN47_GLOBAL__N__{a}_14_activations_cu_{b}4sumEv")
        for a, b in [("caa6c994", "90384a92"), ("00000000", "ffffffff")]
    ]
    assert baseline.worse(*builds) == baseline.added(*builds) == []
    elsewhere = changed(
        before, "stream", mangled="_ZN47_GLOBAL__N__caa6c994_14_activation2_cu_90384a924sumEv"
    )
    assert baseline.worse(elsewhere, builds[0]) == ["stream: is gone"]


def test_only_like_is_compared_with_like(before: CubinRecord) -> None:
    other = before.model_copy(update={"device": "a100", "arch": "sm_80"})
    with pytest.raises(InputError, match="sm_80 on a100, this is sm_75 on t4"):
        baseline.worse(before, other)


def test_files_that_are_no_baseline(before: CubinRecord, tmp_path: Path) -> None:
    path = tmp_path / "baseline.json"
    with pytest.raises(InputError, match="No such file"):
        baseline.read(path)
    for text in ("{", "[]", report.json(before).replace('"registers"', '"regs"')):
        path.write_text(text)
        with pytest.raises(InputError, match="no report of") as error:
            baseline.read(path)
        assert "\n" not in str(error.value)
    path.write_text(report.json(before))
    assert baseline.read(path) == before
