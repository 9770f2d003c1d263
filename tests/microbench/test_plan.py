"""What is asked is checked before any process starts."""

from __future__ import annotations

from typing import Any

import pytest

from sllmbench.errors import InputError
from sllmbench.hardware import cpu, memory
from sllmbench.hardware.cpu import Cache
from sllmbench.matmuls import native, torch_ops
from sllmbench.microbench.plan import DEFAULT_PATHS, KernelPlan, make_plan, model_shapes

ASKED: dict[str, Any] = {
    "shapes": ["64x96"],
    "m": [1],
    "paths": ["int8", "torch:fp32"],
    "model": None,
    "threads": [1],
    "arithmetic": "int8",
    "isa": None,
    "cache": "hot",
    "baseline": None,
    "rounds": 6,
    "seed": 0,
}


def plan(**changes: Any) -> KernelPlan:
    return make_plan(**{**ASKED, **changes})


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"shapes": ["64by96"]}, "a shape is NxK, as 8192x2048"),
        ({"shapes": ["0x96"]}, "the sides of shape 0x96 must be between 1 and"),
        ({"shapes": ["9999999x96"]}, "the sides of shape 9999999x96"),
        ({"shapes": [""]}, "a shape is NxK"),
        ({"m": [0]}, "m must be at least 1, not 0"),
        ({"threads": [0]}, "threads must be at least 1, not 0"),
        ({"threads": [1000]}, "threads must be between 1 and 512"),
        ({"paths": ["int3"]}, "unknown path 'int3'"),
        ({"arithmetic": "int4"}, "unknown arithmetic 'int4'; choose exact or int8"),
        ({"cache": "warm"}, "unknown cache state 'warm'; choose hot or cold"),
        ({"isa": "avx9"}, "avx9"),
        ({"baseline": "bf16"}, "the baseline 'bf16' is not among the paths int8, torch:fp32"),
        ({"rounds": 0}, "rounds must be at least 1, not 0"),
        ({"model": "llama-3.2-1b"}, "give shapes or a model, not both"),
        ({"shapes": None, "model": "no-such-model"}, "unknown model 'no-such-model'"),
    ],
)
def test_what_cannot_be_done_is_refused(change: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        plan(**change)


def test_every_case_is_a_shape_rows_and_threads() -> None:
    cases = plan(shapes=["64x96", "32×7"], m=[1, 3], threads=[1, 2]).cases
    found = [(c.threads, c.m, c.shape.n, c.shape.k) for c in cases]
    assert len(found) == len(set(found)) == 8
    assert (2, 3, 32, 7) in found


def test_a_path_that_is_asked_for_must_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_ops.TorchFloat, "unavailable", lambda _: "no torch: pip install it")
    with pytest.raises(
        InputError, match="path torch:fp32 cannot run here: no torch: pip install it"
    ):
        plan()
    without = plan(paths=None)
    assert without.unavailable["torch:bf16"] == "no torch: pip install it"
    assert "torch:bf16" not in without.paths
    assert set(without.paths) | set(without.unavailable) <= set(DEFAULT_PATHS)


def test_the_baseline_is_torchs_bf16_else_a_peer() -> None:
    assert plan(paths=["int8", "torch:fp32", "torch:bf16"]).baseline == "torch:bf16"
    assert plan().baseline == "torch:fp32"
    assert plan(paths=["int8", "int4-g32"]).baseline == "int8"


def test_a_models_shapes_are_its_layers() -> None:
    shapes = [(s.n, s.k) for s in model_shapes("llama-3.2-1b")]
    assert len(shapes) == 4
    assert set(shapes) == {(2048, 2048), (512, 2048), (8192, 2048), (2048, 8192)}


def test_cold_exceeds_the_last_level_cache_four_times(monkeypatch: pytest.MonkeyPatch) -> None:
    caches = (
        Cache(level=2, kind="unified", bytes=1 << 20, instances=2),
        Cache(level=3, kind="unified", bytes=8 << 20, instances=2),
    )
    monkeypatch.setattr(cpu, "caches", lambda _: (caches, None))
    monkeypatch.setattr(memory, "available_bytes", lambda _: 8 << 30)
    assert plan(cache="cold").cold_bytes == 4 * (16 << 20)
    assert plan(cache="hot").cold_bytes == 0
    monkeypatch.setattr(memory, "available_bytes", lambda _: 100 << 20)
    with pytest.raises(InputError, match="walks through 64 MiB a path, and 100 MiB are free"):
        plan(cache="cold")
    monkeypatch.setattr(cpu, "caches", lambda _: ((), "a hypervisor hides them"))
    with pytest.raises(InputError, match="a hypervisor hides them"):
        plan(cache="cold")


def test_what_would_not_fit_into_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_bytes", lambda _: 2 << 30)
    assert plan(shapes=["2048x2048"]).cases
    says = r"128256x2048 on 2 paths takes about \d+\.\d GB and 2\.1 GB are free; ask for fewer"
    with pytest.raises(InputError, match=says):
        plan(shapes=["2048x2048", "128256x2048"])
    with pytest.raises(InputError, match=r"2048x2048 on 2 paths takes about .* ask for fewer"):
        plan(shapes=["2048x2048"], m=[1, 100_000])
    monkeypatch.setattr(memory, "available_bytes", lambda _: None)  # nobody knows
    assert plan(shapes=["128256x2048"]).cases


def test_a_forced_instruction_set_reaches_the_plan() -> None:
    assert plan(isa="generic").isa == "generic"
    assert native.NativeMatmul("int8", isa="generic").unavailable() is None
