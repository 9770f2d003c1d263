"""Rotation of q and k and the append to the cache, against the formula in float64."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from shim.layers import LLAMA, ROPE_SHAPES, Call

if TYPE_CHECKING:
    from shim.build import Build
    from shim.layers import Shape
    from shim.library import Library

pytestmark = pytest.mark.slow  # g++ takes a minute over the kernels


def near(got: Any, wanted: tuple[Any, Any]) -> bool:
    """Two roundings to float32, of the terms' size, then one to fp16; NaN is not near."""
    value, size = wanted
    before = 2 * 2.0**-24 * size
    allowed = before + np.maximum(2.0**-11 * (np.abs(value) + before), 2.0**-25)
    return bool((np.abs(got.astype(np.float64) - value) <= allowed).all())


@pytest.mark.parametrize("shape", ROPE_SHAPES, ids=str)
def test_rotates_and_appends(library: Library, shape: Shape) -> None:
    call = Call(library, shape)
    assert call.refusal() is None
    q, k, v = call.run()
    assert near(q[:, : call.q[0].size].reshape(call.q.shape), call.rotated(call.q))
    assert (q[:, call.q[0].size :] == 7).all()
    assert near(k[:, call.slots].swapaxes(0, 1), call.rotated(call.k))
    assert np.array_equal(v[:, call.slots].swapaxes(0, 1), call.v)
    others = np.setdiff1d(np.arange(shape.capacity), call.slots)
    assert (k[:, others] == 7).all()
    assert (v[:, others] == 7).all()


def test_the_check_sees_the_other_convention(library: Library) -> None:
    call = Call(library, LLAMA)
    q = call.run()[0].reshape(call.q.shape)
    value, size = call.rotated(call.q)
    interleaved = value.reshape(*value.shape[:-1], 2, -1).swapaxes(-1, -2).reshape(value.shape)
    assert not near(q, (interleaved, size))


@pytest.mark.parametrize(
    ("field", "value", "why"),
    [
        ("tokens", 0, "above 0"),
        ("dim", 63, "odd"),
        ("kv_heads", 5, "multiple"),
        ("table_pairs", 31, "column"),
    ],
)
def test_refuses(library: Library, field: str, value: int, why: str) -> None:
    call = Call(library, LLAMA)
    setattr(call.p, field, value)
    assert why in (call.refusal() or "")


@pytest.mark.parametrize("field", ["table_positions", "capacity"])
def test_stops_where_a_token_is_outside(plain_build: Build, field: str) -> None:
    program = (
        "import sys; from shim.layers import LLAMA, Call; from shim.library import Library;"
        f"call = Call(Library(sys.argv[1]), LLAMA); call.p.{field} = 1; call.run()"
    )
    run = subprocess.run(
        [sys.executable, "-c", program, str(plain_build.library)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode < 0
    assert "fault" in run.stderr
