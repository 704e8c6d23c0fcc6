"""Answers that have begun to leave and have no record yet, in the SQLite book of record."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import datetime
from typing import TYPE_CHECKING, Any

from comity.memory.entries import begun_row, read_begun
from comity.memory.store import to_micros
from comity.records import Decision

if TYPE_CHECKING:
    import apsw

Access = Callable[[], AbstractContextManager["apsw.Connection"]]


class SqliteBegun:
    """A `BegunBook` in the table `begun`; a decision's own record takes its note away."""

    def __init__(self, reading: Access, writing: Access) -> None:
        """`reading` gives a connection, `writing` one in a transaction of its own."""
        self._reading, self._writing = reading, writing

    def note(self, decision: Decision) -> None:
        """As in `BegunBook`."""
        with self._writing() as connection:
            connection.execute("INSERT INTO begun VALUES (?, ?, ?, ?)", begun_row(decision))

    def drop(self, tenant: str, decision_id: str) -> None:
        """As in `BegunBook`."""
        with self._writing() as connection:
            connection.execute(
                "DELETE FROM begun WHERE tenant = ? AND id = ?", (tenant, decision_id)
            )

    def left(self, before: datetime) -> list[Decision]:
        """As in `BegunBook`."""
        with self._reading() as connection:
            rows: list[tuple[Any, ...]] = connection.execute(
                "SELECT record FROM begun WHERE made_at < ? ORDER BY made_at, id",
                (to_micros(before),),
            ).fetchall()
        return [read_begun(record) for (record,) in rows]
