"""The shim against nvcc: what its PTX does, run by our interpreter, leaves the same bits in memory.

So the CPU's branch of each function in ``instructions.h``, and all that g++ makes of the kernels,
means what the code for GPUs means. Launches are those that the shim has recorded.
"""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

import numpy as np
import pytest
from shim import probes
from shim.layers import ROPE_SHAPES, Call, dequantized
from shim.library import Device
from shim.sweep import FAMILIES, GROUPS, GTX16, ONE, TURING, activations, llama_cases
from shim.weights import random_weight

if TYPE_CHECKING:
    from shim.library import Library, Run
    from shim.replay import Kernels

pytestmark = pytest.mark.slow
SHAPES = ((33, 129), (20, 1100))


def differences(done: Run, kernels: Kernels) -> list[str]:
    from shim.replay import differences

    return differences(done, kernels)


def multiplied(
    library: Library, kernel: str, shape: tuple[int, int], group: int, m: int, device: Device
) -> Run:
    family = FAMILIES[kernel]
    zeros = family.zeros[(group + m) % len(family.zeros)]
    weight = random_weight(
        family.bits, *shape, group, zeros=zeros, order=(group + m) % 3 == 0, seed=m
    )
    x = activations(m, shape[1], m)
    return library.multiply(
        kernel, weight, x, device, seed=m, activations=family.activations, gap=m % 2 * 3
    )


@pytest.mark.parametrize(
    "probe",
    [
        probes.truth_tables(),
        probes.random_words(),
        probes.halves_product(*probes.one_hot(16, 8, 8), np.zeros((8192, 16, 8))),
        probes.floats_product(*probes.one_hot(16, 8, 8), np.zeros((8192, 16, 8))),
        probes.bytes_product(*probes.one_hot(8, 16, 8), np.zeros((16384, 8, 8))),
        probes.halves_product(*probes.numbers(60, seed=8)),
        probes.floats_product(*probes.numbers(60, seed=9)),
    ],
    ids=lambda probe: f"{probe.name} {probe.blocks}",
)
def test_an_instruction(library: Library, turing: Kernels, probe: probes.Probe) -> None:
    assert differences(library.probe(*probe), turing) == []


@pytest.mark.parametrize("probe", [probes.halves(), probes.conversions()], ids=lambda p: p.name)
def test_an_instruction_that_makes_nan(
    library: Library, turing: Kernels, probe: probes.Probe
) -> None:
    from shim.replay import differences, with_one_nan

    assert differences(library.probe(*probe), turing, with_one_nan) == []


def test_copies(library: Library, ampere: Kernels) -> None:
    assert differences(library.probe(*probes.copies()), ampere) == []


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("kernel", FAMILIES)
def test_a_product(library: Library, turing: Kernels, kernel: str, group: int) -> None:
    family = FAMILIES[kernel]
    devices = [device for device in (TURING, GTX16, ONE) if device in family.devices]
    rows = family.rows if kernel.startswith("decode") else (16, 17, 33)
    for shape, m, device in product(SHAPES, rows, devices):
        if device == ONE and m != family.rows[1]:
            continue  # one share of k, a few times
        done = multiplied(library, kernel, shape, group, m, device)
        assert differences(done, turing) == [], f"{shape} m {m} {device}"


@pytest.mark.parametrize("kernel", FAMILIES)
def test_a_product_of_a_models_shape(library: Library, turing: Kernels, kernel: str) -> None:
    family = FAMILIES[kernel]
    for name, weight, m, device, seed in llama_cases(family):
        x = activations(m, weight.k, seed)
        done = library.multiply(kernel, weight, x, device, activations=family.activations)
        assert differences(done, turing) == [], name


@pytest.mark.parametrize("kernel", [name for name in FAMILIES if name.startswith("prefill")])
def test_a_product_whose_stages_come_by_copies(
    library: Library, ampere: Kernels, kernel: str
) -> None:
    for group, (shape, m) in product(GROUPS, zip(SHAPES, (33, 16), strict=True)):
        by_copies = multiplied(library, kernel, shape, group, m, Device(80))
        assert differences(by_copies, ampere) == [], f"{shape} group {group} m {m}"
        by_loads = multiplied(library, kernel, shape, group, m, Device(75))
        assert np.array_equal(by_copies.y.view(np.uint16), by_loads.y.view(np.uint16))


@pytest.mark.parametrize(("bits", "group"), [*product((4, 8), GROUPS)])
def test_a_dequantized_weight(library: Library, turing: Kernels, bits: int, group: int) -> None:
    for shape, order, zeros in product(SHAPES, (False, True), (False, True)):
        weight = random_weight(bits, *shape, group, zeros=zeros, order=order, seed=group)
        assert differences(dequantized(library, weight), turing) == []


@pytest.mark.parametrize("shape", ROPE_SHAPES, ids=str)
def test_a_rotation(library: Library, turing: Kernels, shape: object) -> None:
    done = Call(library, shape).replayable()  # type: ignore[arg-type]
    assert differences(done, turing) == []


def test_other_bits_are_seen(library: Library, turing: Kernels) -> None:
    done = multiplied(library, "decode_w4a16", (33, 129), 32, 2, TURING)
    *_, y, _ = done.memory.arrays
    y.view[0] ^= 1
    assert differences(done, turing) == ["1 of 132 differ, the first at 0"]


def test_every_kernel_has_been_compared(library: Library, turing: Kernels, ampere: Kernels) -> None:
    """Of those that a device of each kind is given: copies where there are any, or none."""
    for kernel, group, zeros in product(FAMILIES, GROUPS, (False, True)):
        family = FAMILIES[kernel]
        if zeros not in family.zeros:
            continue
        weight = random_weight(family.bits, 3, 130, group, zeros=zeros, order=False, seed=0)
        rows = family.rows if kernel.startswith("decode") else (1, 17, 33)
        for m, device in product(rows, {*family.devices, TURING}):
            compared = ampere if device.sm == 80 else turing
            done = library.multiply(
                kernel, weight, activations(m, 130, 0), device, activations=family.activations
            )
            if not all(compared.has_launched(launch.symbol) for launch in done.launches):
                assert differences(done, compared) == []
    test_a_dequantized_weight(library, turing, 4, 32)
    test_a_dequantized_weight(library, turing, 8, 32)
    for shape in ROPE_SHAPES:
        test_a_rotation(library, turing, shape)
    left = turing.names - turing.launched - ampere.launched
    assert {name for name in left if "probe_" not in name} == set()
