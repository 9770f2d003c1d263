"""The store: what was committed stays, and whatever is wrong with the file is one clear line."""

from __future__ import annotations

import json
import os
import resource
import signal
import sqlite3
import stat
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sllmbench.errors import InputError
from sllmbench.record import KernelRecord, Record
from sllmbench.store import STORE_VERSION, Store, default_path

if TYPE_CHECKING:
    from collections.abc import Iterator

STORED = Path(__file__).parent / "data" / "run.json"

APPEND = """
import json, sys
from pathlib import Path
from sllmbench.record import Record
from sllmbench.store import Store
file, data, run_id, count = sys.argv[1:]
record = Record.model_validate(json.loads(Path(data).read_text())[0])
store = Store(file)
for number in range(int(count)):
    store.append(record.model_copy(update={"run_id": run_id, "load_ns": number}))
    print(number, flush=True)
"""


@pytest.fixture(scope="module")
def record() -> Record:
    return Record.model_validate(json.loads(STORED.read_text())[0])


@pytest.fixture
def open_to_all() -> Iterator[Path]:
    """A folder that other users can reach, as pytest's own is not."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.fixture
def as_nobody() -> Iterator[None]:
    """Without root's power to write anywhere."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def append_command(file: Path, run_id: str, count: int) -> list[str]:
    return [sys.executable, "-c", APPEND, str(file), str(STORED), run_id, str(count)]


def test_what_is_appended_comes_back_in_order(tmp_path: Path, record: Record) -> None:
    other = record.model_copy(update={"run_id": "other", "path": "bf16"})
    with Store(tmp_path / "new" / "folder" / "records.sqlite") as store:
        store.append(record)
        store.append(other)
        assert store.records() == [record, other]
        assert store.records("other") == [other]
        assert store.records("none") == []


def test_rows_can_be_found_by_their_columns(tmp_path: Path, record: Record) -> None:
    file = tmp_path / "records.sqlite"
    with Store(file) as store:
        store.append(record)
    with closing(sqlite3.connect(file)) as connection:
        row = connection.execute("SELECT run_id, created_utc, kind FROM records").fetchone()
        assert row == (record.run_id, record.created_utc, "run")
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert connection.execute("PRAGMA user_version").fetchone() == (STORE_VERSION,)


@pytest.mark.parametrize("change", ["UPDATE records SET kind = 'x'", "DELETE FROM records"])
def test_rows_cannot_be_changed(tmp_path: Path, record: Record, change: str) -> None:
    file = tmp_path / "records.sqlite"
    with Store(file) as store:
        store.append(record)
        with (
            closing(sqlite3.connect(file)) as connection,
            pytest.raises(sqlite3.IntegrityError, match="append-only"),
        ):
            connection.execute(change)
        assert store.records() == [record]


def test_processes_append_at_once_and_some_are_killed(tmp_path: Path) -> None:
    file, writers, each = tmp_path / "records.sqlite", 8, 60
    doomed = {1: 5, 4: 20, 6: 1}  # writer: after which of its records it is killed

    def write(number: int) -> int:
        """How many appends returned."""
        command = append_command(file, f"run{number}", each)
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            confirmed = 0
            for line in process.stdout:
                confirmed = int(line) + 1
                if confirmed == doomed.get(number):
                    process.kill()
        assert process.returncode == (-signal.SIGKILL if number in doomed else 0)
        return confirmed

    with ThreadPoolExecutor(writers) as pool:
        confirmed = list(pool.map(write, range(writers)))
    with Store(file) as store:
        for number in range(writers):
            stored = [r.load_ns for r in store.records(f"run{number}")]
            assert stored == list(range(len(stored)))
            assert confirmed[number] <= len(stored) <= confirmed[number] + (number in doomed)
            assert number in doomed or len(stored) == each


def test_processes_make_new_stores_at_once(tmp_path: Path) -> None:
    script = """
import sys
from sllmbench.store import Store
print("ready", flush=True)
for name in sys.stdin.readline().split():
    Store(name).close()
"""
    command = [sys.executable, "-c", script]
    makers = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    for maker in makers:
        assert maker.stdout is not None
        assert maker.stdout.readline() == "ready\n"
    names = " ".join(str(tmp_path / f"{number}.sqlite") for number in range(25))
    for maker in makers:
        assert maker.stdin is not None
        maker.stdin.write(f"{names}\n")
        maker.stdin.flush()
    for maker in makers:
        maker.communicate()
    assert [maker.returncode for maker in makers] == [0] * 4


def test_kill_in_the_middle_loses_nothing_committed(tmp_path: Path, record: Record) -> None:
    file = tmp_path / "records.sqlite"
    command = append_command(file, "killed", 1_000_000)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for _ in range(50):
            confirmed = int(process.stdout.readline())
        process.kill()
        rest = process.stdout.read().splitlines()
    assert process.returncode == -signal.SIGKILL
    confirmed = int(rest[-1]) if rest else confirmed
    with Store(file) as store:
        stored = [r.load_ns for r in store.records()]
        assert stored[: confirmed + 1] == list(range(confirmed + 1))
        assert len(stored) <= confirmed + 2
        store.append(record)


def test_unwritable_folder(open_to_all: Path, request: pytest.FixtureRequest) -> None:
    request.getfixturevalue("as_nobody")
    with pytest.raises(InputError, match=r"cannot be opened or made.*--store"):
        Store(open_to_all / "records.sqlite")
    with pytest.raises(InputError, match=r"cannot make the store's folder.*denied.*--store"):
        Store(open_to_all / "new" / "records.sqlite")


def test_unwritable_file(open_to_all: Path, request: pytest.FixtureRequest) -> None:
    file = open_to_all / "records.sqlite"
    Store(file).close()
    file.chmod(stat.S_IRUSR | stat.S_IRGRP | stat.S_IROTH)
    request.getfixturevalue("as_nobody")
    with pytest.raises(InputError, match=r"cannot be written.*--store"):
        Store(file)


def test_folder_under_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"cannot make the store's folder"):
        Store(tmp_path / "file" / "records.sqlite")


def test_a_folder_is_no_store(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot be opened or made"):
        Store(tmp_path)


def test_not_a_database(tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("remember the milk\n" * 100)
    with pytest.raises(InputError, match=r"notes.txt is not a SQLite database"):
        Store(file)
    assert file.read_text() == "remember the milk\n" * 100


def test_another_programs_database(tmp_path: Path) -> None:
    file = tmp_path / "theirs.sqlite"
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("CREATE TABLE theirs (x)")
    with pytest.raises(InputError, match=r"another program's database"):
        Store(file)
    with closing(sqlite3.connect(file)) as connection:
        tables = connection.execute("SELECT name FROM sqlite_master").fetchall()
    assert tables == [("theirs",)]


@pytest.mark.parametrize(("step", "remedy"), [(1, "upgrade sllmbench"), (-1, "move it away")])
def test_another_schema(tmp_path: Path, step: int, remedy: str) -> None:
    file = tmp_path / "records.sqlite"
    Store(file).close()
    with closing(sqlite3.connect(file)) as connection:
        connection.execute(f"PRAGMA user_version = {STORE_VERSION + step}")
    match = rf"has schema {STORE_VERSION + step} .* writes {STORE_VERSION}; {remedy}"
    with pytest.raises(InputError, match=match):
        Store(file)


def test_every_kind_of_record(tmp_path: Path, record: Record) -> None:
    kernels = json.loads(STORED.with_name("kernel.json").read_text())["records"]
    kernel = KernelRecord.model_validate(kernels[0])
    with Store(tmp_path / "records.sqlite") as store:
        store.append(kernel)
        store.append(record)
        assert store.records() == [kernel, record]


def test_a_record_of_another_version(tmp_path: Path, record: Record) -> None:
    file = tmp_path / "records.sqlite"
    with Store(file) as store:
        store.append(record)
        with closing(sqlite3.connect(file, isolation_level=None)) as connection:
            connection.execute(
                "INSERT INTO records (run_id, created_utc, kind, record)"
                " VALUES ('x', '2026', 'run', ?)",
                (json.dumps({"kind": "run", "path": "fp32"}),),
            )
        with pytest.raises(InputError, match=r"record 2 of the store .* another version"):
            store.records()


def test_a_reader_makes_no_file(tmp_path: Path) -> None:
    file = tmp_path / "folder" / "records.sqlite"
    with pytest.raises(InputError, match=r"there is no store .*; `sllmbench run` makes it"):
        Store(file, must_exist=True)
    assert list(tmp_path.iterdir()) == []


def test_truncated_file(tmp_path: Path, record: Record) -> None:
    file = tmp_path / "records.sqlite"
    with Store(file) as store:
        for _ in range(20):
            store.append(record)
    os.truncate(file, file.stat().st_size * 2 // 3)
    with pytest.raises(InputError, match=r"is damaged; move it away"):
        Store(file)


def test_overwritten_page(tmp_path: Path, record: Record) -> None:
    file = tmp_path / "records.sqlite"
    with Store(file) as store:
        for _ in range(20):
            store.append(record)
    with file.open("r+b") as stream:
        stream.seek(4096)
        stream.write(b"\xff" * 4096)
    with pytest.raises(InputError, match=r"is damaged"):
        Store(file)


def test_full_disk_keeps_what_was_committed(tmp_path: Path, record: Record) -> None:
    file = tmp_path / "records.sqlite"
    script = f"""
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a full disk: writes fail, nobody is killed
resource.setrlimit(resource.RLIMIT_FSIZE, ({256 * 1024}, {resource.RLIM_INFINITY}))
{APPEND}"""
    command = [sys.executable, "-c", script, str(file), str(STORED), "full", "10000"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    confirmed = int(done.stdout.splitlines()[-1])
    assert done.returncode == 1
    assert "sllmbench.errors.InputError" in done.stderr.splitlines()[-1]
    with Store(file) as store:
        assert [r.load_ns for r in store.records()] == list(range(confirmed + 1))
        store.append(record)


def test_default_path_is_in_the_users_data_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert default_path() == tmp_path / "sllmbench" / "records-2.sqlite"
