"""Makes and renews the tables of a PostgreSQL book of record, and says whether they are there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from comity.errors import MemoryDamaged, MemoryTooNew, StoreError
from comity.memory.postgres_connections import Connections, driver
from comity.memory.postgres_tables import MIGRATIONS, SCHEMA

if TYPE_CHECKING:
    from comity.memory.postgres_connections import Connection

_LOCK = 0x436F6D697479  # "Comity": who makes or renews the tables is the only one
_TABLES = (
    "SELECT relname::text FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace "
    "WHERE nspname = %s"
)
_WITHOUT_LIMITS = "SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = '60s'"


def is_there(url: str) -> bool:
    """Whether a database holds a memory, whatever is in it. Raises `StoreError`."""
    connections = Connections(url)
    try:
        with connections.one() as connection:
            return _format_of(connection) > 0
    finally:
        connections.close()


def prepare(connections: Connections) -> None:
    """Bring the tables to the newest format, if they are not there yet.

    Raises `MemoryTooNew` for those of a newer Comity, `MemoryDamaged` for another program's, and
    `StoreError` where this role may not make them.
    """
    with connections.one() as connection:
        if not _is_newest(connections, connection):
            _migrate(connections, connection)


def _is_newest(connections: Connections, connection: Connection) -> bool:
    found = _format_of(connection)
    if found > len(MIGRATIONS):
        raise MemoryTooNew(
            f"{connections.shown} was written by a newer Comity (format {found}, this one reads up "
            f"to {len(MIGRATIONS)}): upgrade with pip install -U comity"
        )
    return found == len(MIGRATIONS)


def _format_of(connection: Connection) -> int:
    """The format of the tables; 0 where there are none."""
    there = connection.execute(f"{_TABLES} AND relname = 'format'".encode(), (SCHEMA,)).fetchone()
    if not there:
        return 0
    row = connection.execute(f"SELECT version FROM {SCHEMA}.format".encode()).fetchone()
    return int(row[0]) if row else 0


def _migrate(connections: Connections, connection: Connection) -> None:
    try:
        with connection.transaction():
            connection.execute(_WITHOUT_LIMITS)
            connection.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
            if not _is_newest(connections, connection):
                _apply(connections, connection)
    except driver().errors.InsufficientPrivilege as error:
        raise StoreError(
            f"{connections.shown} has no memory of format {len(MIGRATIONS)} yet, and this role may "
            "not make one: open it once as the role that owns it, such as comity --memory "
            f"postgresql://OWNER@…, or see docs/postgresql.md ({error.diag.message_primary})"
        ) from error


def _apply(connections: Connections, connection: Connection) -> None:
    found = _format_of(connection)
    if not found:
        _make_schema(connections, connection)
    for migration in MIGRATIONS[found:]:
        connection.execute(migration.encode())
    connection.execute(f"UPDATE {SCHEMA}.format SET version = %s".encode(), (len(MIGRATIONS),))


def _make_schema(connections: Connections, connection: Connection) -> None:
    taken = connection.execute(_TABLES.encode(), (SCHEMA,)).fetchone()
    if taken:
        raise MemoryDamaged(
            f"{connections.shown} has a schema {SCHEMA} of another program (table {taken[0]}): "
            "choose another database"
        )
    connection.execute(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}".encode())
    connection.execute(f"CREATE TABLE {SCHEMA}.format (version INTEGER NOT NULL)".encode())
    connection.execute(f"INSERT INTO {SCHEMA}.format VALUES (0)".encode())
