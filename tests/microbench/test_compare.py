"""Comparisons of real processes: turns, deaths, interrupts."""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from sllmbench import microbench
from sllmbench.errors import Failure, InputError
from sllmbench.microbench import KernelResult, compare_kernels
from sllmbench.store import Store
from sllmbench.worker import Worker

if TYPE_CHECKING:
    from pathlib import Path

PATHS = ["int4-g32", "torch:fp32", "torch:int4pack-g32"]
ROUNDS = 6


class Watched(Worker):
    """A worker that notes what it is asked, and what the others did meanwhile."""

    asked: list[tuple[str, str]]
    alive: list[Watched]
    running_others: list[str]
    on_ask: Any

    def __init__(self, path: str, module: str) -> None:
        super().__init__(path, module)
        Watched.alive.append(self)

    def ask(self, do: str, *arguments: Any, **named: Any) -> dict[str, Any]:
        Watched.asked.append((self.path, do))
        Watched.on_ask(self, do)
        for other in Watched.alive:
            if other is not self and psutil.pid_exists(other.pid) and not stopped(other.pid):
                Watched.running_others.append(other.path)
        return super().ask(do, *arguments, **named)


def stopped(pid: int) -> bool:
    """Whether it stands still or has ended, within the moment that a signal takes."""
    deadline = time.monotonic() + 2
    while time.monotonic() < deadline:
        if psutil.Process(pid).status() in (psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE):
            return True
        time.sleep(0.001)
    return False


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> type[Watched]:
    Watched.asked, Watched.alive, Watched.running_others = [], [], []
    Watched.on_ask = lambda *_: None
    monkeypatch.setattr(microbench, "Worker", Watched)
    return Watched


def compare(**changes: Any) -> KernelResult:
    asked: dict[str, Any] = {
        "shapes": ["64x96"],
        "m": [2],
        "paths": PATHS,
        "threads": [1],
        "rounds": ROUNDS,
    }
    asked.update(changes)
    return compare_kernels(**asked)


def test_every_path_has_its_record_and_its_turn_alone(watched: type[Watched]) -> None:
    result = compare(arithmetic="exact")
    assert result.failures == []
    assert [r.path for r in result.records] == PATHS
    assert watched.running_others == []
    turns = [path for path, do in watched.asked if do == "turn"]
    rounds = [turns[i : i + 3] for i in range(0, len(turns), 3)]
    assert [sorted(taken) for taken in rounds] == [sorted(PATHS)] * ROUNDS
    assert len({tuple(taken) for taken in rounds}) > 1  # 1 in 7776 by chance, but the seed is fixed
    for record in result.records:
        assert len(record.samples_ns) == len(record.batches_per_sample) == ROUNDS
        assert len(record.interference) == ROUNDS
        assert record.n_disturbed == sum(bool(what.causes) for what in record.interference)
        assert record.sampling.stopped_by == "rounds"
        assert record.ci95_ns is not None
        low, high = record.ci95_ns
        assert 0 < low <= record.median_ns <= high
        assert set(record.interleaved_with) == set(PATHS) - {record.path}
        assert record.gflops == pytest.approx(2 * 2 * 64 * 96 / record.median_ns)
        assert record.moved_bytes == record.weight_bytes + 4 * 2 * (64 + 96)
        assert (record.roof_fraction is None) == (record.bound is None)
    errors = {r.path: r.max_rel_error for r in result.records}
    assert errors["int4-g32"] < 1e-5
    assert errors["torch:fp32"] < 1e-5 < errors["torch:int4pack-g32"] < 0.02
    assert not any(psutil.pid_exists(worker.pid) for worker in watched.alive)


def test_a_precision_takes_more_rounds_and_time_ends_them(watched: type[Watched]) -> None:
    result = compare(rounds=2, precision=0.2, max_seconds=20, paths=PATHS[:2])
    for record in result.records:
        assert record.sampling.precision_asked == 0.2
        assert record.sampling.stopped_by == "precision"
        assert len(record.samples_ns) + record.sampling.warm_up_samples >= 12
        assert (record.sampling.precision_reached or 1) <= 0.2
    started = time.monotonic()
    result = compare(rounds=2, precision=1e-6, max_seconds=1, paths=PATHS[:2])
    assert time.monotonic() - started > 1
    assert {record.sampling.stopped_by for record in result.records} == {"time"}


def test_a_path_that_dies_is_named_and_the_others_go_on(watched: type[Watched]) -> None:
    turns = 0

    def kill_the_third(worker: Watched, do: str) -> None:
        nonlocal turns
        if (worker.path, do) == ("torch:fp32", "turn"):
            turns += 1
            if turns == 3:
                os.kill(worker.pid, signal.SIGKILL)

    watched.on_ask = kill_the_third
    result = compare(shapes=["64x96", "32x32"])
    assert [failure.path for failure in result.failures] == ["torch:fp32"]
    message = result.failures[0].message
    assert "path torch:fp32 failed: its process was killed by SIGKILL" in message
    counts = {(r.path, r.n): len(r.samples_ns) for r in result.records}
    assert counts["int4-g32", 64] == counts["int4-g32", 32] == ROUNDS
    assert ("torch:fp32", 64) not in counts  # two turns of six are no comparison


def test_a_shape_that_a_path_cannot_multiply_is_a_note() -> None:
    result = compare(shapes=["50x33"], rounds=1)
    assert [r.path for r in result.records] == ["int4-g32", "torch:fp32"]
    assert result.failures == []
    assert any("torch:int4pack-g32, 50x33: needs k in whole groups" in n for n in result.notes)


def test_an_interrupt_keeps_what_was_measured(watched: type[Watched]) -> None:
    def interrupt_the_second_case(worker: Watched, do: str) -> None:
        if do == "bind" and sum(asked[1] == "bind" for asked in watched.asked) == 5:
            raise KeyboardInterrupt

    watched.on_ask = interrupt_the_second_case
    result = compare(shapes=["64x96", "32x32"], rounds=1)
    assert result.interrupted
    assert [(r.path, r.n) for r in result.records] == [(path, 64) for path in PATHS]
    assert not any(psutil.pid_exists(worker.pid) for worker in watched.alive)


def test_an_interrupt_keeps_the_turns_of_the_case_under_way(watched: type[Watched]) -> None:
    def interrupt_the_eighth_turn(worker: Watched, do: str) -> None:
        if do == "turn" and sum(asked[1] == "turn" for asked in watched.asked) == 8:
            raise KeyboardInterrupt

    watched.on_ask = interrupt_the_eighth_turn
    result = compare()
    assert result.interrupted
    assert sum(len(r.samples_ns) for r in result.records) == 7
    assert {r.path for r in result.records} == set(PATHS)


def test_a_roof_process_that_dies_costs_the_roofs_alone(watched: type[Watched]) -> None:
    def kill_the_roofs(worker: Watched, do: str) -> None:
        if do == "read_bandwidth":
            os.kill(worker.pid, signal.SIGKILL)

    watched.on_ask = kill_the_roofs
    result = compare(rounds=1)
    assert [r.path for r in result.records] == PATHS
    assert all((r.roof_gbs, r.roof_fraction, r.bound) == (None, None, None) for r in result.records)
    assert all("killed by SIGKILL" in (r.roof_reason or "") for r in result.records)
    assert [failure.path for failure in result.failures] == ["roofs"]


def test_cold_walks_through_copies_of_each_paths_own_size() -> None:
    result = compare(shapes=["512x1024"], cache="cold", rounds=1, paths=["int4-g32", "torch:fp32"])
    held = {r.path: r.copies * r.weight_bytes for r in result.records}
    least = min(held.values())
    assert least > 1 << 20
    assert all(size < 1.5 * least for size in held.values()), held
    assert all(r.cache == "cold" and r.copies > 1 for r in result.records)


def test_records_are_in_the_store(tmp_path: Path) -> None:
    result = compare(paths=["int8"], rounds=1, store=tmp_path / "s.sqlite")
    assert len(result.records) == 1
    with Store(tmp_path / "s.sqlite") as store:
        assert store.records() == result.records
    assert result.records[0].machine == result.machine


def test_a_store_that_fails_loses_no_measurement(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Store, record: object) -> None:
        raise InputError("no space left")

    monkeypatch.setattr(Store, "append", fail)
    result = compare(paths=["int8"], rounds=1, store=tmp_path / "s.sqlite")
    assert len(result.records) == 1
    assert result.failures == [Failure("int8", "path int8 was not stored: no space left", "")]
