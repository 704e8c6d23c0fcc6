"""A PostgreSQL book of record read as it is at one moment, and an empty one filled.

Who reads may be the role of the gateways: row-level security shows it one tenant after the other,
and the names of tenants stand in a table that it can read whole. Who fills owns the tables: their
triggers, which count every row, stand still meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING, Any

from comity.errors import NotFound
from comity.memory.backup_tables import TABLES, Row, Table, selecting
from comity.memory.new_file import TargetTaken
from comity.memory.postgres import PostgresStore
from comity.memory.postgres_connections import Connections, shown
from comity.memory.postgres_format import is_there
from comity.memory.postgres_tables import SCHEMA

if TYPE_CHECKING:
    from comity.memory.postgres_connections import Connection

_ROWS_AT_ONCE = 5_000
_PATIENCE = """
SET LOCAL statement_timeout = 0;
SET LOCAL lock_timeout = '60s';
SET LOCAL idle_in_transaction_session_timeout = 0;
"""
_NUMBERS = {
    "number",
    "made_at",
    "revision",
    "row",
    "version",
    "valid_from",
    "valid_to",
    "mandatory",
}
_NUMBERS |= {"entry", "revoked_at", "drawer", "winner_version"}
_TENANTS = f"SELECT name FROM {SCHEMA}.tenant"
_NOTE_TENANT = f"INSERT INTO {SCHEMA}.tenant VALUES (%s) ON CONFLICT DO NOTHING"
_ANYTHING = " UNION ALL ".join(
    f"SELECT 1 FROM {SCHEMA}.{table}" for table in ("revision", "tenant", "access_key", "begun")
)


class PostgresCopy:
    """A `Source`, and a `Target` where its transaction may write."""

    def __init__(self, connections: Connections, connection: Connection) -> None:
        self._connections, self._connection = connections, connection
        self._last: dict[str, int] = {}
        self.tables = TABLES

    @property
    def format(self) -> int:
        """As in `Source`."""
        return int(self._one(f"SELECT version FROM {SCHEMA}.format"))

    def _one(self, query: str, values: Row = ()) -> Any:
        with self._connections.translated():
            row = self._connection.execute(query.encode(), values).fetchone()
        return row[0] if row else 0

    def rows(self, table: Table) -> Iterator[Row]:
        """As in `Source`."""
        query = selecting(table, f"{SCHEMA}.", "%s")
        if not table.by_tenant:
            yield from self._streamed("", query)
            return
        for (tenant,) in sorted(self._streamed("", _TENANTS)):
            yield from self._streamed(tenant, query, (tenant,))

    def _streamed(self, tenant: str, query: str, values: Row = ()) -> Iterator[Row]:
        """Rows in the name of a tenant; of tables that all may read those of every tenant."""
        with self._connections.translated():
            self._name(tenant)
            with self._connection.cursor(name="comity_backup") as cursor:
                cursor.itersize = _ROWS_AT_ONCE
                cursor.execute(query.encode(), values)
                yield from cursor

    def _name(self, tenant: str) -> None:
        self._connection.execute(
            "SELECT set_config('comity.tenant', %s, true), "
            "set_config('comity.every_tenant', 'on', true)",
            (tenant,),
        )

    def insert(self, table: Table, rows: Iterable[Row]) -> None:
        """As in `Target`."""
        whose = table.columns.index("tenant") if "tenant" in table.columns else None
        following = iter(rows)
        while batch := list(islice(following, _ROWS_AT_ONCE)):
            for tenant in sorted({row[whose] for row in batch}) if whose is not None else [""]:
                chosen = batch if whose is None else [r for r in batch if r[whose] == tenant]
                self._insert(table, tenant, chosen)
            if table.columns[0] in ("number", "row"):
                last = max(row[0] for row in batch)
                self._last[table.name] = max(last, self._last.get(table.name, 0))

    def _insert(self, table: Table, tenant: str, rows: Sequence[Row]) -> None:
        columns = ", ".join(f'"{name}"' for name in table.columns)
        arrays = ", ".join(f"%s::{_type(table, name)}[]" for name in table.columns)
        query = f"INSERT INTO {SCHEMA}.{table.name} ({columns}) SELECT * FROM unnest({arrays})"
        with self._connections.translated():
            self._name(tenant)
            values = [list(column) for column in zip(*rows, strict=True)]
            self._connection.execute(query.encode(), values)
            if table.by_tenant and tenant:  # as the triggers do, which stand still
                self._connection.execute(_NOTE_TENANT.encode(), (tenant,))

    def begin_filling(self) -> None:
        """Lock and empty what is made with the tables. Raises `TargetTaken`."""
        with self._connections.translated():
            # as writers do: this first, and the tables then
            self._one(f"SELECT 1 FROM {SCHEMA}.latest FOR UPDATE")
            self._triggers("DISABLE")
            self._name("")
            if self._one(f"{_ANYTHING} LIMIT 1"):
                raise TargetTaken(
                    f"{self._connections.shown} holds a memory already, and nothing is ever "
                    "overwritten: name an empty database"
                )
            for table in ("identity", "person_key"):
                self._connection.execute(f"DELETE FROM {SCHEMA}.{table}".encode())

    def end_filling(self, identity: str) -> None:
        """Let numbers go on where they stand, and put an identity in; "" leaves it."""
        with self._connections.translated():
            self._connection.execute(
                f'UPDATE {SCHEMA}.latest SET revision = %s, "row" = %s'.encode(),
                (self._last.get("revision", 0), self._last.get("rule", 0)),
            )
            for table in ("decision", "pair_decision", "preference"):
                if last := self._last.get(table):
                    sequence = f"pg_get_serial_sequence('{SCHEMA}.{table}', 'number')"
                    self._one(f"SELECT setval({sequence}, %s)", (last,))
            if identity:
                self._connection.execute(
                    f"UPDATE {SCHEMA}.identity SET value = %s".encode(), (identity,)
                )
            self._triggers("ENABLE")

    def commit(self) -> None:
        """Make everything that was put in durable, and visible to all."""
        with self._connections.translated():
            self._connection.execute("COMMIT")

    def _triggers(self, verb: str) -> None:
        for table in self.tables:
            statement = f"ALTER TABLE {SCHEMA}.{table.name} {verb} TRIGGER USER"
            self._connection.execute(statement.encode())


def _type(table: Table, column: str) -> str:
    if table.binary:
        return "bytea"
    return "bigint" if column in _NUMBERS else "text"


@contextmanager
def _connected(url: str, begin: str) -> Iterator[PostgresCopy]:
    """The book in a transaction on a connection of its own, taken back unless it is committed."""
    PostgresStore(url).close()  # it has today's tables now, or is refused
    connections = Connections(url)
    try:
        connection = connections.connect()
        try:
            with connections.translated():
                connection.execute(begin.encode())
                connection.execute(_PATIENCE)
            yield PostgresCopy(connections, connection)
        finally:
            connection.close()
    finally:
        connections.close()


@contextmanager
def reading_postgres(url: str) -> Iterator[PostgresCopy]:
    """A memory's book as it is now, while others write it. Raises `NotFound` and `StoreError`."""
    if not is_there(url):
        raise NotFound(f"there is no memory at {shown(url)}")
    with _connected(url, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY") as copy:
        yield copy


@contextmanager
def filling_postgres(url: str, *, identity: str = "") -> Iterator[PostgresCopy]:
    """An empty book, to be filled; committed when the block ends, and until then nobody's.

    It gets another identity than the one it is filled with if `identity` names one. Raises
    `TargetTaken` for one that holds anything, and `StoreError` for a role that does not own it.
    """
    with _connected(url, "BEGIN") as copy:
        copy.begin_filling()
        yield copy
        copy.end_filling(identity)
        copy.commit()
