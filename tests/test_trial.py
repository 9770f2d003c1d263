"""The process of one path: what it answers, and how its end reaches the parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from sllmbench.errors import InputError
from sllmbench.measure.memory import PeakRss
from sllmbench.record import Interference, Quality
from sllmbench.trial import Trial
from sllmbench.worker import WorkerError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def trial() -> Iterator[Trial]:
    made = Trial("fp32")
    yield made
    made.kill()


@pytest.fixture(scope="module")
def loaded(tiny_llama: Path) -> Iterator[tuple[Trial, dict[str, Any]]]:
    made = Trial("int8")
    prompt = list(range(1, 25))
    result = made.ask(
        "load",
        model=str(tiny_llama),
        path="int8",
        arithmetic="exact",
        threads=1,
        prompt_ids=prompt,
    )
    yield made, result
    made.kill()


def test_load_is_timed(loaded: tuple[Trial, dict[str, Any]]) -> None:
    # Imports take seconds; they are no part of it.
    assert 0 < loaded[1]["load_ns"] < 1e9


def test_a_repetition_has_every_figure(loaded: tuple[Trial, dict[str, Any]]) -> None:
    reply = loaded[0].ask("time", n_gen=4)
    assert 0 < reply["prefill_ns"] <= reply["ttft_ns"]
    assert len(reply["itl_ns"]) == 3
    assert reply["decode_ns"] > 0
    seen = Interference.model_validate(reply["interference"])
    assert seen.window_ns > reply["ttft_ns"] + sum(reply["itl_ns"]) + reply["decode_ns"]
    for phase in ("prefill_energy", "decode_energy"):
        assert (reply[phase]["energy_j"] is None) == (reply[phase]["reason"] is not None)
        assert reply[phase]["calls"] >= 1
    assert (reply["peak_rss_bytes"] is None) == (reply["peak_rss_reason"] is not None)
    facts = reply["facts"]
    assert facts["arithmetic"] == "exact"
    assert facts["weights_bytes"] > 0
    layers = {name for use in facts["layer_kernels"] for name in use["layers"]}
    assert len(layers) == 15


def test_peak_memory_leaves_the_imports_out(loaded: tuple[Trial, dict[str, Any]]) -> None:
    here = PeakRss()
    here.start()
    reply = loaded[0].ask("time", n_gen=1)
    peak, reason = reply["peak_rss_bytes"], reply["peak_rss_reason"]
    assert reason == here.above_start_bytes()[1]
    if peak is None:
        pytest.skip(f"no peak on this machine: {reason}")
    assert 0 < peak < psutil.Process(loaded[0].pid).memory_info().rss / 2


def test_quality_is_a_record(loaded: tuple[Trial, dict[str, Any]]) -> None:
    ids = [1 + i * 7 % 500 for i in range(100)]
    reply = loaded[0].ask(
        "quality", ids=ids, text="counting", context=64, save=None, reference=None
    )
    quality = Quality.model_validate(reply)
    assert (quality.text, quality.context, quality.n_tokens) == ("counting", 64, 98)


def test_progress_comes_through(loaded: tuple[Trial, dict[str, Any]]) -> None:
    told: list[float | None] = []
    ids = list(range(1, 200))
    loaded[0].ask(
        "quality",
        lambda _, fraction: told.append(fraction),
        ids=ids,
        text="t",
        context=50,
        save=None,
        reference=None,
    )
    assert told[-1] == 1.0
    assert len(told) >= 4


def test_a_paused_child_stands_still(loaded: tuple[Trial, dict[str, Any]]) -> None:
    trial, process = loaded[0], psutil.Process(loaded[0].pid)
    trial.pause()
    deadline = time.monotonic() + 5
    while process.status() != psutil.STATUS_STOPPED:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    trial.resume()
    assert trial.ask("time", n_gen=1)["decode_ns"] > 0


def test_bad_input_travels_as_an_input_error(trial: Trial) -> None:
    with pytest.raises(InputError, match=r"^/nowhere/model does not exist"):
        trial.ask(
            "load",
            model="/nowhere/model",
            path="fp32",
            arithmetic="int8",
            threads=1,
            prompt_ids=[1],
        )


def test_a_bug_travels_with_its_traceback_and_the_child_lives_on(trial: Trial) -> None:
    for _ in range(2):
        with pytest.raises(WorkerError, match="path fp32 failed: KeyError: 'nonsense'") as caught:
            trial.ask("nonsense")
        assert "Traceback" in caught.value.detail


def test_a_child_never_asks_the_hub(trial: Trial) -> None:
    assert psutil.Process(trial.pid).environ()["HF_HUB_OFFLINE"] == "1"


def test_sigint_is_the_parents_to_answer(trial: Trial) -> None:
    with pytest.raises(WorkerError, match="KeyError"):  # it has started
        trial.ask("nonsense")
    os.kill(trial.pid, signal.SIGINT)
    with pytest.raises(WorkerError, match="KeyError"):
        trial.ask("nonsense")
    assert os.getpgid(trial.pid) == trial.pid


@pytest.mark.parametrize("wait", [False, True], ids=["while asked", "before"])
def test_a_killed_child_is_named_with_its_signal(trial: Trial, wait: bool) -> None:
    os.kill(trial.pid, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while wait and psutil.Process(trial.pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
    with pytest.raises(WorkerError, match=r"path fp32 failed: its process was killed by SIGKILL"):
        trial.ask("time", n_gen=1)


def test_a_stopped_child_dies_with_its_parent() -> None:
    script = """
import time
from sllmbench.trial import Trial
from sllmbench.worker import WorkerError
trial = Trial("fp32")
try:
    trial.ask("nonsense")
except WorkerError:
    trial.pause()
    print(trial.pid, flush=True)
time.sleep(60)
"""
    with subprocess.Popen(
        [sys.executable, "-P", "-c", script], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        assert child.is_running()
        parent.kill()
    _, alive = psutil.wait_procs([child], timeout=10)
    assert not [p for p in alive if p.status() != psutil.STATUS_ZOMBIE]


def test_the_shared_file_leaves_no_name_behind(tmp_path: Path) -> None:
    import tempfile

    with tempfile.TemporaryFile(dir=tmp_path) as share:
        trial = Trial("fp32", share)
        try:
            assert trial.shared_file == f"/proc/self/fd/{share.fileno()}"
            fds = psutil.Process(trial.pid)
            assert os.path.samestat(
                os.stat(f"/proc/{fds.pid}/fd/{share.fileno()}"), os.fstat(share.fileno())
            )
            assert list(tmp_path.iterdir()) == []
        finally:
            trial.kill()
