"""The times of a record and of pytest-benchmark's JSON, with the facts a fair comparison needs."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from sllmbench.compare.series import Run
from sllmbench.errors import InputError
from sllmbench.record import BenchmarkRecord, KernelRecord, QualityRecord

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from sllmbench.record import AnyRecord, Interference, MachineFacts, Record

_GIB = 1024**3
_OURS = "sllmbench"
"""The library that changes from one side to the other, and the key of its record in pytest's."""


def of_record(record: AnyRecord, source: str) -> list[tuple[str, Run]]:
    """Name a record's benchmarks: one of a kernel or a test, up to four of a run's path.

    A record of quality has none: it holds no times.
    """
    if isinstance(record, QualityRecord):
        return []
    if isinstance(record, BenchmarkRecord):
        same = {"threads": str(record.threads), "isa": record.isa}
        return [(record.name, _run(record, record.samples_ns, record.interference, same, source))]
    same = {
        "threads": str(record.threads),
        "isa": record.isa,
        "arithmetic": record.arithmetic,
        "format": record.format,
    }
    if isinstance(record, KernelRecord):
        same["cache"] = record.cache
        name = f"{record.path} {record.n}x{record.k} m={record.m}"
        return [(name, _run(record, record.samples_ns, record.interference, same, source))]
    same["device"] = record.device
    return [
        (
            f"{record.model} {record.path} {metric}",
            _run(record, samples, record.interference, same, source),
        )
        for metric, samples in _metrics(record)
        if samples
    ]


def _metrics(record: Record) -> Iterator[tuple[str, tuple[float, ...]]]:
    """Times a token where the quantity is a rate: all are better lower."""
    samples = record.samples
    yield f"pp{record.n_prompt}", tuple(ns / record.n_prompt for ns in samples.prefill_ns)
    yield f"tg{record.n_gen}", tuple(ns / record.n_gen for ns in samples.decode_ns)
    yield "ttft", tuple(float(ns) for ns in samples.ttft_ns)
    yield "tpot", tuple(sum(itl) / len(itl) for itl in samples.itl_ns if itl)


def of_pytest_benchmark(whole: Mapping[str, Any], source: str) -> list[tuple[str, Run]]:
    """Name the benchmarks of a session that pytest-benchmark saved.

    Raises:
        InputError: it is not in pytest-benchmark's format or lacks raw samples.
    """
    listed = whole["benchmarks"]
    if not isinstance(listed, list) or not all(isinstance(b, dict) for b in listed):
        raise InputError(f"{source}: `benchmarks` is no list of objects as pytest-benchmark writes")
    if not listed:
        raise InputError(f"{source} holds no benchmark")
    return [_pytest_run(benchmark, whole, source) for benchmark in listed]


def _pytest_run(
    benchmark: Mapping[str, Any], whole: Mapping[str, Any], source: str
) -> tuple[str, Run]:
    name = benchmark.get("fullname")
    if not isinstance(name, str):
        raise InputError(f"{source}: a benchmark without a `fullname`")
    extra = benchmark.get("extra_info")
    if isinstance(extra, dict) and isinstance(extra.get(_OURS), dict):
        try:
            record = BenchmarkRecord.model_validate_json(json.dumps(extra[_OURS]))
        except (ValidationError, ValueError) as error:
            raise InputError(
                f"{source}: the record of {name} is not one of this sllmbench's; it may be of"
                " another version"
            ) from error
        return of_record(record, source)[0]
    stats = benchmark.get("stats")
    data = stats.get("data") if isinstance(stats, dict) else None
    if not isinstance(data, list) or not data:
        raise InputError(
            f"{source}: {name} has no raw samples; save with --benchmark-json or"
            " --benchmark-save-data"
        )
    samples_ns = tuple(_nanoseconds(seconds, f"{source}: {name}") for seconds in data)
    run = Run(
        samples_ns=samples_ns,
        disturbed=(False,) * len(samples_ns),
        identity=_pytest_identity(whole),
        source=source,
        commit=_pytest_commit(whole),
        created_utc=str(whole.get("datetime", "")),
    )
    return name, run


def _nanoseconds(seconds: Any, where: str) -> float:
    number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
    # 10 ** 400 is valid JSON and no float.
    if not number or not 0 < seconds < 1e200 or not math.isfinite(seconds):
        shown = str(seconds)
        short = shown if len(shown) <= 20 else f"{shown[:20]}…"
        raise InputError(f"{where}: a sample of {short} s is no time; the file is damaged")
    return float(seconds) * 1e9


def _pytest_identity(whole: Mapping[str, Any]) -> dict[str, str]:
    machine = whole.get("machine_info")
    if not isinstance(machine, dict):
        return {}
    cpu = machine.get("cpu")
    cpu = cpu if isinstance(cpu, dict) else {}
    found = {
        "cpu": cpu.get("brand_raw") or cpu.get("brand"),
        "cores": cpu.get("count"),
        "os": " ".join(str(machine[k]) for k in ("system", "release") if machine.get(k)),
        "python": machine.get("python_version"),
    }
    return {name: str(value) for name, value in found.items() if value}


def _pytest_commit(whole: Mapping[str, Any]) -> str | None:
    commit = whole.get("commit_info")
    if not isinstance(commit, dict) or not isinstance(commit.get("id"), str):
        return None
    return str(commit["id"]) + ("+" if commit.get("dirty") else "")


def _run(
    record: AnyRecord,
    samples_ns: Sequence[float],
    interference: Sequence[Interference] | None,
    same: Mapping[str, str],
    source: str,
) -> Run:
    if not all(ns > 0 for ns in samples_ns):
        raise InputError(f"{source}: a sample that is not above 0 ns; the record is damaged")
    if interference is not None and len(interference) != len(samples_ns):
        raise InputError(
            f"{source}: {len(samples_ns)} samples and {len(interference)} beside them; the record"
            " is damaged"
        )
    flags = (
        [False] * len(samples_ns)
        if interference is None
        else [bool(i.causes) for i in interference]
    )
    return Run(
        samples_ns=tuple(float(ns) for ns in samples_ns),
        disturbed=tuple(flags),
        identity={**_machine(record.machine), **same},
        source=source,
        commit=record.commit,
        created_utc=record.created_utc,
    )


def _machine(machine: MachineFacts) -> dict[str, str]:
    libraries = {name: v for name, v in machine.libraries.items() if name != _OURS}
    return {
        "cpu": machine.cpu_model,
        "cores": str(machine.cores),
        "memory": f"{machine.memory_bytes / _GIB:.0f} GiB",
        "os": machine.os,
        **libraries,
    }
