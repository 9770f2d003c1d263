"""Sides of a comparison from what a user names: files of ours and of pytest-benchmark, the store.

A side is one or several names with commas. Each is looked up in this order: a file, in whichever of
the formats it is; four digits, a file of pytest-benchmark's ``.benchmarks``; a run of the store, or
a commit, all of whose runs are taken, by their first letters. ``store:NAME`` skips the files.
"""

from __future__ import annotations

import json
import re
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from sllmbench.compare import facts
from sllmbench.compare.series import Series
from sllmbench.errors import InputError
from sllmbench.record import AnyRecord

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sllmbench.compare.series import Run

_STORE, _SHORTEST = "store:", 4
_ANY: TypeAdapter[AnyRecord] = TypeAdapter(AnyRecord)
_INTERVALS = ("prefill_tps", "decode_tps", "ttft_ns", "tpot_ns")
_ADDED = ("baseline", "ratio")
"""What reports put beside a kernel record's own fields."""


def read_side(names: Sequence[str], store: Path | None = None) -> list[Series]:
    """Read every run that the names stand for; series in the order they are met.

    Args:
        names: files, numbers of saved benchmarks, runs or commits of the store.
        store: the store's file; None: the default one.

    Raises:
        InputError: a name that stands for nothing, or a file that cannot be understood.
    """
    found: dict[str, list[Run]] = {}
    for name in names:
        for benchmark, run in _read(name, store):
            found.setdefault(benchmark, []).append(run)
    if not found:
        raise InputError(f"{', '.join(names)}: no benchmark with samples in it")
    return [Series(name, tuple(runs)) for name, runs in found.items()]


def of_records(records: Iterable[AnyRecord], source: str) -> list[tuple[str, Run]]:
    """Name the benchmarks of records; a run each for every run id that they come from."""
    pairs = []
    for run_id, of_run in groupby(sorted(records, key=_in_order), _run_id):
        named = [pair for r in of_run for pair in facts.of_record(r, f"{source} {run_id}")]
        pairs += _distinct(named, source)
    return pairs


def _in_order(record: AnyRecord) -> tuple[str, str]:
    """Runs by their ids, which begin with their time: two may have written at once."""
    return record.run_id, record.created_utc


def _run_id(record: AnyRecord) -> str:
    return record.run_id


def _read(name: str, store: Path | None) -> list[tuple[str, Run]]:
    if not name:
        raise InputError("an empty name; give a file, a run of the store or a commit")
    if not name.startswith(_STORE):
        if Path(name).exists():
            return read_file(Path(name))
        if re.fullmatch(r"\d{4}", name):
            return read_file(_saved(name))
    return _from_store(name.removeprefix(_STORE), store)


def _saved(number: str) -> Path:
    files = sorted(Path(".benchmarks").glob(f"*/{number}_*.json"))
    if len(files) != 1:
        what = "no file" if not files else f"{len(files)} files"
        raise InputError(f"{what} .benchmarks/*/{number}_*.json here; give the file's path")
    return files[0]


def _from_store(name: str, path: Path | None) -> list[tuple[str, Run]]:
    from sllmbench.store import Store, default_path

    where = path or default_path()
    if not where.exists():
        raise InputError(
            f"there is no file {name}, and no store {where} that could hold such a run"
        )
    with Store(where, must_exist=True) as store:
        records = store.records()
    if len(name) >= _SHORTEST:
        by_run = [r for r in records if r.run_id.startswith(name)]
        # What was measured with changed files is not the commit's: it is asked for with its plus.
        by_commit = [
            r
            for r in records
            if (r.commit or "").startswith(name.removesuffix("+"))
            and (r.commit or "").endswith("+") == name.endswith("+")
        ]
        if len({r.run_id for r in by_run}) > 1:
            raise InputError(
                f"several runs of the store {where} begin with {name}; give more of it"
            )
        if len({r.commit for r in by_commit}) > 1:
            raise InputError(f"several commits in {where} begin with {name}; give more of it")
        if by_run or by_commit:
            return of_records(by_run or by_commit, str(where))
    raise InputError(
        f"{name} is neither a file nor a run or commit in the store {where}"
        f" ({_SHORTEST} letters at least)"
    )


def read_file(path: Path) -> list[tuple[str, Run]]:
    """Read a file of ours (JSON or JSON lines) or pytest-benchmark's.

    Raises:
        InputError: it cannot be read, is neither, or holds what cannot be compared.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no UTF-8 text"
        raise InputError(f"cannot read {path}: {why}") from error
    whole = _parsed(text, path)
    if isinstance(whole, dict) and "benchmarks" in whole:
        return _distinct(facts.of_pytest_benchmark(whole, str(path)), str(path))
    listed = whole.get("records", [whole]) if isinstance(whole, dict) else whole
    if not isinstance(listed, list):
        raise InputError(f"{path} is neither pytest-benchmark's JSON nor records of sllmbench")
    return of_records([_record(value, path, n) for n, value in enumerate(listed, 1)], str(path))


def _parsed(text: str, path: Path) -> Any:
    if not text.strip():
        raise InputError(f"{path} is empty")
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        lines = [line for line in text.splitlines() if line.strip()]
        try:
            if len(lines) > 1:
                return [json.loads(line) for line in lines]
        except (ValueError, RecursionError):
            pass
        raise InputError(f"{path} is not JSON ({error}); was it cut off?") from error


def _record(value: Any, path: Path, number: int) -> AnyRecord:
    if not isinstance(value, dict):
        raise InputError(f"{path}: record {number} is no object; it is not a file of sllmbench")
    fields = {name: v for name, v in value.items() if name not in _ADDED}
    for name in _INTERVALS if fields.get("kind") == "run" else ():
        if f"{name}_low" in fields:  # as reports write it; the store keeps an object
            low, high = fields.pop(f"{name}_low"), fields.pop(f"{name}_high", None)
            median = fields.get(name)
            whole = {"median": median, "low": low, "high": high}
            fields[name] = None if median is None else whole
    try:
        return _ANY.validate_json(json.dumps(fields))
    except (ValidationError, ValueError) as error:
        count = error.error_count() if isinstance(error, ValidationError) else 1
        raise InputError(
            f"{path}: record {number} is not one of this sllmbench's ({count} fields differ);"
            " it may be of another version"
        ) from error


def _distinct(named: Sequence[tuple[str, Run]], source: str) -> list[tuple[str, Run]]:
    """Add the threads to names that one run has more than once."""
    names = [name for name, _ in named]
    told = [
        (f"{name} t={run.identity['threads']}", run)
        if names.count(name) > 1 and "threads" in run.identity
        else (name, run)
        for name, run in named
    ]
    again = [name for name, _ in told]
    for name in dict.fromkeys(again):
        if again.count(name) > 1:
            raise InputError(f"{source}: the benchmark {name} is there more than once")
    return told
