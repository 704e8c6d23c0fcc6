"""Answers that have begun to leave and have no record yet, in the PostgreSQL book of record."""

from __future__ import annotations

from datetime import datetime

from comity.memory.entries import begun_row, read_begun
from comity.memory.postgres_transactions import Statement, Transactions
from comity.memory.store import to_micros
from comity.records import Decision


class PostgresBegun:
    """A `BegunBook` in the table `begun`; a decision's own record takes its note away."""

    def __init__(self, transactions: Transactions) -> None:
        self._transactions = transactions

    def note(self, decision: Decision) -> None:
        """As in `BegunBook`."""
        noted = Statement("INSERT INTO comity.begun VALUES (%s, %s, %s, %s)", begun_row(decision))
        with self._transactions.writing(decision.tenant) as writing:
            writing.run(noted)

    def drop(self, tenant: str, decision_id: str) -> None:
        """As in `BegunBook`."""
        gone = "DELETE FROM comity.begun WHERE tenant = %s AND id = %s"
        with self._transactions.writing(tenant) as writing:
            writing.run(Statement(gone, (tenant, decision_id)))

    def left(self, before: datetime) -> list[Decision]:
        """As in `BegunBook`."""
        rows = self._transactions.read(
            None,
            "SELECT record FROM comity.begun WHERE made_at < %s ORDER BY made_at, id",
            (to_micros(before),),
        )
        return [read_begun(record) for (record,) in rows]
