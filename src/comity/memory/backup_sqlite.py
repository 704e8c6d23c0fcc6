"""A SQLite book of record read as it is at one moment, and a new one filled."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from comity.errors import MemoryDamaged, NotFound
from comity.memory.backup_tables import TABLES, Row, Table, selecting
from comity.memory.migrations import APPLICATION_ID, MIGRATIONS
from comity.memory.sqlite import SqliteStore, translated

if TYPE_CHECKING:
    import apsw

_BUSY_TIMEOUT_MS = 30_000
_CACHE_KB = 65_536


class SqliteCopy:
    """A `Source`, and a `Target` where its connection may write."""

    def __init__(
        self, connection: apsw.Connection, path: Path, tables: tuple[Table, ...] = TABLES
    ) -> None:
        self._connection, self._path = connection, path
        self.tables = tables

    @property
    def format(self) -> int:
        """As in `Source`."""
        return int(self._connection.pragma("user_version"))

    def rows(self, table: Table) -> Iterator[Row]:
        """As in `Source`."""
        with translated(self._path):
            if not table.by_tenant:
                yield from self._connection.execute(selecting(table))
                return
            for tenant in self._tenants():
                yield from self._connection.execute(selecting(table), (tenant,))

    def _tenants(self) -> list[str]:
        own = (table for table in self.tables if table.by_tenant and not table.of_decision)
        query = " UNION ".join(f"SELECT tenant FROM {table.name}" for table in own)
        return sorted(tenant for (tenant,) in self._connection.execute(query))

    def insert(self, table: Table, rows: Iterable[Row]) -> None:
        """As in `Target`."""
        columns = ", ".join(f'"{name}"' for name in table.columns)
        marks = ", ".join("?" for _ in table.columns)
        query = f"INSERT INTO {table.name} ({columns}) VALUES ({marks})"
        with translated(self._path):
            self._connection.executemany(query, rows)


@contextmanager
def reading_sqlite(path: Path) -> Iterator[SqliteCopy]:
    """A memory's book as it is now, while others write it.

    Until the block ends the write-ahead log keeps what they write. Raises `NotFound`,
    `MemoryTooNew`, and `MemoryDamaged` for a file whose tables and indexes do not agree.
    """
    import apsw

    if not path.is_file():
        raise NotFound(f"there is no memory at {path}")
    SqliteStore(path).close()  # it has today's tables now, or is refused
    with translated(path):
        connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
        try:
            connection.set_busy_timeout(_BUSY_TIMEOUT_MS)
            connection.execute("PRAGMA query_only = ON; PRAGMA temp_store = MEMORY; BEGIN")
            _refuse_damaged(connection, path)
            yield SqliteCopy(connection, path)
        finally:
            connection.close()


@contextmanager
def filling_sqlite(path: Path, format: int, tables: tuple[Table, ...]) -> Iterator[SqliteCopy]:
    """A new book in an empty file, to be filled; committed when the block ends.

    It has the tables of format `format`: opening it as a memory brings it up to date. A crash
    leaves a file that cannot be used.
    """
    import apsw

    with translated(path):
        connection = apsw.Connection(str(path))
        try:
            connection.execute("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF")
            connection.execute(f"PRAGMA cache_size = -{_CACHE_KB}; PRAGMA foreign_keys = ON")
            connection.execute("BEGIN")
            for migration in MIGRATIONS[:format]:
                connection.execute(migration)
            connection.execute("DELETE FROM identity")
            if any(table.name == "person_key" for table in tables):
                connection.execute("DELETE FROM person_key")
            yield SqliteCopy(connection, path, tables)
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {format}; COMMIT")
            _refuse_damaged(connection, path)
        finally:
            connection.close()


def _refuse_damaged(connection: apsw.Connection, path: Path) -> None:
    problems = [*connection.execute("PRAGMA integrity_check(1)")]
    foreign = [*connection.execute("PRAGMA foreign_key_check")]
    if problems != [("ok",)] or foreign:
        what = problems[0][0] if problems != [("ok",)] else f"{foreign[0][0]}: a row refers to none"
        raise MemoryDamaged(f"{path} is damaged ({what}): restore it from an older backup")


def name(path: Path, identity: str) -> None:
    """Give a book that nobody has open an identity."""
    import apsw

    with translated(path):
        connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
        try:
            connection.execute("UPDATE identity SET value = ?", (identity,))
        finally:
            connection.close()
