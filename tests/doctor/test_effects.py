"""What is measured, on this machine."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from sllmbench import _native
from sllmbench.doctor import effects
from sllmbench.doctor.finding import Effect
from sllmbench.doctor.gauge import Gauge

if TYPE_CHECKING:
    from pathlib import Path

ALLOWED = tuple(sorted(os.sched_getaffinity(0)))


def test_each_effect_is_measured_once_and_only_when_asked() -> None:
    calls = []

    def effect(number: int) -> Effect:
        calls.append(number)
        return Effect(text="said", value=number, unit="×")

    gauge = Gauge(measure=True)
    assert [gauge(effect, 1), gauge(effect, 1), gauge(effect, 2)][1].value == 1
    assert calls == [1, 2]
    assert Gauge(measure=False)(effect, 3).text == "not measured: not asked for"
    assert calls == [1, 2]


def test_what_the_system_refuses_is_a_reason() -> None:
    def refuse() -> Effect:
        raise PermissionError(1, "Operation not permitted")

    said = Gauge(measure=True)(refuse)
    assert said.value is said.unit is None
    assert said.text == "not measured: [Errno 1] Operation not permitted"


def test_a_processor_that_is_shared_is_seen_in_what_is_kept_off() -> None:
    """Another process pinned to one processor takes half of it."""
    code = f"import os; os.sched_setaffinity(0, [{ALLOWED[0]}])\nwhile True: pass"
    before = os.sched_getaffinity(0)
    other = subprocess.Popen([sys.executable, "-c", code])
    try:
        os.sched_setaffinity(0, {ALLOWED[0]})
        shared = effects.kept_off()
    finally:
        other.kill()
        other.wait()
        os.sched_setaffinity(0, before)
    assert shared.unit == "%"
    assert shared.value is not None
    assert 25 < shared.value <= 100


def test_the_mask_is_as_before_and_threads_were_pinned_alone() -> None:
    effects.kept_off()
    effects.far_memory(ALLOWED[0], ALLOWED[-1])
    assert tuple(sorted(os.sched_getaffinity(0))) == ALLOWED


@pytest.mark.skipif(len(ALLOWED) < 2, reason="one processor")
def test_two_processors_compute_more_than_one() -> None:
    said = effects.processors(ALLOWED[:1], ALLOWED[:2])
    assert said.unit == "×"
    assert said.value is not None
    assert said.value > 1
    assert tuple(sorted(os.sched_getaffinity(0))) == ALLOWED


def test_processors_that_are_not_there_are_a_reason() -> None:
    said = effects.processors(ALLOWED[:1], (*ALLOWED, 1000))
    assert said.value is None
    assert said.text.startswith("not measured: ")
    assert tuple(sorted(os.sched_getaffinity(0))) == ALLOWED


def test_a_slower_instruction_set_is_measured_slower() -> None:
    best = _native.supported_isas()[-1]
    if best == "generic":
        pytest.skip("one instruction set only")
    said = effects.matmul_isa("generic", best)
    assert said.value is not None
    assert said.value > 1.5
    assert f"{best} " in said.text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("nr_periods 9\nnr_throttled 4\nthrottled_usec 2500\n", (4, 2_500_000)),
        ("nr_throttled 4\nthrottled_time 2500\n", (4, 2500)),
        ("usage_usec 9\n", None),
    ],
)
def test_throttling_is_read_in_both_versions(
    tmp_path: Path, text: str, expected: tuple[int, int] | None
) -> None:
    file = tmp_path / "cpu.stat"
    file.write_text(text)
    assert effects.throttled(file) == expected
    assert effects.throttled(tmp_path / "none") is None


def test_a_file_that_counts_nothing_is_a_reason(tmp_path: Path) -> None:
    assert effects.held_back(tmp_path / "cpu.stat").value is None
    assert effects.pages_swapped(tmp_path / "vmstat").value is None


def test_readings_of_the_clocks_have_units() -> None:
    spread, reading = effects.clock_spread(), effects.clock_reading()
    assert (spread.unit, reading.unit) == ("%", "ns")
    assert spread.value is not None
    assert reading.value is not None
    assert 0 <= spread.value < 100
    assert 1 < reading.value < 10_000


def test_huge_pages_are_compared_or_refused() -> None:
    said = effects.huge_pages()
    assert (said.value is None) == said.text.startswith("not measured: ")
    assert said.value is None or said.value > 0.5


def test_openmp_pins_where_it_is_told_to() -> None:
    free = effects.pinned_by_openmp(())
    pinned = effects.pinned_by_openmp((("OMP_PROC_BIND", "true"),))
    assert free.value == len(ALLOWED)
    assert pinned.value is not None
    assert pinned.value <= len(ALLOWED)


def test_a_setting_that_slows_torch_down_is_measured() -> None:
    said = effects.torch_without("ATEN_CPU_CAPABILITY", "default")
    assert said.unit == "×"
    assert said.value is not None
    assert said.value > 1.1
