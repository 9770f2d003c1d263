"""Our kernels beside every peer's: how many times as fast as the fastest one, in one table.

    python benchmarks/kernels_vs_peers.py --sections g128,g32 -t 1,2 -m 1,4,16,128 --json out.json

A section is a weight format: ours, the peers that multiply the same kind of weights, and the peers
of other formats that a user would otherwise take. Everything is measured as by `sllmbench kernel`:
a process a path, taking turns. Below the machine's best instruction set only ggml is a fair peer,
built without more than ours may use (--ggml-avx2 FOLDER with its libggml*.so): the others choose
for themselves.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import re
import sys
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sllmbench import _native, microbench
from sllmbench.matmuls import matmul_names, resolve

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sllmbench.microbench import KernelResult
    from sllmbench.record import KernelRecord

LLAMA = ("2048x2048", "512x2048", "8192x2048", "2048x8192")
ODD = ("576x1536", "3072x8191", "1000x77")
BLOCKS = ("q4_0", "q4_1", "q5_0", "q8_0", "q4_k", "q5_k", "q6_k")
OTHER_FORMATS = ("torch:bf16", "torch:int8pack", "ggml:q8_0", "ggml:q4_k")
LIBRARY_FOLDER = "SLLMBENCH_GGML_LIB"


@dataclass(frozen=True)
class Section:
    """A format of ours and the peers that it is measured against."""

    name: str
    ours: str
    same: tuple[str, ...]
    """Peers that multiply weights of as many bits in groups as long."""
    others: tuple[str, ...] = ()


@dataclass(frozen=True)
class Row:
    """One comparison; ratios are the peer's median divided by ours."""

    section: str
    isa: str
    cache: str
    threads: int
    shape: str
    m: int
    ours_ns: float
    roof_fraction: float | None
    max_rel_error: float
    same_ratio: float | None
    same_peer: str | None
    any_ratio: float | None
    any_peer: str | None
    any_peer_error: float | None


def sections() -> dict[str, Section]:
    """Every section of which this build has our side."""
    names = matmul_names()
    found = {}
    for group in ("g128", "g32"):
        same = [n for n in names if re.fullmatch(rf"\w+:int4\w*-{group}\b.*", n)]
        if group == "g32":
            same += [n for n in ("ggml:q4_0",) if n in names]
        others = tuple(n for n in OTHER_FORMATS if n in names)
        found[group] = Section(group, f"int4-{group}", tuple(same), others)
    for block in BLOCKS:
        if block in names and f"ggml:{block}" in names:
            found[block] = Section(block, block, (f"ggml:{block}",))
    return found


def measure(section: Section, isa: str, cache: str, args: argparse.Namespace) -> KernelResult:
    """The section measured; peers that cannot run are named on stderr."""
    peers = dict.fromkeys((*section.same, *section.others))
    if isa != best_isa():
        peers = {name: None for name in peers if name.startswith("ggml:")}
    reasons = {name: resolve(name).unavailable() for name in peers}
    for name, reason in reasons.items():
        if reason is not None:
            print(f"without {name}: {reason}", file=sys.stderr)
    result = microbench.compare_kernels(
        args.shapes.split(","),
        [int(m) for m in args.m.split(",")],
        [section.ours, *(name for name, reason in reasons.items() if reason is None)],
        threads=[int(t) for t in args.threads.split(",")],
        arithmetic=args.arithmetic,
        isa=isa,
        cache=cache,
        baseline=section.ours,
        rounds=args.rounds,
        progress=lambda what, part: print(
            f"[{part or 0:4.0%}] {section.name} {isa} {cache}: {what}", file=sys.stderr
        ),
    )
    busy = [f"the machine was busy: {what}" for what in result.disturbances]
    failures = [failure.message for failure in result.failures]
    for complaint in (*result.notes, *busy, *failures):
        print(complaint, file=sys.stderr)
    return result


def rows_of(section: Section, records: Sequence[KernelRecord]) -> Iterator[Row]:
    """A row a comparison in which our path was measured."""

    def case(record: KernelRecord) -> tuple[int, int, int, int]:
        return record.threads, record.n, record.k, record.m

    for _, group in itertools.groupby(sorted(records, key=case), case):
        compared = {record.path: record for record in group}
        ours = compared.pop(section.ours, None)
        if ours is None:
            continue
        fastest = min(compared.values(), key=lambda r: r.median_ns, default=None)
        same = [compared[name] for name in section.same if name in compared]
        fastest_same = min(same, key=lambda r: r.median_ns, default=None)
        yield Row(
            section.name,
            ours.isa,
            ours.cache,
            ours.threads,
            f"{ours.n}x{ours.k}",
            ours.m,
            ours.median_ns,
            ours.roof_fraction,
            ours.max_rel_error,
            None if fastest_same is None else fastest_same.median_ns / ours.median_ns,
            None if fastest_same is None else fastest_same.path,
            None if fastest is None else fastest.median_ns / ours.median_ns,
            None if fastest is None else fastest.path,
            None if fastest is None else fastest.max_rel_error,
        )


def markdown(rows: Sequence[Row]) -> Iterator[str]:
    """One table; a ratio above 1 says that ours is faster."""
    yield "| format | ISA | cache | threads | shape | m | ours µs | of roof | error |" + (
        " × same | fastest of the same | × any | fastest of any | its error |"
    )
    yield "|:--|:--|:--|--:|:--|--:|--:|--:|--:|--:|:--|--:|:--|--:|"
    for r in rows:
        cells = (
            *(r.section, r.isa, r.cache, r.threads, r.shape, r.m, f"{r.ours_ns / 1e3:.1f}"),
            *(share(r.roof_fraction), f"{r.max_rel_error:.1e}"),
            *(ratio(r.same_ratio), r.same_peer or "none", ratio(r.any_ratio), r.any_peer or "none"),
            "–" if r.any_peer_error is None else f"{r.any_peer_error:.1e}",
        )
        yield f"| {' | '.join(str(cell) for cell in cells)} |"


def ratio(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def share(value: float | None) -> str:
    return "–" if value is None else f"{value:.0%}"


@contextmanager
def ggml_from(folder: Path) -> Iterator[None]:
    """Let child processes take ggml from ``folder``, then from where they did before."""
    before = os.environ.get(LIBRARY_FOLDER)
    os.environ[LIBRARY_FOLDER] = str(folder.resolve())
    try:
        yield
    finally:
        del os.environ[LIBRARY_FOLDER]
        if before is not None:
            os.environ[LIBRARY_FOLDER] = before


def best_isa() -> str:
    return _native.supported_isas()[-1]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--sections", default=",".join(sections()), help="with commas: %(default)s")
    parser.add_argument("--shapes", default=",".join((*LLAMA, *ODD)), help="NxK, with commas")
    parser.add_argument("-m", default="1,4,16,128,512", help="rows, with commas")
    parser.add_argument("-t", "--threads", default=f"1,{_native.threads()}")
    parser.add_argument("--isas", default=best_isa(), help="of our kernels, with commas")
    parser.add_argument("--caches", default="hot,cold")
    parser.add_argument("--arithmetic", default="int8", choices=("int8", "exact"))
    parser.add_argument("-r", "--rounds", type=int, default=9)
    parser.add_argument("--ggml-avx2", type=Path, help="folder of a ggml built for AVX2")
    parser.add_argument("--json", type=Path, help="write records and table here, too")
    args = parser.parse_args()
    unknown = set(args.sections.split(",")) - set(sections())
    if unknown:
        parser.error(f"unknown sections {', '.join(unknown)}; here are {', '.join(sections())}")
    if best_isa() != args.isas and args.ggml_avx2 is None:
        parser.error("below the best ISA only a ggml built for it is a fair peer: --ggml-avx2")
    return args


def main() -> int:
    """Measure, print the table; the exit code says whether all of it is there."""
    args = arguments()
    results: list[KernelResult] = []
    rows: list[Row] = []
    known = sections()
    for isa, cache, name in itertools.product(
        args.isas.split(","), args.caches.split(","), args.sections.split(",")
    ):
        if isa == best_isa():
            results.append(measure(known[name], isa, cache, args))
        else:
            with ggml_from(args.ggml_avx2):
                results.append(measure(known[name], isa, cache, args))
        rows += rows_of(known[name], results[-1].records)
        if results[-1].interrupted:
            print("interrupted: this is what was measured", file=sys.stderr)
            break
    for line in markdown(rows):
        print(line)
    if args.json is not None:
        whole = {
            "machine": results[0].machine.model_dump(mode="json"),
            "disturbances": [what for result in results for what in result.disturbances],
            "records": [r.model_dump(mode="json") for result in results for r in result.records],
            "table": [asdict(row) for row in rows],
        }
        args.json.write_text(json.dumps(whole, indent=1) + "\n")
    if results[-1].interrupted:
        return 130
    return 1 if any(result.failures for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())
