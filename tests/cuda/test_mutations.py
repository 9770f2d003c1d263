"""A kernel with one mistake: each must be caught by the sweep that passes without it (test_matmul).

An edit must fit the source at one place, or the test says so: where a kernel is rewritten, its
mistakes are to be thought of anew.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from shim.build import SANITIZERS, Edit, build_edited

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from shim.build import Build

    Failures = Callable[[Build, str, str], list[str]]

pytestmark = pytest.mark.slow
MISTAKES = {
    "no barrier before warps' sums are added": Edit(
        "decode_w4a16",
        "decode.cuh",
        "sums.write(lane, totals[warp]);\n    __syncthreads();",
        "sums.write(lane, totals[warp]);",
    ),
    "no barrier before a stage is read": Edit(
        "prefill_w4a16",
        "prefill_streams.h",
        "held_[i];\n        }\n        __syncthreads();",
        "held_[i];\n        }",
    ),
    "no barrier before the maximum of a row": Edit(
        "decode_w8a8",
        "activations.cu",
        "warps[warp] = value;\n    __syncthreads();",
        "warps[warp] = value;",
    ),
    "a barrier that one warp goes past": Edit(
        "prefill_w8a8",
        "prefill_streams.h",
        "held_[i];\n        }\n        __syncthreads();",
        "held_[i];\n        }\n        if (threadIdx.x >= 32) __syncthreads();",
    ),
    "no wait for copies": Edit(
        "prefill_w8a16",
        "prefill_streams.h",
        "if constexpr (kAsync) copy_async_wait<0>();",
        "",
    ),
    "a wait that lets the last copies go on": Edit(
        "prefill_w4a16",
        "prefill_streams.h",
        "if constexpr (kAsync) copy_async_wait<0>();",
        "if constexpr (kAsync) copy_async_wait<1>();",
    ),
    "copies that are not committed": Edit(
        "prefill_w8a8",
        "prefill_streams.h",
        "if constexpr (kAsync) copy_async_commit();",
        "",
    ),
    "a sum with the wrong lane": Edit(
        "decode_w8a8",
        "decode.cuh",
        "total += __shfl_xor_sync(0xffffffff, total, 2);",
        "total += __shfl_xor_sync(0xffffffff, total, 4);",
    ),
    "half of the lanes shuffle": Edit(
        "decode_w8a8",
        "decode.cuh",
        "total += __shfl_xor_sync(0xffffffff, total, 2);",
        "if (lane < 16) total += __shfl_xor_sync(0xffffffff, total, 2);",
    ),
    "the wrong column of a fragment": Edit(
        "decode_w8a16",
        "decode_fp16.cuh",
        "column = 2 * (lane % 4);",
        "column = lane % 4;",
    ),
    "a group too many": Edit(
        "decode_w4a16",
        "decode.cuh",
        "const int last_group = p.groups - 1 - span * Stream::kGroupsInSpan;",
        "const int last_group = p.groups - span * Stream::kGroupsInSpan;",
    ),
    "the groups of the next stage": Edit(
        "prefill_w8a16",
        "prefill_streams.h",
        "stage * kStageLength / kGroupLength + lane_group",
        "(stage + 1) * kStageLength / kGroupLength + lane_group",
    ),
    "a row past the last": Edit(
        "prefill_w8a8", "prefill_streams.h", "if (row >= p.n ||", "if (row > p.n ||"
    ),
    "x in its own order": Edit(
        "prefill_w4a16",
        "activations.cu",
        "(order ? order[j] : j)",
        "j",
    ),
    "a workspace without room for one share": Edit(
        "decode_w8a16",
        "decode.cpp",
        "take(p.splits * product.m",
        "take((p.splits - 1) * product.m",
    ),
    "x behind its end": Edit(
        "prefill_w8a16", "prefill_streams.h", "units_left_ > 0;", "units_left_ > -1;"
    ),
}
SHORTENED = {
    "seven warps' sums for eight": Edit(
        "decode_w8a8",
        "decode.cuh",
        "float totals[kDecodeWarps]",
        "float totals[kDecodeWarps - 1]",
    ),
    "one buffer for two": Edit(
        "prefill_w8a8",
        "prefill_w8a8.cu",
        "buffers[2];",
        "buffers[1];",
    ),
    "maxima of seven warps for eight": Edit(
        "decode_w8a8",
        "activations.cu",
        "warps[kThreads / 32];",
        "warps[kThreads / 32 - 1];",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_caught(
    plain_build: Build, failures_of: Failures, tmp_path: Path, mistake: str
) -> None:
    edit = MISTAKES[mistake]
    assert failures_of(build_edited(plain_build, tmp_path, edit), edit.kernel, "small")


@pytest.mark.parametrize("mistake", SHORTENED)
def test_a_shortened_buffer_is_caught_by_the_sanitizers(
    sanitized_build: Build, failures_of: Failures, tmp_path: Path, mistake: str
) -> None:
    edit = SHORTENED[mistake]
    mutant = build_edited(sanitized_build, tmp_path, edit, *SANITIZERS)
    (failure,) = failures_of(mutant, edit.kernel, "small")
    assert "ended with" in failure
    assert "out of bounds" in failure or "AddressSanitizer" in failure


def test_a_deadlock_is_told_with_its_place(
    plain_build: Build, failures_of: Failures, tmp_path: Path
) -> None:
    edit = MISTAKES["half of the lanes shuffle"]
    (failure,) = failures_of(build_edited(plain_build, tmp_path, edit), edit.kernel, "small")
    assert "cuda_host: " in failure
    assert "decode.cuh:" in failure
    assert "block (" in failure


def test_an_edit_that_fits_nowhere_is_an_error(plain_build: Build, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="0 times, not once"):
        build_edited(plain_build, tmp_path, Edit("decode_w8a8", "decode.cuh", "no such text", ""))
