"""The energy probe: idle power, short calls, phases and estimates."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import sllmbench
from sllmbench.checkpoints.base import silent
from sllmbench.errors import InputError
from sllmbench.measure.energy import (
    LEAST_UPDATES,
    EnergyProbe,
    EnergyWindow,
    add_up,
    measure_energy,
)
from sllmbench.measure.sensors import UPDATE_NS
from sllmbench.trial import _Child

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sllmbench.hardware.roots import Roots

AddZone = Callable[..., Path]
AssertRefused = Callable[[EnergyWindow, str], None]


@pytest.fixture
def power_w(add_zone: AddZone) -> Iterator[list[float]]:
    """A package that takes so many watts, which the test may change."""
    counter, watts, ended = add_zone("intel-rapl:0", "package-0", 1), [10.0], threading.Event()

    def count() -> None:
        energy_j, last = 0.0, time.monotonic()
        while not ended.wait(0.001):
            now = time.monotonic()
            energy_j += watts[0] * (now - last)
            last = now
            with counter.open("r+") as file:  # in place: a reader must never see it empty
                file.write(f"{round(energy_j * 1e6):020}")

    thread = threading.Thread(target=count)
    thread.start()
    yield watts
    ended.set()
    thread.join()


def test_idle_power_is_measured_once_and_taken_off(roots: Roots, power_w: list[float]) -> None:
    def measured() -> EnergyWindow:
        with EnergyProbe(idle_s=0.3, roots=roots) as window:
            time.sleep(0.3)
        assert window.window_ns is not None
        assert window.energy_j is not None
        return window

    first = measured()
    assert first.idle_w == pytest.approx(10, rel=0.15)
    assert first.above_idle_j == pytest.approx(0, abs=0.2 * first.energy_j)
    power_w[0] = 40.0
    time.sleep(0.05)
    before_s = time.monotonic()
    second = measured()
    assert time.monotonic() - before_s < 0.3 + 0.25 or second.window_ns > 0.5e9
    assert second.idle_w == first.idle_w
    idle_j = first.idle_w * second.window_ns / 1e9
    assert second.above_idle_j == pytest.approx(second.energy_j - idle_j, rel=1e-9)
    assert second.energy_j == pytest.approx(40 * second.window_ns / 1e9, rel=0.15)


def test_a_short_call_is_repeated_until_the_window_is_long_enough(
    roots: Roots, power_w: list[float]
) -> None:
    numbers = itertools.count()
    probe = EnergyProbe(idle_s=0, roots=roots)

    def call() -> int:
        time.sleep(0.002)
        return next(numbers)

    window, results = measure_energy(call, probe)
    assert window.energy_j is not None
    assert window.window_ns is not None
    assert window.window_ns >= probe.shortest_ns == LEAST_UPDATES * UPDATE_NS
    assert window.calls == len(results) > 1
    assert results == list(range(len(results)))
    slow, _ = measure_energy(lambda: time.sleep(0.03), probe)
    assert slow.calls == 1


def test_windows_add_up_to_a_phase(roots: Roots, power_w: list[float]) -> None:
    probe = EnergyProbe(idle_s=0.1, roots=roots)
    windows = [measure_energy(lambda: time.sleep(0.004), probe)[0] for _ in range(3)]
    energy = add_up(windows, tokens_per_call=5)
    joules = [window.energy_j for window in windows]
    assert energy.energy_j == pytest.approx(sum(joules))
    assert energy.windows_j == tuple(joules)
    calls = sum(window.calls for window in windows)
    assert calls > 3
    assert energy.j_per_token == pytest.approx(energy.energy_j / (5 * calls))
    assert energy.window_ns == sum(window.window_ns for window in windows)
    assert energy.uncertainty_j == pytest.approx(sum(window.uncertainty_j for window in windows))
    assert energy.above_idle_j == pytest.approx(
        energy.energy_j - energy.idle_w * energy.window_ns / 1e9
    )
    assert energy.domains_j == pytest.approx({"package-0": energy.energy_j})
    assert energy.reason is None
    broken = add_up([*windows, EnergyWindow(reason="it broke")], tokens_per_call=5)
    assert (broken.energy_j, broken.j_per_token, broken.reason) == (None, None, "it broke")
    assert broken.windows_j == ()


def test_a_trial_tells_joules_of_prefill_and_decode(
    roots: Roots, power_w: list[float], tiny_llama: Path
) -> None:
    child = _Child(silent)
    child.load(str(tiny_llama), "fp32", "int8", 1, [1, 2, 3, 4])
    child._probe = EnergyProbe(idle_s=0, roots=roots)
    reply = child.time(3)
    prefill, decode = (EnergyWindow(**reply[f"{phase}_energy"]) for phase in ("prefill", "decode"))
    for window in (prefill, decode):
        assert window.reason is None
        assert window.energy_j is not None
        assert window.window_ns is not None
        assert window.window_ns >= LEAST_UPDATES * UPDATE_NS
    assert prefill.calls > 1  # four tokens of so small a model take a millisecond or two
    assert reply["decode_ns"] < decode.window_ns / decode.calls * 10


def test_without_sensors_a_call_is_made_once(roots: Roots, assert_refused: AssertRefused) -> None:
    window, results = measure_energy(lambda: 5, EnergyProbe(roots=roots))
    assert (window.calls, results) == (1, [5])
    assert_refused(window, "no package domain")


def stat(roots: Roots, busy: int, idle: int) -> None:
    (roots.proc / "stat").write_text(f"cpu  {busy} 0 0 {idle} 0 0 0 0 0 0\n")


def test_an_estimate_is_made_only_when_asked_for_and_stands_apart(
    roots: Roots, assert_refused: AssertRefused
) -> None:
    stat(roots, 1000, 9000)
    with EnergyProbe(roots=roots, estimate_tdp_w=120) as window:
        time.sleep(0.02)
        stat(roots, 1025, 9075)
    assert_refused(window, "no package domain")
    assert window.window_ns is not None
    assert window.estimate_j == pytest.approx(120 * 0.25 * window.window_ns / 1e9)
    assert window.estimate_basis is not None
    assert window.estimate_basis.startswith("120 W × 25.0% of all processors' time × 0.0")
    with EnergyProbe(idle_s=0, roots=roots) as plain:
        stat(roots, 2000, 9080)
    assert plain.estimate_j is plain.estimate_basis is None
    with EnergyProbe(roots=roots, estimate_tdp_w=120) as still:
        pass
    assert still.estimate_j is None
    assert still.estimate_basis is not None
    assert "no processor time" in still.estimate_basis


@pytest.mark.parametrize(
    ("device", "options"),
    [
        ("tpu", {}),
        ("cuda:x", {}),
        ("cpu", {"estimate_tdp_w": 0}),
        ("cuda", {"estimate_tdp_w": 10}),
    ],
)
def test_what_cannot_be_asked_for_is_refused(
    roots: Roots, device: str, options: dict[str, float]
) -> None:
    with pytest.raises(InputError):
        EnergyProbe(device, roots=roots, **options)


def test_the_probe_is_public() -> None:
    assert sllmbench.EnergyProbe is EnergyProbe
    with sllmbench.EnergyProbe() as window:
        time.sleep(0.03)
    assert (window.energy_j is None) == (window.reason is not None)
