from __future__ import annotations

import ctypes
import json
import os
import platform
import runpy
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from sllmbench import _native
from sllmbench.formats import FORMAT_NAMES, parse_format

SWEEP = Path(__file__).with_name("native_sweep.py")
sweep = SimpleNamespace(**runpy.run_path(str(SWEEP), run_name="native_sweep"))
ARITHMETICS = ["exact", "int8"]


def run_python(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        env=os.environ | env,
        capture_output=True,
        text=True,
        timeout=1800,  # a sweep takes minutes under a sanitizer or an emulator
        check=False,
    )


@pytest.mark.parametrize("isa", _native.compiled_isas())
def test_every_format_agrees_with_the_oracle(isa: str) -> None:
    if reason := _native.isa_unsupported_reason(isa):
        pytest.skip(reason)
    result = run_python(str(SWEEP), SLLMBENCH_ISA=isa)
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    assert report["failed"] == []
    assert report["isa"] == isa
    assert report["done"] > 2000


@pytest.mark.parametrize("arithmetic", ARITHMETICS)
@pytest.mark.parametrize(
    "name", ["int3-g32", "int4-g32", "int4-g32-asym", "q4_1", "q5_0", "q6_k", "int8"]
)
def test_the_checker_sees_one_wrong_code(name: str, arithmetic: str) -> None:
    fmt = parse_format(name)
    k = sweep.columns(fmt, 77)
    weight, wrong = sweep.make_weight(fmt, 33, k), sweep.make_weight(fmt, 33, k)
    wrong.codes[20, 30] ^= 1
    x = sweep.activations(5, k, 1)[4:]
    right = sweep.bounds(x, weight, arithmetic)[0]
    assert sweep.within(sweep.multiply(x, weight, arithmetic)[0], right)
    assert not sweep.within(sweep.multiply(x, wrong, arithmetic)[0], right)


@pytest.mark.parametrize("fmt", sweep.FORMATS, ids=lambda fmt: fmt.name)
@pytest.mark.parametrize(("n", "k"), sweep.EQUAL_SHAPES)
def test_products_that_must_be_equal_show_one_flipped_bit(fmt: Any, n: int, k: int) -> None:
    weight, x = sweep.equal_case(fmt, n, k)
    [right] = sweep.equal_bounds(x, weight)
    assert sweep.within(sweep.multiply(x, weight, "exact")[0], right)
    codes = weight.codes.copy()
    codes[n // 2, codes.shape[1] - 1] ^= 1
    wrong = replace(weight, codes=codes)
    assert not sweep.within(sweep.multiply(x, wrong, "exact")[0], right)


@pytest.mark.parametrize("arithmetic", ARITHMETICS)
def test_the_checker_sees_a_nan_and_a_small_error(arithmetic: str) -> None:
    weight = sweep.make_weight(parse_format("int4-g64"), 9, 130)
    x = sweep.activations(1, 130, 1)
    for bound in sweep.bounds(x, weight, arithmetic):
        out = bound.reference.copy()
        assert sweep.within(out, bound)
        out[0, 4] = np.nan
        assert not sweep.within(out, bound)
        out = bound.reference + 1.01 * bound.allowed
        assert not sweep.within(out, bound)


@pytest.mark.parametrize("isa", _native.supported_isas())
@pytest.mark.parametrize("arithmetic", ARITHMETICS)
@pytest.mark.parametrize("name", ["int4-g32", "int4-g128-asym", "q4_1", "q4_k", "q6_k", "int8"])
@pytest.mark.parametrize("m", [3, 7])
def test_a_value_that_is_not_finite_poisons_its_row_only(
    name: str, arithmetic: str, isa: str, m: int
) -> None:
    k = sweep.columns(parse_format(name), 200)
    weight = sweep.make_weight(parse_format(name), 70, k)
    x = sweep.activations(m, k, 2)
    clean, _ = sweep.multiply(x, weight, arithmetic, isa=isa)
    assert np.isfinite(clean).all()
    for value in (np.nan, np.inf, -np.inf):
        for column in (0, 101, 199):
            poisoned = x.copy()
            poisoned[1, column] = value
            out, _ = sweep.multiply(poisoned, weight, arithmetic, isa=isa)
            assert np.isnan(out[1]).all()
            np.testing.assert_array_equal(np.delete(out, 1, 0), np.delete(clean, 1, 0))


@pytest.mark.parametrize("arithmetic", ARITHMETICS)
@pytest.mark.parametrize("m", [1, 9])
def test_the_result_does_not_depend_on_the_threads(arithmetic: str, m: int) -> None:
    weight = sweep.make_weight(parse_format("int4-g32"), 1000, 512)
    x = sweep.activations(m, 512, 3)
    alone, _ = sweep.multiply(x, weight, arithmetic, threads=1)
    for threads in (2, 3, 8):
        for _ in range(20):
            shared, _ = sweep.multiply(x, weight, arithmetic, threads=threads)
            np.testing.assert_array_equal(shared, alone)


def test_nothing_to_multiply() -> None:
    weight = sweep.make_weight(parse_format("int4-g32"), 5, 64)
    empty = np.empty((0, 5), np.float32)
    assert _native.matmul(np.empty((0, 64), np.float32), weight.native, empty)[0] == "none"
    weight = sweep.make_weight(parse_format("int8"), 0, 64)
    assert weight.native.nbytes < 1000
    nothing = np.empty((3, 0), np.float32)
    assert _native.matmul(np.ones((3, 64), np.float32), weight.native, nothing)[0] == "none"


def take_denormals_for_zero() -> None:
    """Set the calling thread's MXCSR as torch.set_flush_denormal(True) does."""
    libm = ctypes.CDLL("libm.so.6")
    environment = (ctypes.c_uint32 * 8)()  # fenv_t; the last word is MXCSR
    assert libm.fegetenv(environment) == 0
    environment[7] |= 0x8040
    assert libm.fesetenv(environment) == 0
    assert np.array([1], np.uint32).view(np.float32)[0] * np.float32(2**30) == 0


@pytest.mark.skipif(
    platform.machine() != "x86_64" or platform.libc_ver()[0] != "glibc", reason="MXCSR"
)
@pytest.mark.parametrize("isa", _native.supported_isas())
@pytest.mark.parametrize("name", ["int4-g32", "q4_1", "int8"])
def test_subnormal_scales_count_in_a_thread_without_denormals(name: str, isa: str) -> None:
    weight = sweep.subnormal_scales(sweep.make_weight(parse_format(name), 40, 96))
    x = sweep.activations(7, 96, 1)[4:]
    rows = np.arange(weight.n)
    expected = [sweep.multiply(x, weight, a, isa=isa, threads=1)[0] for a in ARITHMETICS]
    expected.append(weight.native.dequantize_rows(rows[:8]))
    assert all(np.count_nonzero(values) for values in expected)
    results: list[np.ndarray[Any, Any]] = []

    def work() -> None:
        take_denormals_for_zero()
        results.extend(sweep.multiply(x, weight, a, isa=isa, threads=1)[0] for a in ARITHMETICS)
        results.append(weight.native.dequantize_rows(rows[:8]))

    thread = threading.Thread(target=work)  # the setting is a thread's own
    thread.start()
    thread.join()
    for values, right in zip(results, expected, strict=True):
        np.testing.assert_array_equal(values, right)


def test_zeros_multiply_to_zeros() -> None:
    weight = sweep.make_weight(parse_format("q4_1"), 40, 96)
    for m in (1, 6):
        for arithmetic in ARITHMETICS:
            out, _ = sweep.multiply(np.zeros((m, 96), np.float32), weight, arithmetic)
            np.testing.assert_array_equal(out, 0)


def good_call() -> dict[str, Any]:
    weight = sweep.make_weight(parse_format("int4-g32"), 8, 64)
    x, out = np.ones((2, 64), np.float32), np.empty((2, 8), np.float32)
    return {"x": x, "weights": weight.native, "out": out}


def read_only(shape: tuple[int, int]) -> np.ndarray[Any, Any]:
    out = np.empty(shape, np.float32)
    out.flags.writeable = False
    return out


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"x": np.ones((2, 63), np.float32)}, r"x must be a C-contiguous float32 \[2, 64\], not"),
        ({"x": np.ones((2, 64))}, r"x must be .* not float64 \[2, 64\]"),
        ({"x": np.ones(64, np.float32)}, r"x must be .* \[m, k\], not float32 \[64\]"),
        ({"x": np.ones((64, 2), np.float32).T}, "x must be .* not C-contiguous"),
        ({"x": np.ones((2, 64), ">f4")}, "x must be .* not >f4"),
        ({"out": np.empty((2, 9), np.float32)}, r"out must be .* \[2, 8\], not"),
        ({"out": np.empty((3, 8), np.float32)}, r"out must be .* \[2, 8\], not"),
        ({"out": np.empty((2, 16), np.float32)[:, ::2]}, "out must be .* not C-contiguous"),
        ({"out": read_only((2, 8))}, "out is read-only"),
        ({"arithmetic": "bf16"}, "arithmetic must be exact or int8, not 'bf16'"),
        ({"isa": "sse9"}, "unknown instruction set 'sse9'; this build has generic"),
        ({"threads": 0}, "threads must be between 1 and 512, not 0"),
        ({"threads": -3}, "threads must be between 1 and 512, not -3"),
        ({"threads": 513}, "threads must be between 1 and 512, not 513"),
    ],
)
def test_wrong_arguments_of_matmul(wrong: dict[str, Any], message: str) -> None:
    assert _native.matmul(**good_call())[0] == "fused-gemv"
    with pytest.raises(ValueError, match=message):
        _native.matmul(**(good_call() | wrong))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"codes": np.zeros((8, 33), np.uint8)}, r"codes must be .* uint8 \[8, 32\], not"),
        ({"codes": np.zeros((8, 32), np.int8)}, r"codes must be .* uint8 \[8, 32\], not int8"),
        ({"bits": 8}, r"codes must be .* int8 \[8, 64\], not uint8"),
        ({"bits": 8, "offset": "minimum"}, "8-bit weights must be symmetric, not minimum"),
        ({"scales": np.zeros((8, 2), np.float32)}, r"scales must be .* float16 \[8, 2\]"),
        ({"scales": np.zeros((8, 3), np.float16)}, r"scales must be .* float16 \[8, 2\]"),
        ({"scales": np.zeros((2, 8), np.float16).T}, "scales must be .* not C-contiguous"),
        ({"offsets": np.zeros((8, 2), np.uint8)}, "symmetric weights take no offsets"),
        ({"offset": "zero_point"}, "zero_point weights need offsets"),
        (
            {"offset": "zero_point", "offsets": np.zeros((8, 2), np.float16)},
            r"offsets must be .* uint8 \[8, 2\]",
        ),
        (
            {"offset": "minimum", "offsets": np.zeros((8, 2), np.uint8)},
            r"offsets must be .* float16 \[8, 2\]",
        ),
        ({"offset": "maximum"}, "offset must be symmetric, zero_point or minimum"),
        ({"bits": 3}, "bits must be 4, 5, 6 or 8, not 3"),
        ({"group_size": 0}, "group_size must be at least 1, not 0"),
        ({"n": -1}, "n >= 0 and k >= 1, not n = -1, k = 64"),
        ({"k": 0}, "n >= 0 and k >= 1, not n = 8, k = 0"),
        ({"bits": 5}, r"codes must be .* uint8 \[8, 64\], not"),
        (
            {"bits": 5, "codes": np.full((8, 64), 32, np.uint8)},
            "codes of 5 bits must be below 32",
        ),
        (
            {"super_scales": np.zeros((8, 1), np.float16)},
            r"scales must be .* int8 \[8, 2\], not float16",
        ),
        (
            {"super_scales": np.zeros((8, 2), np.float16), "scales": np.zeros((8, 2), np.int8)},
            r"super_scales must be .* float16 \[8, 1\]",
        ),
        (
            {"super_scales": np.zeros((8, 1), np.float16), "group_size": 48},
            "with super_scales group_size must divide 256, not be 48",
        ),
        (
            {
                "super_scales": np.zeros((8, 1), np.float16),
                "scales": np.zeros((8, 2), np.int8),
                "offsets": np.zeros((8, 2), np.uint8),
                "offset": "minimum",
            },
            "minimum weights need super_minima",
        ),
        (
            {"super_minima": np.zeros((8, 1), np.float16)},
            "one-level symmetric weights take no super_minima",
        ),
        ({"order": np.arange(64)}, r"order must be .* int32 \[64\], not int64"),
        ({"order": np.zeros(64, np.int32)}, "order must hold each of 0..63 once"),
        ({"order": np.arange(1, 65, dtype=np.int32)}, "order must hold each of 0..63 once"),
    ],
)
def test_wrong_arguments_of_packed_weights(wrong: dict[str, Any], message: str) -> None:
    good: dict[str, Any] = {
        "codes": np.zeros((8, 32), np.uint8),
        "scales": np.zeros((8, 2), np.float16),
        "offsets": None,
        "n": 8,
        "k": 64,
        "bits": 4,
        "group_size": 32,
        "offset": "symmetric",
    }
    packed = _native.PackedWeights(**good)
    assert (packed.n, packed.k) == (8, 64)
    with pytest.raises(ValueError, match=message):
        _native.PackedWeights(**(good | wrong))


@pytest.mark.parametrize("fmt", sweep.FORMATS, ids=lambda fmt: fmt.name)
def test_packing_keeps_every_weight(fmt: Any) -> None:
    for n, k, order in ((1, 1, False), (33, 77, False), (70, 300, False), (33, 300, True)):
        weight = sweep.make_weight(fmt, n, sweep.columns(fmt, k))
        weight = sweep.shuffled(weight) if order else weight
        rows = np.array([n - 1, 0, n // 2, 0], np.int64)
        np.testing.assert_allclose(
            weight.native.dequantize_rows(rows),
            weight.dequantize()[rows],
            rtol=1e-6,
            # A scale times a code and a minimum may cancel.
            atol=2 * sweep.UNIT * sweep.weight_terms(weight).max(),
        )


@pytest.mark.parametrize("rows", [[8], [-1], [[0]], [0.0]])
def test_rows_that_do_not_exist(rows: Any) -> None:
    weight = sweep.make_weight(parse_format("int4-g32"), 8, 64)
    array = np.array(rows) if isinstance(rows[0], float) else np.array(rows, np.int64)
    with pytest.raises(ValueError, match=r"row -?\d+ is not in 0..7|rows must be"):
        weight.native.dequantize_rows(array)


def test_rows_of_a_misaligned_array() -> None:
    weight = sweep.make_weight(parse_format("int4-g32"), 40, 64)
    rows = np.zeros(8 * 20 + 1, np.uint8)[1:].view(np.int64)
    rows[:] = np.arange(39, 19, -1)
    np.testing.assert_array_equal(
        weight.native.dequantize_rows(rows), weight.native.dequantize_rows(rows.copy())
    )
    assert weight.native.dequantize_rows(rows[:0]).shape == (0, 64)


def packed(n: int, k: int, group_size: int, bits: int = 8) -> _native.PackedWeights:
    """A symmetric weight of ones; n = 0 takes no memory here however large k is."""
    return _native.PackedWeights(
        np.full((n, -(-k // 2)), 0x99, np.uint8) if bits == 4 else np.ones((n, k), np.int8),
        np.ones((n, -(-k // group_size)), np.float16),
        None,
        n=n,
        k=k,
        bits=bits,
        group_size=group_size,
        offset="symmetric",
    )


@pytest.mark.parametrize("bits", [4, 8])
def test_a_group_larger_than_any_row(bits: int) -> None:
    weight = packed(33, 70, 2**63 - 1, bits)
    np.testing.assert_array_equal(weight.dequantize_rows(np.arange(33)), 1)
    out = np.empty((2, 33), np.float32)
    _native.matmul(np.ones((2, 70), np.float32), weight, out)
    np.testing.assert_array_equal(out, 70)


def test_panels_of_four_gib_and_more_are_refused() -> None:
    # 128 k of 4 bits take 64 bytes of scales and 16 steps of 128 bytes.
    groups = (2**32 - 1) // (64 + 16 * 128)
    assert packed(0, 128 * groups, 128, 4).k == 128 * groups
    for k, group_size, bits in (
        (128 * (groups + 1), 128, 4),
        (2**26, 1, 4),
        (2**28, 2**63 - 1, 4),
        (2**27, 2**63 - 1, 8),
        (2**61, 1, 8),
        (2**62 + 1, 2**62, 8),
        (2**63 - 1, 2**63 - 1, 4),
    ):
        with pytest.raises(ValueError, match="k is too large: a panel of 32 rows would pass 4 GiB"):
            packed(0, k, group_size, bits)


@pytest.mark.parametrize("fmt", sweep.FORMATS[: len(FORMAT_NAMES)], ids=lambda fmt: fmt.name)
def test_packed_weights_take_three_percent_more_at_most(fmt: Any) -> None:
    weight = sweep.make_weight(fmt, 2048, 2048)
    if fmt.bits >= 4:
        assert weight.nbytes <= weight.native.nbytes <= 1.03 * weight.nbytes
    else:  # nibbles, and factors that have fewer bits than the bytes that hold them
        as_nibbles = weight.nbytes + (4 - fmt.bits) * weight.n * weight.k / 8
        assert as_nibbles <= weight.native.nbytes <= 1.12 * as_nibbles


def test_two_python_threads_multiply_at_once() -> None:
    weight = sweep.make_weight(parse_format("int4-g32"), 600, 512)
    inputs = [sweep.activations(m, 512, m) for m in (1, 7)]
    expected = [sweep.multiply(x, weight, "int8")[0] for x in inputs]
    wrong: list[int] = []

    def work(i: int) -> None:
        results = (sweep.multiply(inputs[i], weight, "int8")[0] for _ in range(50))
        wrong.extend(i for result in results if not np.array_equal(result, expected[i]))

    workers = [threading.Thread(target=work, args=(i,)) for i in (0, 1, 0, 1)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert wrong == []


@pytest.mark.parametrize("m", [1, 6, 40])
def test_many_threads_agree_with_one_thread(m: int) -> None:
    weight = sweep.make_weight(parse_format("int4-g32"), 1000, 512)
    x = sweep.activations(m, 512, m)
    alone = sweep.multiply(x, weight, "int8", threads=1)[0]
    for threads in (2, 3, 8):
        for _ in range(20):
            np.testing.assert_array_equal(
                sweep.multiply(x, weight, "int8", threads=threads)[0], alone
            )


FORK = """
import os, sys
import numpy as np
from sllmbench import _native
packed = _native.PackedWeights(np.full((512, 512), 0x99, np.uint8), np.ones((512, 1), np.float16),
    None, n=512, k=1024, bits=4, group_size=1024, offset="symmetric")
def check():
    out = np.zeros((5, 512), np.float32)
    _native.matmul(np.ones((5, 1024), np.float32), packed, out, threads=3)
    return bool((out == 1024).all())
assert check()
child = os.fork()
if child == 0:
    os._exit(0 if check() and check() else 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert check()
"""


@pytest.mark.skipif(platform.system() != "Linux", reason="fork")
def test_a_forked_child_multiplies_with_threads_of_its_own() -> None:
    result = run_python("-P", "-W", "ignore::DeprecationWarning", "-c", FORK)
    assert (result.returncode, result.stderr) == (0, "")
