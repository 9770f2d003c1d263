"""Our kernels beside torch's on one matrix after the other: one table of medians and ratios.

    python benchmarks/kernels_vs_torch.py --threads 2 --group 128 --rows 1,128

Every candidate lives in a process of its own, stopped (SIGSTOP) while another has its turn, so that
no thread pool spins beside the one that is timed; turns are in random order. Weights are hot: the
same matrix is multiplied over and over, so what fits the last-level cache is read from there.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

SHAPES = ((2048, 2048), (8192, 2048), (2048, 8192))
TURN_SECONDS = 0.15


def make_ours(n: int, k: int, m: int, group: int, kind: str, threads: int) -> Callable[[], Any]:
    """``ours:ARITHMETIC:FORMAT[:ISA]``, FORMAT one of ours or int4-gGROUP."""
    import numpy as np

    from sllmbench import _native
    from sllmbench.formats import QuantTensor, parse_format

    arithmetic, name, *isa = kind.split(":")
    fmt = parse_format(name.replace("GROUP", str(group)))
    rng = np.random.default_rng(0)
    shape = (n, k if fmt.bits == 8 else k // 2)
    codes = rng.integers(0, 256, shape, dtype=np.uint8)
    scales = rng.uniform(0.003, 0.01, (n, fmt.groups(k))).astype(np.float16)
    offsets = {
        "symmetric": None,
        "zero_point": np.full(scales.shape, 8, np.uint8),
        "minimum": -8 * scales,
    }[fmt.offset]
    weight = QuantTensor(
        fmt, n, k, codes.view(np.int8) if fmt.bits == 8 else codes, scales, offsets
    )
    x, out = rng.normal(size=(m, k)).astype(np.float32), np.empty((m, n), np.float32)
    packed = weight.native
    used = isa[0] if isa else _native.active_isa()
    return lambda: _native.matmul(
        x,
        packed,
        out,
        arithmetic=arithmetic,  # type: ignore[arg-type]
        isa=used,
        threads=threads,
    )


def make_torch(n: int, k: int, m: int, group: int, kind: str, threads: int) -> Callable[[], Any]:
    """``torch:int4pack``, ``torch:bf16``, ``torch:fp32``."""
    import torch

    torch.set_num_threads(threads)
    torch.set_grad_enabled(False)
    if kind == "int4pack":
        aten = torch.ops.aten
        codes = torch.randint(0, 16, (n, k), dtype=torch.int32)
        packed = aten._convert_weight_to_int4pack_for_cpu(codes, 1)
        scales_zeros = torch.rand(k // group, n, 2).bfloat16()
        x = torch.randn(m, k).bfloat16()
        return lambda: aten._weight_int4pack_mm_for_cpu(x, packed, group, scales_zeros)
    dtype = {"bf16": torch.bfloat16, "fp32": torch.float32}[kind]
    x, weight = torch.randn(m, k, dtype=dtype), torch.randn(n, k, dtype=dtype)
    return lambda: torch.nn.functional.linear(x, weight)


def child(candidate: str, threads: int) -> None:
    """Obey lines on stdin: a JSON list [n, k, m, group] makes the operands, `go` takes a turn."""
    library, kind = candidate.split(":", 1)
    make = make_ours if library == "ours" else make_torch
    call: Callable[[], Any] = lambda: None  # noqa: E731
    for line in sys.stdin:
        samples: list[int] = []
        if line.strip() != "go":
            call = make(*json.loads(line), kind, threads)
            call()
        else:
            end = time.perf_counter() + TURN_SECONDS
            call()
            while time.perf_counter() < end or len(samples) < 3:
                start = time.perf_counter_ns()
                call()
                samples.append(time.perf_counter_ns() - start)
        print(json.dumps(samples), flush=True)


class Candidate:
    """A stopped child process that wakes to answer one line."""

    def __init__(self, name: str, threads: int) -> None:
        self.name = name
        self._process = subprocess.Popen(
            [sys.executable, "-P", __file__, "--child", name, "--threads", str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._signal(signal.SIGSTOP)

    def _signal(self, number: int) -> None:
        os.kill(self._process.pid, number)

    def ask(self, line: str) -> list[int]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._signal(signal.SIGCONT)
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise SystemExit(f"{self.name} ended with exit code {self._process.wait()}")
        self._signal(signal.SIGSTOP)
        samples: list[int] = json.loads(answer)
        return samples

    def close(self) -> None:
        self._signal(signal.SIGKILL)
        self._process.wait()


def compare(names: list[str], args: argparse.Namespace) -> None:
    candidates = [Candidate(name, args.threads) for name in names]
    rows = [int(m) for m in args.rows.split(",")]
    print(f"median us, {args.threads} threads, groups of {args.group}; x = torch:int4pack's / ours")
    width = max(map(len, names)) + 2
    try:
        for m in rows:
            cells: dict[str, list[float]] = {name: [] for name in names}
            for n, k in SHAPES:
                samples: dict[str, list[int]] = {name: [] for name in names}
                for candidate in candidates:
                    candidate.ask(json.dumps([n, k, m, args.group]))
                for _ in range(args.rounds):
                    for candidate in random.sample(candidates, len(candidates)):
                        samples[candidate.name] += candidate.ask("go")
                for name in names:
                    cells[name].append(statistics.median(samples[name]) / 1e3)
            print(f"m = {m}".ljust(width), *(f"{n}x{k}".rjust(17) for n, k in SHAPES))
            for name in names:
                pairs = zip(cells[name], cells["torch:int4pack"], strict=True)
                print(name.ljust(width), *(f"{us:9.1f} {peer / us:6.2f}x" for us, peer in pairs))
    finally:
        for candidate in candidates:
            candidate.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--group", type=int, default=128)
    parser.add_argument("--rows", default="1,128")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--ours",
        default="int8:int4-gGROUP,exact:int4-gGROUP,int8:q4_1,int8:int8,int8:q8_0",
        help="ARITHMETIC:FORMAT[:ISA], separated by commas",
    )
    args = parser.parse_args()
    if args.child:
        child(args.child, args.threads)
    else:
        ours = [f"ours:{kind}" for kind in args.ours.split(",")]
        compare([*ours, "torch:int4pack", "torch:bf16", "torch:fp32"], args)


if __name__ == "__main__":
    main()
