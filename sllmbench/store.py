"""The records on disk: one SQLite file, append-only, one commit a record.

Schema history (``user_version``):
    1  records(id, run_id, created_utc, model, path, record)
    2  kind for model and path: records of several kinds
"""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self

from pydantic import TypeAdapter, ValidationError

from sllmbench.errors import InputError
from sllmbench.record import AnyRecord

if TYPE_CHECKING:
    from types import TracebackType

STORE_VERSION = 2
_APPLICATION_ID = 0x736C6C6D  # "sllm": tells our file from another program's SQLite file
_LOCK_TIMEOUT_S = 30.0

_SCHEMA = (
    "CREATE TABLE records ("
    " id INTEGER PRIMARY KEY, run_id TEXT NOT NULL, created_utc TEXT NOT NULL,"
    " kind TEXT NOT NULL, record TEXT NOT NULL) STRICT",
    "CREATE INDEX records_run_id ON records (run_id)",
    "CREATE INDEX records_created_utc ON records (created_utc)",
    "CREATE TRIGGER records_no_update BEFORE UPDATE ON records"
    " BEGIN SELECT RAISE(ABORT, 'records are append-only'); END",
    "CREATE TRIGGER records_no_delete BEFORE DELETE ON records"
    " BEGIN SELECT RAISE(ABORT, 'records are append-only'); END",
    f"PRAGMA application_id = {_APPLICATION_ID}",
    f"PRAGMA user_version = {STORE_VERSION}",
)

_ANY: TypeAdapter[AnyRecord] = TypeAdapter(AnyRecord)


def default_path() -> Path:
    """The store in the user's data directory; a schema has its own, so that an older one's records
    stand in nobody's way and are not touched.
    """
    import platformdirs

    return Path(platformdirs.user_data_dir("sllmbench")) / f"records-{STORE_VERSION}.sqlite"


class Store:
    """An open store. Whatever :meth:`append` returned from survives a crash of this process."""

    def __init__(self, path: Path | str | None = None, *, must_exist: bool = False) -> None:
        """Open the file and check that it is sound and can be written.

        A missing file is made, unless it ``must_exist``.

        Raises:
            InputError: it cannot be opened, written or understood.
        """
        self.path = Path(path) if path is not None else default_path()
        if must_exist and not self.path.exists():
            raise InputError(f"there is no store {self.path}; `sllmbench run` makes it")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"cannot make the store's folder {self.path.parent}: {error.strerror};"
                " choose another place with --store"
            ) from error
        try:
            # Autocommit: transactions are begun and ended here, not guessed by the driver.
            self._connection = sqlite3.connect(
                self.path, timeout=_LOCK_TIMEOUT_S, isolation_level=None
            )
        except sqlite3.Error as error:
            raise self._explained(error) from error
        try:
            self._prepare()
        except sqlite3.Error as error:
            self._connection.close()
            raise self._explained(error) from error
        except InputError:
            self._connection.close()
            raise

    def append(self, record: AnyRecord) -> None:
        """Add one record and commit it.

        Raises:
            InputError: it could not be written; what was committed before is still there.
        """
        try:
            self._connection.execute(
                "INSERT INTO records (run_id, created_utc, kind, record) VALUES (?, ?, ?, ?)",
                (record.run_id, record.created_utc, record.kind, record.model_dump_json()),
            )
        except sqlite3.Error as error:
            raise self._explained(error) from error

    def records(self, run_id: str | None = None) -> list[AnyRecord]:
        """Every record in the order they were committed, or those of one run.

        Raises:
            InputError: the file is damaged, or a record is of another version of sllmbench.
        """
        condition, values = ("", ()) if run_id is None else (" WHERE run_id = ?", (run_id,))
        try:
            rows = self._connection.execute(
                f"SELECT id, record FROM records{condition} ORDER BY id", values
            ).fetchall()
        except sqlite3.Error as error:
            raise self._explained(error) from error
        return [self._parsed(number, text) for number, text in rows]

    def _parsed(self, number: int, text: str) -> AnyRecord:
        try:
            return _ANY.validate_json(text)
        except ValidationError as error:
            raise InputError(
                f"record {number} of the store {self.path} is not one of this sllmbench's"
                f" ({error.error_count()} fields differ); it is of another version:"
                " read it with that one, or choose another file with --store"
            ) from error

    def close(self) -> None:
        """Close the file; the store cannot be used afterwards."""
        self._connection.close()

    def __enter__(self) -> Self:
        """Return the open store."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the file."""
        self.close()

    def _prepare(self) -> None:
        execute = self._connection.execute
        # Only one process may make the schema; the lock also proves that the file can be written.
        execute("BEGIN IMMEDIATE")
        (version,) = execute("PRAGMA user_version").fetchone()
        (application,) = execute("PRAGMA application_id").fetchone()
        (tables,) = execute("SELECT count(*) FROM sqlite_master").fetchone()
        if version == 0 and application == 0 and tables == 0:
            for statement in _SCHEMA:
                execute(statement)
        elif application != _APPLICATION_ID:
            raise InputError(
                f"{self.path} is another program's database; choose another file with --store"
            )
        elif version != STORE_VERSION:
            mend = "upgrade sllmbench" if version > STORE_VERSION else "move it away"
            raise InputError(
                f"the store {self.path} has schema {version} and this sllmbench writes"
                f" {STORE_VERSION}; {mend} or choose another file with --store"
            )
        execute("COMMIT")
        self._use_wal()
        execute("PRAGMA synchronous = FULL")
        (verdict,) = execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            raise InputError(self._corrupt())

    def _use_wal(self) -> None:
        """Switch to write-ahead logging, which SQLite refuses at once while another looks in."""
        deadline_s = time.monotonic() + _LOCK_TIMEOUT_S
        while True:
            try:
                self._connection.execute("PRAGMA journal_mode = WAL")
                return
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline_s:
                    raise
            time.sleep(0.01)

    def _corrupt(self) -> str:
        return (
            f"the store {self.path} is damaged; move it away (sqlite3's .recover may save its rows)"
            " or choose another file with --store"
        )

    def _explained(self, error: sqlite3.Error) -> InputError:
        code = getattr(error, "sqlite_errorcode", None)
        primary = code & 0xFF if code is not None else None
        remedies = {
            sqlite3.SQLITE_NOTADB: f"{self.path} is not a SQLite database;"
            " choose another file with --store",
            sqlite3.SQLITE_CORRUPT: self._corrupt(),
            sqlite3.SQLITE_READONLY: f"the store {self.path} cannot be written;"
            " give write permission or choose another file with --store",
            sqlite3.SQLITE_CANTOPEN: f"the store {self.path} cannot be opened or made;"
            " check its permissions or choose another file with --store",
            sqlite3.SQLITE_FULL: f"no space left for the store {self.path};"
            " free some or choose another place with --store",
            sqlite3.SQLITE_BUSY: f"the store {self.path} was locked by another process for"
            f" {_LOCK_TIMEOUT_S:.0f} s; end it or choose another file with --store",
        }
        default = f"the store {self.path} failed ({error}); choose another file with --store"
        return InputError(remedies.get(primary, default) if primary is not None else default)
