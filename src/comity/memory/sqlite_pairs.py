"""Findings on pairs of rules, and the decisions on them, in the SQLite book of record."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from comity.memory.pair_rows import (
    DECISION_COLUMNS,
    no_pair,
    pair_decision_row,
    pair_row,
    read_pair,
    read_pair_decision,
)
from comity.memory.pairs import JudgedPair, PairDecision, Verdict

if TYPE_CHECKING:
    import apsw

Access = Callable[[], AbstractContextManager["apsw.Connection"]]

# A finding that failed gives way to any later one; what an owner decided on gives way to none.
_KEEP = """
INSERT INTO judged_pair (tenant, id, one, other, verdict, record) VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT (tenant, id) DO UPDATE SET verdict = excluded.verdict, record = excluded.record
WHERE decided = '' AND (? OR verdict = 'failed')
"""
_FOUND = "SELECT record, decided FROM judged_pair WHERE tenant = ?"


class SqlitePairs:
    """A `PairBook` in the tables `judged_pair` and `pair_decision`."""

    def __init__(self, reading: Access, writing: Access) -> None:
        """`reading` gives a connection, `writing` one in a transaction of its own."""
        self._reading, self._writing = reading, writing

    def keep(self, tenant: str, judged: JudgedPair, *, again: bool = False) -> None:
        """As in `PairBook`."""
        with self._writing() as connection:
            connection.execute(_KEEP, (*pair_row(tenant, judged), again))

    def judged(self, tenant: str, ids: Sequence[str]) -> list[JudgedPair]:
        """As in `PairBook`."""
        among = "AND id IN (SELECT value FROM json_each(?))"
        values = (tenant, json.dumps(list(ids)))
        return self._found(f"{_FOUND} {among} ORDER BY one, other, id", values)

    def found(self, tenant: str, verdict: Verdict) -> list[JudgedPair]:
        """As in `PairBook`."""
        query = f"{_FOUND} AND verdict = ? ORDER BY one, other, id"
        return self._found(query, (tenant, verdict))

    def suspicions(self, tenant: str, rules: Sequence[str]) -> list[JudgedPair]:
        """As in `PairBook`."""
        named = json.dumps(list(rules))
        return self._found(
            f"{_FOUND} AND verdict = 'contradict' AND decided <> 'dismissed' "
            "AND one IN (SELECT value FROM json_each(?)) "
            "AND +other IN (SELECT value FROM json_each(?)) ORDER BY one, other, id",
            (tenant, named, named),
        )

    def _found(self, query: str, values: tuple[Any, ...]) -> list[JudgedPair]:
        with self._reading() as connection:
            rows: list[tuple[Any, ...]] = connection.execute(query, values).fetchall()
        return [read_pair(record, decided) for record, decided in rows]

    def decide(self, tenant: str, decision: PairDecision) -> None:
        """As in `PairBook`."""
        with self._writing() as connection:
            connection.execute(
                "UPDATE judged_pair SET decided = ? WHERE tenant = ? AND id = ?",
                (decision.decided, tenant, decision.pair),
            )
            if not connection.changes():
                raise no_pair(decision.pair)
            connection.execute(
                f"INSERT INTO pair_decision ({DECISION_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                pair_decision_row(tenant, decision),
            )

    def decisions(self, tenant: str, pair: str) -> list[PairDecision]:
        """As in `PairBook`."""
        with self._reading() as connection:
            rows: list[tuple[Any, ...]] = connection.execute(
                f"SELECT {DECISION_COLUMNS} FROM pair_decision "
                "WHERE tenant = ? AND pair = ? ORDER BY number",
                (tenant, pair),
            ).fetchall()
        return [read_pair_decision(row) for row in rows]
