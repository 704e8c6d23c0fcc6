"""Transactions of a PostgreSQL book of record, each in the name of one tenant.

Row-level security shows a transaction the rows of the tenant that it names and no others. The name
is the transaction's alone (`SET LOCAL`), so a connection never carries it to its next user.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, NamedTuple

from comity.errors import StoreError
from comity.memory.postgres_connections import LONG_SECONDS, Connections, driver

if TYPE_CHECKING:
    from comity.memory.postgres_connections import Connection

Row = tuple[Any, ...]
Values = tuple[Any, ...] | dict[str, Any]

_NAME = "SELECT set_config('comity.tenant', %s, true), set_config('comity.every_tenant', %s, true)"
_SETTLE_SECONDS = 5.0


class Statement(NamedTuple):
    """SQL with places for its values."""

    sql: str
    values: Values = ()


class Writing:
    """A transaction that writes."""

    def __init__(self, connection: Connection, tenant: str) -> None:
        self.connection = connection
        self.tenant = tenant
        """In whose name it goes on."""
        self.first: list[list[Row]] = []
        """What the statements that it began with have given."""
        self.proof: Statement | None = None
        """A query that gives a row once this transaction is committed, and never otherwise.

        It is asked in the name of `tenant`.
        """

    def go_on_for(self, tenant: str) -> None:
        """Go on in the name of another tenant."""
        _name(self.connection, tenant)
        self.tenant = tenant

    def rows(self, sql: str, values: Values = ()) -> list[Row]:
        """What a query gives."""
        return self.connection.execute(sql.encode(), values).fetchall()

    def run(self, *statements: Statement) -> list[int]:
        """Run statements; how many rows each changed."""
        return [
            self.connection.execute(each.sql.encode(), each.values).rowcount for each in statements
        ]


class Transactions:
    """Reads and writes of one database. Every method raises `StoreError`."""

    def __init__(self, connections: Connections) -> None:
        self.connections = connections

    def read(
        self, tenant: str | None, sql: str, values: Values = (), within: float = LONG_SECONDS
    ) -> list[Row]:
        """What a query gives in the name of a tenant, or of every tenant for None.

        All of the transaction is one journey to the server, which is given up where it stands
        still for `within` seconds.
        """
        with self.connections.one(within) as connection:
            with connection.pipeline():
                connection.execute("BEGIN READ ONLY")
                _name(connection, tenant)
                found = connection.execute(sql.encode(), values)
                connection.execute("COMMIT")
            return found.fetchall()

    def plain(self, sql: str, values: Values = ()) -> list[Row]:
        """What a short query gives of tables that no tenant owns."""
        with self.connections.one(self.connections.short_seconds) as connection:
            return connection.execute(sql.encode(), values).fetchall()

    @contextmanager
    def writing(
        self, tenant: str, *first: Statement, within: float = LONG_SECONDS
    ) -> Iterator[Writing]:
        """A transaction that is committed when the block ends, and taken back if it fails.

        A server that stands still is given up after `within` seconds, as in `read`.
        It begins with some statements. Where the connection breaks off at the commit, the server
        is asked what became of it.
        """
        with self.connections.one(within) as connection:
            with connection.pipeline():
                connection.execute("BEGIN")
                number = connection.execute("SELECT pg_current_xact_id()::text")
                _name(connection, tenant)
            writing = Writing(connection, tenant)
            try:
                # No pipeline where a lock may be held: psycopg ends one with a word (Flush) at
                # which the server stops to time how long the transaction stands still.
                writing.first = [writing.rows(*each) for each in first]
                yield writing
            except BaseException:
                _take_back(connection)
                raise
            (transaction,) = number.fetchone() or ("",)
            self._commit(writing, str(transaction))

    def _commit(self, writing: Writing, transaction: str) -> None:
        try:
            ended = writing.connection.execute("COMMIT").statusmessage
        except driver().OperationalError:
            if not writing.connection.closed or not self._committed(writing, transaction):
                raise
            return
        if ended != "COMMIT":  # a statement had failed, and its error was passed over
            raise StoreError(f"{self.connections.shown} has taken a change back: repeat it")

    def _committed(self, writing: Writing, transaction: str) -> bool:
        """Whether a transaction was committed whose connection broke off meanwhile.

        Once it has ended its proof tells: after a crash of the server its number can be another's.
        """
        until = time.monotonic() + _SETTLE_SECONDS
        while writing.proof and time.monotonic() < until:
            with suppress(StoreError):
                if self._has_ended(transaction):
                    return bool(self.read(writing.tenant, *writing.proof))
            time.sleep(0.1)
        raise StoreError(
            f"{self.connections.shown} was lost while a change was committed, and it is not known "
            "whether it was made: look before you repeat it"
        )

    def _has_ended(self, transaction: str) -> bool:
        last, status = "pg_snapshot_xmax(pg_current_snapshot())", "pg_xact_status(%(it)s::xid8)"
        known = f"CASE WHEN %(it)s::xid8 < {last} THEN {status} END"
        return self.plain(f"SELECT {known}", {"it": transaction}) != [("in progress",)]


def _name(connection: Connection, tenant: str | None) -> None:
    # an empty name is nobody's, and never everybody's
    connection.execute(_NAME, ("", "on") if tenant is None else (tenant, ""))


def _take_back(connection: Connection) -> None:
    """Roll back; a connection on which that fails is not used again."""
    with suppress(driver().Error):
        connection.execute("ROLLBACK")
