"""How often a comparison is wrong: `python benchmarks/false_alarms.py` (15 minutes or more).

Our int4 kernel on one thread, about 100 us, is compared with itself, and with the same kernel on
2% and on 5% more rows, while another process burns a processor in bursts of random length, as
neighbours do. Each comparison samples the two in turns and gives the paired verdict that
`sllmbench ab` gives. The report says how many were found, with exact 95% bounds of the true rate.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import statistics
import sys
import time
from collections import Counter
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from sllmbench import _native, hardware, quantize
from sllmbench.ab.functions import ab_functions
from sllmbench.ab.rounds import Limits
from sllmbench.compare import Thresholds

if TYPE_CHECKING:
    from collections.abc import Callable

N, K, M = 3200, 512, 12  # 100 panels of 32 rows, so that 2% and 5% more are whole panels too
BURST_SECONDS = (0.01, 1.0)
"""Log-uniform; as long as it burns it rests, on average."""

MOST_FALSE_ALARMS = 0.01


@dataclass(frozen=True)
class Experiment:
    """One kind of comparison, how often it is made, and what is promised of it."""

    name: str
    slowdown: float
    count: int
    max_seconds: float
    promise: str
    least: float = 0.0
    """Share found that is promised; unequal sides only."""


EXPERIMENTS = (
    Experiment("A/A", 0.0, 200, 10.0, "at most 2 of 200 faster or slower"),
    Experiment("5% slower", 0.05, 100, 10.0, "at least 95 of 100 found, within 10 s each", 0.95),
    Experiment("2% slower", 0.02, 100, 60.0, "at least 80 of 100 found, within 60 s each", 0.8),
)


def main() -> int:
    options = parse()
    busy = multiprocessing.get_context("spawn").Process(target=burn, args=(options.seed,))
    if not options.quiet:
        busy.daemon = True
        busy.start()
    results = [carry_out(experiment, options) for experiment in EXPERIMENTS]
    machine = hardware.facts()
    kept = all(result["kept"] for result in results)
    report = {
        "machine": {name: machine[name] for name in ("cpu_model", "cores", "os")},
        "busy": not options.quiet,
        "threshold": options.threshold,
        "experiments": results,
    }
    if options.json:
        print(json.dumps(report, indent=2))
    else:
        print(markdown(report))
    return 0 if kept else 1


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--share", type=float, default=1.0, help="of the counts, to try it out")
    parser.add_argument("--threshold", type=float, default=0.01, help="what is not yet slower")
    parser.add_argument("--precision", type=float, default=0.005, help="of the ratio, to stop")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quiet", action="store_true", help="no second process")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def burn(seed: int) -> None:
    """Take a processor in bursts."""
    lengths = random.Random(seed)
    low, high = map(np.log, BURST_SECONDS)
    while True:
        end = time.monotonic() + float(np.exp(lengths.uniform(low, high)))
        while time.monotonic() < end:
            pass
        time.sleep(float(np.exp(lengths.uniform(low, high))))


def maker(rows: int) -> Callable[[], Callable[[], object]]:
    """Makes calls of our int4 kernel on one thread, each on a weight laid out anew."""
    rng = np.random.default_rng(rows)
    weight = quantize(rng.standard_normal((rows, K), np.float32), "int4-g128")

    def make() -> Callable[[], object]:
        x, out = rng.standard_normal((M, K), np.float32), np.empty((M, rows), np.float32)
        return partial(_native.matmul, x, replace(weight).native, out, threads=1)

    return make


def carry_out(experiment: Experiment, options: argparse.Namespace) -> dict[str, object]:
    """Make the comparisons, each on weights of its own."""
    count = max(1, round(experiment.count * options.share))
    verdicts: Counter[str] = Counter()
    ratios, seconds = [], []
    for number in range(count):
        result = ab_functions(
            "kernel",
            maker(N),
            maker(round(N * (1 + experiment.slowdown))),
            Limits(
                precision=options.precision,
                max_time_s=experiment.max_seconds,
                thresholds=Thresholds(options.threshold),
                seed=options.seed + number,
            ),
        )
        (verdict,) = result.comparison.verdicts
        seconds.append(result.wall_s)
        if verdict.effect is not None:
            ratios.append(verdict.effect.ratio)
        verdicts[verdict.word] += 1
        print(
            f"\r{experiment.name}: {number + 1}/{count} {dict(verdicts)}", end="", file=sys.stderr
        )
    print(file=sys.stderr)
    found = verdicts["slower"] + (verdicts["faster"] if experiment.slowdown == 0 else 0)
    share = found / count
    often = share >= experiment.least if experiment.slowdown else share <= MOST_FALSE_ALARMS
    # A turn that has begun is finished: a tenth of a second, several where others run.
    kept = often and max(seconds) <= 1.1 * experiment.max_seconds
    return {
        "name": experiment.name,
        "promise": experiment.promise,
        "kept": kept,
        "count": count,
        "verdicts": dict(verdicts),
        "found": found,
        "ci95_rate": bounds(found, count),
        "median_ratio": statistics.median(ratios),
        "median_seconds": statistics.median(seconds),
        "longest_seconds": max(seconds),
    }


def markdown(report: dict[str, Any]) -> str:
    """The report as a table."""
    machine = report["machine"]
    busy = "another process burning a processor in bursts" if report["busy"] else "nothing beside"
    lines = [
        f"{machine['cpu_model']}, {machine['cores']} cores; {machine['os']}; {busy}.",
        f"Slower is above {report['threshold']:.1%}, at p < 0.001.",
        "",
        "| | promised | found | 95% bounds | kept | median ratio | s each, median and most |",
        "|:--|:--|--:|--:|:--|--:|--:|",
    ]
    for result in report["experiments"]:
        low, high = result["ci95_rate"]
        lines.append(
            f"| {result['name']} | {result['promise']} | {result['found']} of {result['count']}"
            f" | {low:.1%}–{high:.1%} | {'yes' if result['kept'] else 'NO'}"
            f" | {result['median_ratio']:.4f}"
            f" | {result['median_seconds']:.1f}, {result['longest_seconds']:.1f} |"
        )
    lines += ["", *(f"{r['name']}: {r['verdicts']}" for r in report["experiments"])]
    return "\n".join(lines)


def bounds(found: int, count: int) -> tuple[float, float]:
    """Clopper and Pearson's interval of a rate."""
    from scipy.stats import binomtest

    interval = binomtest(found, count).proportion_ci(0.95, "exact")
    return float(interval.low), float(interval.high)


if __name__ == "__main__":
    sys.exit(main())
