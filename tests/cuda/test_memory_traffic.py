"""How the kernels' addresses fall on memory, seen when nvcc's PTX for sm_75 runs interpreted."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, NamedTuple

import pytest
from shim.sweep import DECODE, FAMILIES, GROUPS, activations
from shim.weights import random_weight

if TYPE_CHECKING:
    from shim.library import Library
    from shim.replay import Kernels

    from sllmbench.cubin.ptx import Trace

pytestmark = pytest.mark.slow
N, K = 64, 1024


class Products(NamedTuple):
    """A format's multiplications, one by each of its kernels."""

    kernel: str
    traces: list[Trace]


@pytest.fixture(
    scope="module",
    params=[*product(FAMILIES, GROUPS)],
    ids=lambda kind: f"{kind[0]} group {kind[1]}",
)
def products(request: pytest.FixtureRequest, library: Library, turing: Kernels) -> Products:
    """With zero points where the kernel has any; a kernel for each of these numbers of rows."""
    from shim.replay import memory_before

    from sllmbench.cubin.ptx import Trace

    kernel, group = request.param
    family = FAMILIES[kernel]
    weight = random_weight(family.bits, N, K, group, zeros=family.zeros[-1], order=False, seed=0)
    traces = []
    rows = (1, 8) if family.rows == DECODE else (16, 32, 64)
    for device, m in product(family.devices, rows):
        if device.sm != 75:
            continue
        done = library.multiply(
            kernel, weight, activations(m, K, m), device, activations=family.activations
        )
        memory = memory_before(done)
        launches = [turing.launch(each, memory, Trace(addresses=True)) for each in done.launches]
        traces += [trace for trace in launches if trace.accesses_of("no_allocate")]
    assert traces
    return Products(kernel, traces)


def test_loads_of_weights_are_coalesced(products: Products) -> None:
    for trace in products.traces:
        loads = trace.accesses_of("no_allocate")
        assert {load.bytes_per_lane for load in loads} == {16}
        assert all(load.sectors == load.least_sectors for load in loads)
        if products.kernel.startswith("decode"):  # a prefill loads one stage past its share of k
            read_bytes = 32 * sum(load.sectors for load in loads)
            assert read_bytes == N * K * FAMILIES[products.kernel].bits // 8


def test_shared_memory_is_read_without_bank_conflicts(products: Products) -> None:
    """A decode's one use of it, the adding of its warps' sums, comes after its loop."""
    if products.kernel.startswith("decode"):
        pytest.skip("not in the main loop")
    for trace in products.traces:
        reads = [*trace.accesses_of("ldmatrix"), *trace.accesses_of("ld.shared")]
        assert sum(read.requests for read in reads) > 0
        assert sum(read.bank_conflicts for read in reads) == 0
